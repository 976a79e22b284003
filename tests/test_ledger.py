"""The ledger adds up: every record that came in has exactly one end."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from medcot.errors import MedcotError
from medcot.ledger import SCHEMA, Event, check_complete, check_counts, check_stage, events_frame, join_parts, read_frame, write_ledger
from medcot.ledger_writer import ledger_writer


def read(record_id: str, row: int) -> Event:
    return Event(record_id, "download", "read", "source", source="样本", source_row=row)


def story() -> list[pl.DataFrame]:
    return [
        events_frame([read("b", 0), read("a", 1)]),
        events_frame([Event("b", "normalize", "changed", "width"), Event("b", "normalize", "changed", "space")]),
        events_frame([Event("b", "dedup", "removed", "exact_copy", related_id="a", similarity=1.0)]),
        events_frame([Event("a", "convert", "kept", "kept", split="train", num_tokens=7)]),
    ]


def test_the_joined_ledger_is_sorted_and_numbered_through_all_stages() -> None:
    frame = join_parts(story())
    assert frame.schema == pl.Schema(SCHEMA)
    assert frame.select("id", "seq", "action").rows() == [
        ("a", 0, "read"),
        ("a", 1, "kept"),
        ("b", 0, "read"),
        ("b", 1, "changed"),
        ("b", 2, "changed"),
        ("b", 3, "removed"),
    ]
    assert frame["rule"].to_list()[3:5] == ["width", "space"]


def test_every_event_says_where_its_record_came_from() -> None:
    frame = join_parts(story())
    assert frame.filter(pl.col("id") == "b")["source_row"].to_list() == [0, 0, 0, 0]
    assert set(frame["source"]) == {"样本"}


def test_parts_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    parts = story()
    write_ledger(tmp_path / "a", join_parts(parts))
    write_ledger(tmp_path / "b", join_parts(parts[::-1]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_complete_ledger_passes_and_a_lost_or_doubled_end_is_named() -> None:
    check_complete(join_parts(story()))
    with pytest.raises(MedcotError, match="1 records do not have exactly one terminal event, got a;"):
        check_complete(join_parts(story()[:3]))
    doubled = [*story(), events_frame([Event("b", "convert", "refused", "too_long")])]
    with pytest.raises(MedcotError, match="got b;"):
        check_complete(join_parts(doubled))


def test_an_end_without_a_beginning_and_a_record_read_twice_are_noticed() -> None:
    invented = [*story(), events_frame([Event("c", "convert", "kept", "kept")])]
    with pytest.raises(MedcotError, match="2 records were read but 3 ended"):
        check_complete(join_parts(invented))
    twice = [*story(), events_frame([read("a", 5)])]
    with pytest.raises(MedcotError, match="3 records were read but 2 ended"):
        check_complete(join_parts(twice))


def test_a_stage_that_loses_doubles_or_invents_a_record_is_named() -> None:
    check_stage("dedup", ["a", "b"], ["a"], ["b"])
    for out, ended in ((["a"], []), (["a", "b"], ["b"]), (["a", "b", "c"], [])):
        with pytest.raises(MedcotError, match="ledger: dedup: 1 records are lost or counted twice"):
            check_stage("dedup", ["a", "b"], out, ended)


def test_no_events_make_an_empty_part_with_the_schema() -> None:
    assert events_frame([]).schema == pl.Schema(SCHEMA)
    check_complete(join_parts([events_frame([])]))


def test_a_stage_that_holds_no_records_is_checked_by_its_counts() -> None:
    check_counts("normalize", 5, 3, 2)
    with pytest.raises(MedcotError, match="ledger: normalize: 5 records came in, 3 went on and 1 ended; report this as a bug"):
        check_counts("normalize", 5, 3, 1)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_part_written_in_batches_reads_like_one_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("medcot.ledger_writer.EVENTS_AT_ONCE", size)
    stories = [[Event(i, "normalize", "changed", rule, "问") for rule in "xy"] + [Event(i, "normalize", "refused", "z")] for i in "abc"]
    with ledger_writer(tmp_path / "part") as writer:
        for events in [*stories, []]:
            writer.add(events)
    whole = events_frame(event for events in stories for event in events)
    assert read_frame(tmp_path / "part", list(SCHEMA), "normalize").equals(whole)
    assert writer.num_ended == 3


def test_a_part_without_events_has_the_schema(tmp_path: Path) -> None:
    with ledger_writer(tmp_path / "part"):
        pass
    assert join_parts([read_frame(tmp_path / "part", list(SCHEMA), "normalize")]).schema == pl.Schema(SCHEMA)
