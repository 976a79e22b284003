"""Caps and balance: counts hold, the seed chooses, order and added rows do not, and a curator's rows stay."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from medcot.records import Record
from medcot.selection import SelectionParams, class_limits, select

CLASSES = ("内科", "外科", "paediatrics")


def record(i: int, source: str = "a", category: str | None = None, decision: str | None = None) -> Record:
    return Record(f"{i:016x}", source, f"问 {i}", "想", "答", category, decision)


def records(**counts: int) -> list[Record]:
    """So many rows of each class, in turn."""
    groups = [category for category, count in counts.items() for _ in range(count)]
    return [record(i, category=category) for i, category in enumerate(groups)]


def params(cap: int = 0, ratio: float = 0.0) -> SelectionParams:
    return SelectionParams(max_per_source=cap, max_class_ratio=ratio)


def left(rows: list[Record], chosen: SelectionParams, seed: int = 42) -> list[Record]:
    gone = {event.id for event in select(rows, chosen, seed)}
    return [row for row in rows if row.id not in gone]


def test_by_default_nothing_is_removed() -> None:
    assert select(records(内科=9, 外科=1), SelectionParams(), 42) == []


def test_a_cap_holds_for_each_source_alone_and_the_events_say_so() -> None:
    rows = [record(i, source) for i, source in enumerate("aaaaabbc" * 5)]
    events = select(rows, params(cap=10), 42)
    assert Counter(row.source for row in left(rows, params(cap=10))) == {"a": 10, "b": 10, "c": 5}
    assert {(event.stage, event.action, event.rule) for event in events} == {("convert", "removed", "source_cap")}
    assert {event.detail for event in events} == {"source a: at most 10 rows of train"}
    assert [event.id for event in events] == sorted(event.id for event in events)


@pytest.mark.parametrize(("ratio", "limit"), [(1.2, 6), (1.0, 5), (0.5, 5), (1.39, 6), (1.4, 7), (99.0, 40)])
def test_no_class_has_more_than_the_ratio_times_the_smallest(ratio: float, limit: int) -> None:
    rows = records(内科=40, 外科=5, paediatrics=20)
    counts = Counter(row.category for row in left(rows, params(ratio=ratio)))
    assert counts == {"内科": min(40, limit), "外科": 5, "paediatrics": min(20, limit)}


def test_rows_without_a_class_all_stay_and_one_class_alone_is_not_thinned() -> None:
    rows = [*records(内科=8, 外科=2), *(record(100 + i) for i in range(30))]
    assert Counter(row.category for row in left(rows, params(ratio=1.0))) == {None: 30, "内科": 2, "外科": 2}
    assert left(records(内科=8), params(ratio=1.0)) == records(内科=8)
    assert class_limits([record(1)], 1.2) == {}


def test_balance_counts_what_the_caps_have_left() -> None:
    rows = [record(i, "big", "内科") for i in range(20)] + [record(100 + i, "small", "外科") for i in range(12)]
    events = select(rows, params(cap=10, ratio=1.0), 42)
    assert Counter(event.rule for event in events) == {"source_cap": 12}
    assert Counter(row.category for row in left(rows, params(cap=10, ratio=1.0))) == {"内科": 10, "外科": 10}


@pytest.mark.parametrize("chosen", [params(cap=7), params(ratio=1.2)])
def test_a_decided_row_stays_and_takes_a_place(chosen: SelectionParams) -> None:
    rows = records(内科=30, 外科=6)
    decided = [replace(row, decision="keep" if i % 2 else "edit") if i < 4 else row for i, row in enumerate(rows)]
    kept = left(decided, chosen)
    assert {row.id for row in decided[:4]} <= {row.id for row in kept}
    assert len(kept) == len(left(rows, chosen))
    many = [replace(row, decision="keep") for row in rows]
    assert left(many, chosen) == many


def test_the_order_of_the_rows_changes_nothing_and_the_seed_does() -> None:
    rows = records(内科=40, 外科=5)
    chosen = params(ratio=1.2)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert select(shuffled, chosen, 42) == select(rows, chosen, 42)
    assert {row.id for row in left(rows, chosen, 1)} != {row.id for row in left(rows, chosen, 2)}


def test_added_rows_push_out_only_as_many_as_they_take_places() -> None:
    rows = [record(i) for i in range(60)]
    before, after = ({row.id for row in left(part, params(cap=20))} for part in (rows[:50], rows))
    new = after - before
    assert new <= {row.id for row in rows[50:]}
    assert len(before - after) == len(new)
