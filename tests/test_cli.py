"""The medcot command: counts on any file with the key column, exit codes, and outputs that lose nothing."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT

from medcot import verbs_dedup
from medcot.cli import main
from medcot.key_index import QUESTION, ROW
from medcot.params import read_params
from medcot.records import read_jsonl
from medcot.sources import READERS

ROWS = [
    {"id": "1", "Question": "二期梅毒的主要皮肤表现是？"},
    {"id": "2", "Question": "二期梅毒的主要皮肤表现是"},
    {"id": "3", "Question": "二期梅毒的主要皮肤表现为？"},
    {"id": "4", "Question": "患者男，44岁，反复胸痛两年，最可能的诊断是什么？"},
    {"id": "5", "Question": "患者男，45岁，反复胸痛两年，最可能的诊断是什么？"},
    {"id": "6", "Question": "What does warfarin 5 mg do?"},
    {"id": "7", "Question": "what does Warfarin 5mg do"},
    {"id": "8", "Question": "  "},
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def counts(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    lines = capsys.readouterr().out.splitlines()
    return {line.strip().split("  ", 1)[1].split(" / ")[0]: int(line.split()[0]) for line in lines}


EXPECTED = {"input": 8, "exact copies": 2, "near-duplicates": 1, "conflicts, both kept": 1, "not compared": 1, "kept": 4}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_dedup_counts_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = write(tmp_path / f"questions{suffix}", ROWS)
    before = path.read_bytes()
    assert main(["dedup", str(path), "--key", "question"]) == 0
    assert counts(capsys) == EXPECTED
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_out_holds_every_row_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["dedup", str(write(tmp_path / "q.jsonl", ROWS)), "--out", str(out)]) == 0
    kept, removed, rest = (read_jsonl(out / f"{name}.jsonl") for name in ("kept", "removed", "not_compared"))
    assert sorted(row["id"] for row in [*kept, *(r["row"] for r in removed), *rest]) == [row["id"] for row in ROWS]
    assert [row["id"] for row in kept] == sorted(row["id"] for row in kept)  # in file order
    assert {r["rule"] for r in removed} == {"exact_copy", "near_duplicate"}
    assert all(r["kept"] in kept for r in removed)
    (conflict,) = read_jsonl(out / "conflicts.jsonl")
    assert conflict["differs"] == "number"
    assert {conflict["a"]["id"], conflict["b"]["id"]} == {"4", "5"}


def test_row_order_does_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = []
    for seed in (1, 2):
        path = write(tmp_path / f"{seed}.jsonl", random.Random(seed).sample(ROWS, len(ROWS)))
        main(["dedup", str(path), "--out", str(tmp_path / str(seed))])
        kept.append(sorted(row["id"] for row in read_jsonl(tmp_path / str(seed) / "kept.jsonl")))
    assert kept[0] == kept[1]


def test_row_compares_question_reasoning_and_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"Question": "何为高血压？", "Complex_CoT": "血压持续升高。", "Response": "收缩压≥140 mmHg。"},
        {"Question": "何为高血压", "Complex_CoT": "血压持续升高", "Response": "收缩压≥140mmHg"},
        {"Question": "何为高血压？", "Complex_CoT": "另一种思路。", "Response": "血压长期偏高。"},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    main(["dedup", str(path), "--key", "row"])
    assert counts(capsys)["kept"] == 2
    main(["dedup", str(path), "--key", "question"])
    assert counts(capsys)["kept"] == 1


@pytest.mark.parametrize("key", ["stem", "STEM"])
def test_any_column_can_be_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    path = write(tmp_path / "q.jsonl", [{"stem": row["Question"], "source": "bank"} for row in ROWS])
    assert main(["dedup", str(path), "--key", key]) == 0
    assert counts(capsys) == EXPECTED


def test_a_lower_threshold_finds_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "q.jsonl", ROWS)
    main(["dedup", str(path), "--threshold", "1.0", "--shingle-size", "2"])
    assert counts(capsys)["near-duplicates"] == 0


def test_an_unreadable_row_is_counted_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "q.jsonl", ROWS[:2])
    path.write_text(path.read_text(encoding="utf-8") + '{"Question": broken}\n', encoding="utf-8")
    assert main(["dedup", str(path), "--out", str(tmp_path / "out")]) == 0
    assert counts(capsys)["not compared"] == 1
    assert read_jsonl(tmp_path / "out" / "not_compared.jsonl")[0]["error"] == "invalid_json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl: no such file; give the path of a file"),
        (["q.jsonl", "--key", "answer"], "q.jsonl: --key: no such column, got answer; use one of id, Question"),
        (["q.jsonl", "--key", "row"], "q.jsonl: no mapping has these columns, so that there is no row to compare, got id, Question; name"),
        (["q.jsonl", "--threshold", "3"], "command line: dedup.threshold: input should be less than or equal to 1, got 3.0; "),
        (["q.txt"], "q.txt: not a format that is read, got .txt; use one of .json, .jsonl, .csv, .parquet"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write(in_tmp / "q.jsonl", ROWS)
    write(in_tmp / "q.txt", ROWS)
    assert main(["dedup", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_unwritable_out_is_exit_code_3(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "out").write_text("a file, not a directory", encoding="utf-8")
    assert main(["dedup", str(write(in_tmp / "q.jsonl", ROWS)), "--out", "out"]) == 3
    assert capsys.readouterr().err.startswith("error: out")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["dedup"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_help_is_bilingual(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["dedup", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "near-duplicates" in text
    assert "重复" in text


def test_help_names_every_format_that_is_read_and_loads_no_data_library() -> None:
    assert verbs_dedup.FORMATS.split() == list(READERS)
    heavy = "('numpy', 'polars', 'scipy', 'torch', 'pydantic')"
    code = f"import sys, medcot.cli; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_s_defaults_are_those_of_the_pipeline() -> None:
    section = read_params(Path(__file__).resolve().parent.parent / "params.yaml")["dedup"]
    assert section["question"] == QUESTION.model_dump()
    assert section["row"] == ROW.model_dump()


@pytest.mark.real_data
def test_the_real_questions_hold_289_copies(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dedup", str(real_data / "medical_o1_zh_questions.jsonl"), "--key", "question"]) == 0
    found = counts(capsys)
    assert (found["input"], found["exact copies"], found["kept"]) == (3000, 289, 2710)


def test_the_input_is_never_overwritten(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(in_tmp / "kept.jsonl", ROWS)
    before = path.read_bytes()
    assert main(["dedup", str(path), "--out", "."]) == 2
    assert "the input itself would be overwritten" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("verb", [["dedup", "q.jsonl"], ["sweep", "recipes/sweeps/eight_versions.yaml", "--dry-run"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_ends_it_quietly(in_tmp: Path, verb: list[str], unbuffered: str) -> None:
    """As under `| head`: no traceback, and the exit code of a program that SIGPIPE ended."""
    write(in_tmp / "q.jsonl", ROWS)
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    cwd = ROOT if verb[0] == "sweep" else in_tmp
    done = subprocess.run([sys.executable, "-m", "medcot.cli", *verb], cwd=cwd, env=environment, stdout=writer, stderr=-1, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_bug_is_exit_code_4_with_its_traceback(monkeypatch: pytest.MonkeyPatch, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("medcot.dedup_file.deduplicate", lambda *args, **options: 1 // 0)
    assert main(["dedup", str(write(in_tmp / "q.jsonl", ROWS))]) == 4
    assert "ZeroDivisionError" in capsys.readouterr().err
