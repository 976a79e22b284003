"""Histograms for `dvc plots`: fixed bins, so that two runs can be laid side by side, and a column of counts for each kind of row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

SIMILARITY_EDGES = np.arange(21) / 20
# Lengths spread over orders of magnitude: eight bins, equally wide on a logarithmic axis, to each doubling.
LENGTH_EDGES = np.unique(np.round(2 ** (np.arange(8 * 24 + 1) / 8)).astype(np.int64))
VERDICTS = ("below", "duplicate", "conflict", "similar")  # below the threshold nothing is decided
LEFT_OUT = "left_out"


def similarities(pairs: pl.DataFrame, below: Mapping[str, Sequence[float]], thresholds: Mapping[str, float]) -> pl.DataFrame:
    """Count dedup's pairs by exact Jaccard in steps of 0.05, for each key: key, from, to, a count for each verdict, and the threshold.

    pairs       columns key, jaccard in [0, 1], verdict
    below       by key, the similarities of pairs below the threshold, which were found on the way and not decided
    thresholds  by key, for the line that the plot draws there
    """
    columns = ["key", "jaccard", "verdict"]
    near_misses = [(key, value, "below") for key, values in below.items() for value in values]
    found = pl.concat([pairs.select(columns), pl.DataFrame(near_misses, schema=pairs.select(columns).schema, orient="row")])
    counted = _count(found, "jaccard", SIMILARITY_EDGES, ["key"], "verdict", VERDICTS)
    return counted.with_columns(threshold=pl.col("key").replace_strict(dict(thresholds), return_dtype=pl.Float64))


def lengths(events: pl.DataFrame) -> pl.DataFrame:
    """Count convert's records by length in tokens: from, to, and a count for each split and for those left out.

    events  convert's part of the ledger: columns num_tokens, split (null where the record was left out)
    """
    placed = events.with_columns(pl.col("split").fill_null(LEFT_OUT))
    return _count(placed, "num_tokens", LENGTH_EDGES, [], "split", ("train", "val", "test", LEFT_OUT))


def _count(frame: pl.DataFrame, column: str, edges: np.ndarray[Any, Any], by: list[str], kind: str, kinds: Sequence[str]) -> pl.DataFrame:
    """Count rows by bin [from, to), the last one closed; bins without a row are left out."""
    place = np.clip(np.searchsorted(edges, frame[column].to_numpy(), side="right") - 1, 0, len(edges) - 2)
    binned = frame.with_columns(pl.Series("from", edges[place]), pl.Series("to", edges[place + 1]))
    bins = [*by, "from", "to"]
    return binned.group_by(bins).agg((pl.col(kind) == name).sum().alias(name) for name in kinds).sort(bins)
