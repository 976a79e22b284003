"""Identity and files of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcot.errors import DataError
from medcot.records import (
    RawRecord,
    Record,
    assign_ids,
    canonical,
    is_public,
    iter_records,
    read_raw_records,
    read_records,
    seeded_order,
    short_hash,
    write_records,
    write_source,
)


def record(record_id: str, question: str = "问？") -> Record:
    return Record(record_id, "s", question, "想", "答")


def test_equal_rows_have_equal_canonical_text_whatever_the_order_of_their_keys() -> None:
    assert canonical({"b": 1, "a": "答"}) == canonical({"a": "答", "b": 1}) == '{"a":"答","b":1}'


def test_ids_are_the_hash_and_copies_are_numbered() -> None:
    assert assign_ids(["x", "y", "x", "x"]) == ["x", "y", "x-1", "x-2"]
    assert len(short_hash("咳嗽 cough")) == 16


def test_a_lone_surrogate_still_has_a_hash() -> None:
    assert short_hash("\ud800") != short_hash("\ud801")


def test_the_seeded_order_of_a_row_does_not_depend_on_the_others() -> None:
    ids = [f"{i:016x}" for i in range(50)]
    ranked = sorted(ids, key=lambda i: seeded_order(i, 1))
    assert ranked != ids
    assert sorted([*ids, "zz"], key=lambda i: seeded_order(i, 1))[0] in (ranked[0], "zz")
    assert sorted(ids, key=lambda i: seeded_order(i, 2)) != ranked


def test_records_come_back_sorted_and_equal(tmp_path: Path) -> None:
    records = [record("b", 'line\u2028separator and 引号"'), record("a")]
    write_records(tmp_path, records)
    assert read_records(tmp_path) == [records[1], records[0]]


def test_raw_records_keep_missing_fields_and_wrong_types(tmp_path: Path) -> None:
    raw = [RawRecord("a", "s", question=3), RawRecord("b", "s", error="invalid_json", raw="{")]
    write_records(tmp_path, raw)
    assert read_raw_records(tmp_path) == raw


def test_the_content_hash_changes_with_any_text_and_not_with_the_id() -> None:
    assert record("a").content_hash == record("b").content_hash
    assert record("a").content_hash != record("a", "问！").content_hash
    broken = [RawRecord("a", "s", error="invalid_json", raw=raw) for raw in ('{"Question": "头痛', '{"Question": "cough')]
    assert len({row.content_hash for row in broken}) == 2  # a decision finds an unreadable row by what it holds


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "b", "source": "s", "quest',
        '{"id": "b", "source": "s", "question": "问", "reasoning": "想"}',
        '{"id": "b", "source": "s", "question": "问", "reasoning": "想", "answer": "a", "more": 1}',
        '{"id": "b", "source": "s", "question": "问", "reasoning": "想", "answer": 3}',
        '["问"]',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_with_the_stage_that_writes_it(tmp_path: Path, line: str) -> None:
    for directory, stage in (("normalized", "normalize"), ("dedup", "dedup")):
        (tmp_path / directory).mkdir()
        write_records(tmp_path / directory, [record("a")])
        with (tmp_path / directory / "records.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)
        with pytest.raises(DataError, match=rf"{directory}/records.jsonl: the file is damaged, got .*; run `dvc repro -f {stage}`$"):
            read_records(tmp_path / directory)


@pytest.mark.parametrize(
    "line", [b'{"id": "b", "que', b'{"id": "b", "source": 1}', b'{"id": "b", "source": "s", "x": 1}', b'{"id": "\xe5\x92"}']
)
def test_damaged_raw_records_are_named_too(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/records.jsonl").write_bytes(line)
    with pytest.raises(DataError, match=r"raw/records.jsonl: the file is damaged, got .*; run `dvc repro -f download`$"):
        read_raw_records(tmp_path / "raw")


def test_raw_records_whose_ids_do_not_rise_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for ids in ("aa", "ba"):
        (tmp_path / "raw/records.jsonl").write_text("".join(f'{{"id": "{i}", "source": "s"}}\n' for i in ids), encoding="utf-8")
        with pytest.raises(
            DataError, match=r"raw/records.jsonl: the file is damaged, its ids do not rise, got a; run `dvc repro -f download`$"
        ):
            read_raw_records(tmp_path / "raw")


def test_records_are_yielded_before_the_rest_of_the_file_is_read(tmp_path: Path) -> None:
    write_records(tmp_path, [record("a"), record("b")])
    with (tmp_path / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write("{oops")
    found = iter_records(tmp_path)
    assert [next(found), next(found)] == [record("a"), record("b")]
    with pytest.raises(DataError, match="the file is damaged"):
        next(found)


def test_a_source_is_private_unless_it_says_that_it_is_public(tmp_path: Path) -> None:
    assert not is_public(tmp_path)
    for public in (True, False):
        write_source(tmp_path, "hub", public)
        assert is_public(tmp_path) is public
    for text in ("{oops", "[]", "{}", '{"public": "yes"}'):
        (tmp_path / "source.json").write_text(text, encoding="utf-8")
        if text.endswith('"yes"}'):
            assert not is_public(tmp_path)
        else:
            with pytest.raises(DataError, match=r"source.json: the file is damaged, got .*; run `dvc repro -f "):
                is_public(tmp_path)
