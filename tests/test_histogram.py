"""Histograms: every value in exactly one bin, bins that never move, counts that add up."""

from __future__ import annotations

import random
from fractions import Fraction

import polars as pl
import pytest

from medcot.histogram import LEFT_OUT, LENGTH_EDGES, VERDICTS, lengths, similarities

PAIRS = pl.DataFrame(
    [
        ("question", 0.5, "duplicate"),
        ("question", 0.5499, "conflict"),
        ("question", 0.55, "similar"),
        ("question", 1.0, "duplicate"),
        ("question", 0.97, "duplicate"),
        ("row", 0.97, "conflict"),
    ],
    schema={"key": pl.String, "jaccard": pl.Float64, "verdict": pl.String},
    orient="row",
)


BELOW = {"row": [0.7], "question": []}
THRESHOLDS = {"question": 0.5, "row": 0.8}


def events(rows: list[tuple[int, str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"num_tokens": pl.Int64, "split": pl.String}, orient="row")


def test_pairs_are_counted_by_key_bin_and_verdict() -> None:
    table = similarities(PAIRS, BELOW, THRESHOLDS)
    assert table.columns == ["key", "from", "to", "below", "duplicate", "conflict", "similar", "threshold"]
    assert table.rows() == [
        ("question", 0.5, 0.55, 0, 1, 1, 0, 0.5),
        ("question", 0.55, 0.6, 0, 0, 0, 1, 0.5),
        ("question", 0.95, 1.0, 0, 2, 0, 0, 0.5),  # equal texts close the last bin
        ("row", 0.7, 0.75, 1, 0, 0, 0, 0.8),
        ("row", 0.95, 1.0, 0, 0, 1, 0, 0.8),
    ]


@pytest.mark.parametrize("k", range(20))
def test_a_jaccard_on_an_edge_opens_its_bin(k: int) -> None:
    """A Jaccard is a quotient of two counts: 11/20 and 22/40 are the edge itself, whatever the rounding of 0.05 * 11."""
    for factor in (1, 3, 7):
        jaccard = (k * factor) / (20 * factor)
        table = similarities(pl.DataFrame({"key": ["row"], "jaccard": [jaccard], "verdict": ["similar"]}), {}, THRESHOLDS)
        assert table.select("from", "to").row(0) == (float(Fraction(k, 20)), float(Fraction(k + 1, 20)))


def test_the_counts_add_up_and_no_order_of_the_rows_matters() -> None:
    rows = [(key, random.Random(i).random(), VERDICTS[1 + i % 3]) for i, key in enumerate(["row", "question"] * 200)]
    pairs = pl.DataFrame(rows, schema=PAIRS.schema, orient="row")
    table = similarities(pairs, {}, THRESHOLDS)
    assert table.select(VERDICTS).sum().row(0) == tuple((pairs["verdict"] == name).sum() for name in VERDICTS)
    assert similarities(pairs.sample(fraction=1.0, shuffle=True, seed=4), {}, THRESHOLDS).equals(table)


def test_rows_are_counted_by_length_and_split_with_those_left_out_apart() -> None:
    table = lengths(events([(304, "train"), (331, "val"), (332, "test"), (1024, "train"), (5000, None)]))
    assert table.columns == ["from", "to", "train", "val", "test", LEFT_OUT]
    assert table.rows() == [(304, 332, 1, 1, 0, 0), (332, 362, 0, 0, 1, 0), (1024, 1117, 1, 0, 0, 0), (4871, 5312, 0, 0, 0, 1)]


def test_powers_of_two_are_edges_with_eight_bins_between() -> None:
    edges = LENGTH_EDGES.tolist()
    assert edges == sorted(set(edges))
    for power in range(6, 24):
        between = [edge for edge in edges if 1 << power <= edge < 2 << power]
        assert between == [round(2 ** (power + step / 8)) for step in range(8)]


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 8, 15, 16, 100, 1023, 1024, 131_071, 14_000_000])
def test_every_length_has_its_bin(num_tokens: int) -> None:
    low, high, *counts = lengths(events([(num_tokens, "train")])).row(0)
    assert low <= num_tokens < high
    assert counts == [1, 0, 0, 0]


def test_nothing_gives_a_header_alone() -> None:
    assert similarities(PAIRS.clear(), {}, THRESHOLDS).write_csv() == "key,from,to,below,duplicate,conflict,similar,threshold\n"
    assert lengths(events([])).write_csv() == "from,to,train,val,test,left_out\n"
