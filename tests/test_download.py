"""The download stage: what it reads, writes and refuses, run as a user runs it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from stage_project import PARAMS, ROOT, lines, make_project, row, run_stage

from medcot.errors import DataError
from medcot.ledger import events_frame
from medcot.params import load_section, parse_section
from medcot.records import RawRecord, is_public, read_raw_records
from medcot.sampling import sample
from stages import download
from stages.download import DownloadParams, summarise

SECTION = PARAMS["download"]


def test_rows_become_raw_records_with_ledger_and_metrics(tmp_path: Path) -> None:
    code, stderr = run_stage(make_project(tmp_path, lines(row(1), "{oops", row(2), row(1))), "download")
    assert (code, stderr.splitlines()[0]) == (0, "download: data/import/mine.jsonl: 4 rows read, 4 kept, 1 unreadable, mapping o1")
    records = read_raw_records(tmp_path / "data" / "raw")
    assert [record.id for record in records] == sorted(record.id for record in records)
    assert {record.source for record in records} == {"mine.jsonl"}
    assert [(record.error, record.raw) for record in records if record.error] == [("invalid_json", "{oops")]
    ledger = pl.read_parquet(tmp_path / "data" / "ledger" / "parts" / "download.parquet")
    assert ledger["action"].to_list() == ["read"] * 4
    assert sorted(ledger["source_row"]) == [0, 1, 2, 3]
    hashes = {record.id: record.content_hash for record in records}
    assert dict(zip(ledger["id"], ledger["hash_after"], strict=True)) == hashes
    copies = ledger.filter(pl.col("source_row").is_in([0, 3])).sort("source_row")["id"].to_list()
    assert copies[1] == f"{copies[0]}-1"
    metrics = json.loads((tmp_path / "metrics" / "download.json").read_text())
    assert metrics["num_read"] == metrics["num_kept"] == 4
    assert (metrics["num_unreadable"], metrics["num_invalid_json"], metrics["mapping"]) == (1, 1, "o1")


def test_the_sample_is_read_by_its_own_name(in_tmp: Path) -> None:
    make_project(in_tmp, "", download={"source": "sample"})
    (in_tmp / "data" / "sample").mkdir()
    (in_tmp / "data" / "sample" / "records.jsonl").write_text(lines(row(1)), encoding="utf-8")
    download.main()
    assert [record.source for record in read_raw_records(in_tmp / "data" / "raw")] == ["sample"]


def test_shuffled_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(i % 7, extra="x") for i in range(20)] + ['{"a": NaN}', '{"Question": "残\\ud800"}', "[1, 2]", '{"b": 1, "b": 2}']
    written = []
    for seed in (0, 1):
        random.Random(seed).shuffle(rows)
        directory = make_project(tmp_path / str(seed), lines(*rows), download={"max_samples": 15})
        assert run_stage(directory, "download")[0] == 0
        written.append((directory / "data" / "raw" / "records.jsonl").read_bytes())
        written.append((directory / "metrics" / "download.json").read_bytes())
    assert written[:2] == written[2:]


@pytest.mark.parametrize(
    ("name", "content", "params", "message"),
    [
        ("mine.jsonl", "", {}, "data/import/mine.jsonl: the file has no rows; put at least one record into it"),
        (
            "mine.json",
            '[{"Question": "痛',
            {},
            "data/import/mine.json: row 0, byte 14: invalid JSON: Unterminated string starting at; complete",
        ),
        (
            "mine.json",
            lines(row(1)),
            {"max_sample": 9},
            "params.yaml: download.max_sample: unknown key, got 9; did you mean `max_samples`?",
        ),
        (
            "mine.json",
            lines(row(1)),
            {"file": "../x"},
            "params.yaml: download.file: expected the name of a file in data/import, got ../x; give",
        ),
        (
            "mine.csv",
            "症状,诊断\n痛,炎\n",
            {},
            "data/import/mine.csv: no field mapping fits the columns, got 症状, 诊断; rename the columns to",
        ),
    ],
)
def test_bad_input_is_one_line_exit_2_and_leaves_the_old_output(
    tmp_path: Path, name: str, content: str, params: dict[str, Any], message: str
) -> None:
    directory = make_project(tmp_path, content, name, download=params)
    old = directory / "data" / "raw" / "records.jsonl"
    old.parent.mkdir()
    old.write_text("old 旧", encoding="utf-8")
    code, stderr = run_stage(directory, "download")
    assert code == 2
    assert stderr.startswith(f"error: {message}")
    assert len(stderr.splitlines()) == 1
    assert old.read_text(encoding="utf-8") == "old 旧"
    assert not (directory / "metrics").exists()


def test_a_custom_mapping_reads_other_columns(in_tmp: Path) -> None:
    fields = {"question": "问题", "reasoning": "思考", "answer": "答案"}
    make_project(in_tmp, "问题,思考,答案\n胸痛？,Think.,心电图\n", "mine.csv", download={"fields": fields})
    download.main()
    (record,) = read_raw_records(in_tmp / "data" / "raw")
    assert (record.question, record.reasoning, record.answer) == ("胸痛？", "Think.", "心电图")


def test_optional_columns_give_each_row_its_class_and_its_source(in_tmp: Path) -> None:
    fields = {"question": "问题", "reasoning": "思考", "answer": "答案", "category": "科室", "source": "出处"}
    content = "问题,思考,答案,科室,出处\n胸痛？,Think.,心电图,心内科,exam\n头痛？,Think.,CT,,\n"
    make_project(in_tmp, content, "mine.csv", download={"fields": fields})
    download.main()
    found = {record.question: (record.category, record.source) for record in read_raw_records(in_tmp / "data" / "raw")}
    assert found == {"胸痛？": ("心内科", "exam"), "头痛？": (None, "mine.csv")}
    ledger = pl.read_parquet("data/ledger/parts/download.parquet")
    assert set(ledger["source"]) == {"exam", "mine.csv"}


@pytest.mark.parametrize(("source", "public"), [("file", False), ("sample", True)])
def test_the_raw_records_say_whether_their_source_is_public(in_tmp: Path, source: str, public: bool) -> None:
    make_project(in_tmp, lines(row(1)), download={"source": source})
    (in_tmp / "data" / "sample").mkdir()
    (in_tmp / "data" / "sample" / "records.jsonl").write_text(lines(row(1)), encoding="utf-8")
    download.main()
    said = json.loads(Path("data/raw/source.json").read_text(encoding="utf-8"))
    assert said == {"kind": source, "public": public}
    assert is_public(Path("data/raw")) is public


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_samples": -1}, "params.yaml: download.max_samples: input should be greater than or equal to 0, got -1; Rows to keep"),
        ({"source": "web"}, "params.yaml: download.source: input should be 'sample', 'file' or 'hub', got web; sample: the corpus"),
        ({"fields": {"question": "q", "reasoning": "r"}}, "params.yaml: download.fields.answer: field required"),
        ({"fields": {"question": "q", "reasoning": "r", "answer": "a", "anwser": "b"}}, "params.yaml: download.fields.anwser: unknown key"),
    ],
)
def test_params_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_section("download", {**SECTION, **values}, DownloadParams)
    assert str(caught.value).startswith(message)


def records(count: int) -> list[RawRecord]:
    return [RawRecord(f"{i:04x}", "test", "问", "想", f"答 {i}") for i in range(count)]


def test_a_sample_does_not_depend_on_row_order_and_grows_with_its_size() -> None:
    all_rows = records(50)
    kept = {n: {record.id for record in sample(all_rows, "o1", n, seed=1).kept} for n in (0, 10, 20, 99)}
    assert kept[0] == kept[99] == {record.id for record in all_rows}
    assert len(kept[10]) == 10
    assert kept[10] < kept[20]
    assert {record.id for record in sample(all_rows[::-1], "o1", 10, seed=1).kept} == kept[10]
    assert {record.id for record in sample(all_rows, "o1", 10, seed=2).kept} != kept[10]


def test_rows_that_are_not_sampled_are_removed_in_the_ledger() -> None:
    result = sample(records(5), "o1", 2, seed=1)
    frame = events_frame(result.events)
    removed = frame.filter(pl.col("action") == "removed")
    assert removed["rule"].to_list() == ["max_samples"] * 3
    assert set(removed["id"]) | {record.id for record in result.kept} == {record.id for record in records(5)}
    assert frame.filter(pl.col("action") == "read")["seq"].to_list() == [0] * 5
    metrics = summarise(result, "o1")
    assert (metrics["num_read"], metrics["num_kept"], metrics["num_removed_max_samples"]) == (5, 2, 3)


def test_the_repository_params_are_valid() -> None:
    assert load_section("download", DownloadParams, ROOT / "params.yaml").source == "sample"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "mapping", "count", "think_block"),
    [
        ("medical_o1_zh.json", "o1", 916, 0),
        ("medical_o1_en.json", "o1", 198, 0),
        ("medical_o1_zh_questions.jsonl", "o1", 3000, 0),
        ("alpaca_zh_general.json", "alpaca", 1000, 1000),
        ("gsm8k_test.jsonl", "question_think_answer", 1319, 0),
    ],
)
def test_real_files_are_read_whole(real_data: Path, in_tmp: Path, name: str, mapping: str, count: int, think_block: int) -> None:
    make_project(in_tmp, (real_data / name).read_bytes(), name)
    download.main()
    metrics = json.loads(Path("metrics/download.json").read_text())
    assert (metrics["num_read"], metrics["num_unreadable"], metrics["mapping"]) == (count, 0, mapping)
    assert metrics["num_think_block"] == think_block
