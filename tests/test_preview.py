"""medcot dedup-preview: each column is what the stage would do at that threshold, and nothing is written."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT

from medcot.cli import main
from medcot.dedup_params import DedupParams
from medcot.params import load_section
from medcot.records import Record, short_hash, write_jsonl, write_records
from medcot.stage import run_stage
from stages import dedup as stage

HAN = [chr(point) for point in range(0x5000, 0x5B00)]
WORDS = ["fever", "cough", "renal", "hepatic", "dose", "acute", "pain", "rash", "chronic", "oral", "liver", "heart", "lung", "blood"]


def record(question: str, reasoning: str, answer: str) -> Record:
    return Record(short_hash(question + reasoning + answer), "file", question, reasoning, answer)


def long_text(generator: random.Random) -> str:
    return "".join(generator.choices(HAN, k=300)) + "。"


def reworded(text: str, share: float, generator: random.Random) -> str:
    """A copy with a share of its characters overwritten."""
    return "".join(generator.choice(HAN) if HAN[0] <= char <= HAN[-1] and generator.random() < share else char for char in text)


def corpus() -> list[Record]:
    """Rows whose reasonings or questions come back at every distance, and with other facts, in Chinese and English."""
    generator = random.Random(3)
    rows = []
    for number in range(12):
        if number % 3:
            question = f"患者男，{30 + number}岁，{''.join(generator.choices(HAN, k=30))}，诊断是什么？"
        else:
            question = f"A {30 + number}-year-old man has {' '.join(generator.choices(WORDS, k=12))}; what comes first?"
        base = record(question, long_text(generator), "心绞痛。")
        rows.append(base)
        for share in (0.01, 0.03, 0.06, 0.1):
            rows.append(record(question.replace("，", "、", 1), reworded(base.reasoning, share, generator), base.answer))
            rows.append(record(reworded(question, share, generator), long_text(generator), "另一个答案。"))
        rows += [record(long_text(generator)[:12], reworded(base.reasoning, share, generator), base.answer) for share in (0.01, 0.02, 0.04)]
        rows.append(record(question.replace("0", "9"), base.reasoning, base.answer))
        rows.append(record(question.replace("what comes", "what then comes").replace("什么", "何"), long_text(generator), "Rest."))
    return list({row.id: row for row in rows}.values())


@pytest.fixture
def project(in_tmp: Path) -> Path:
    stage.NORMALIZED.mkdir(parents=True)
    write_records(stage.NORMALIZED, corpus())
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return in_tmp


def columns(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[float, dict[str, int]]:
    """The counts by threshold, as the CSV has them."""
    capsys.readouterr()
    assert main(["dedup-preview", *arguments, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    return {float(row.pop("threshold")): {name: int(value) for name, value in row.items() if name != "current"} for row in rows}


def run_at(key: str, threshold: float) -> dict[str, int]:
    """What the stage itself does at this threshold."""
    params = load_section("dedup", DedupParams)
    text = Path("params.yaml").read_text(encoding="utf-8")
    start = text.index(f"\n  {key}:", text.index("\ndedup:"))
    was = f"threshold: {getattr(params, key).threshold}"
    Path("params.yaml").write_text(text[:start] + text[start:].replace(was, f"threshold: {threshold}", 1), encoding="utf-8")
    assert run_stage("dedup", stage.main) == 0
    Path("params.yaml").write_text(text, encoding="utf-8")
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    verdicts = pl.read_parquet(stage.DEDUP / "pairs.parquet").filter(key=key)["verdict"].to_list()
    return {
        "pairs": len(verdicts),
        "duplicates": verdicts.count("duplicate"),
        "conflicts": verdicts.count("conflict"),
        "similar": verdicts.count("similar"),
        "removed": metrics["num_input"] - metrics["num_kept"],
        "kept": metrics["num_kept"],
        "conflicts_kept": metrics["num_conflicts"],
        "largest_cluster": metrics["largest_cluster"],
    }


@pytest.mark.parametrize(("key", "present", "others"), [("question", 0.5, [0.4, 0.6]), ("row", 0.8, [0.7, 0.9])])
def test_every_column_is_what_the_stage_does_at_that_threshold(
    project: Path, capsys: pytest.CaptureFixture[str], key: str, present: float, others: list[float]
) -> None:
    found = columns(["--key", key, "--thresholds", ",".join(map(str, others))], capsys)
    assert list(found) == sorted([present, *others])
    for threshold, counts in found.items():
        assert counts == run_at(key, threshold)
    assert found[max(found)]["pairs"] < found[min(found)]["pairs"]
    assert found[min(found)]["removed"] > 0
    assert found[min(found)]["conflicts_kept"] > 0


def test_the_present_threshold_is_among_the_columns_and_marked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(columns(["--key", "row"], capsys)) == [0.7, 0.75, 0.8, 0.85, 0.9]
    main(["dedup-preview", "--key", "row", "--thresholds", "0.9"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["0.8*", "0.9"]
    assert {line[:18][8] in "*0123456789" for line in lines[:9]} == {True}  # the numbers stand below each other


def test_nothing_is_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert main(["dedup-preview", "--thresholds", "0.6", "--examples", "2"]) == 0
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_the_pairs_whose_fate_hangs_on_a_threshold_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["dedup-preview", "--thresholds", "0.6"])
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]
    shown = [line.split() for line in lines if " … " not in line]
    ids = {row.id for row in corpus()}
    assert len(shown) == 6
    assert max(float(line[1]) for line in shown[:3]) < 0.6
    for threshold, jaccard, *_, one, other in shown:
        assert float(jaccard) >= float(threshold)
        assert {one, other} <= ids
    assert [line[1] for line in shown[:3]] == sorted(line[1] for line in shown[:3])


def test_it_says_how_many_of_these_pairs_are_not_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared = {threshold: counts["pairs"] for threshold, counts in columns(["--thresholds", "0.6"], capsys).items()}
    main(["dedup-preview", "--thresholds", "0.6"])
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]
    assert lines[3].strip().startswith(f"… {compared[0.5] - compared[0.6] - 3} more; --examples {compared[0.5] - compared[0.6]} shows all")
    main(["dedup-preview", "--thresholds", "0.6", "--examples", str(compared[0.5])])
    assert " more; --examples" not in capsys.readouterr().out


def test_examples_show_both_texts_without_personal_data(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"Question": " "},  # not compared, but it counts in the numbers of the rows
        {"Question": "患者女，手机13812345678，二期梅毒的主要皮肤表现是什么，应当如何处理？"},
        {"Question": "患者女，手机13812345678，二期梅毒的主要皮肤表现为什么，应该如何处理？"},
        {"Question": "A man, phone 13912345678, takes 5 mg of warfarin daily for a deep vein thrombosis; what next?"},
        {"Question": "A man, phone 13912345678, takes 50 mg of warfarin daily for a deep vein thrombosis; what next?"},
    ]
    write_jsonl(in_tmp / "q.jsonl", rows)
    assert main(["dedup-preview", "q.jsonl", "--examples", "5"]) == 0
    text = capsys.readouterr().out
    assert not re.search(r"1[38]\d{9}|3812345678", text)
    assert re.search(r"#2: .*梅毒.*\[-是-\]", text)
    assert re.search(r"#3: .*\{\+为\+\}", text)
    assert "conflict (number)" in text
    assert re.search(r"#5: .*warfarin", text)


def test_a_file_is_compared_as_dedup_does(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(in_tmp / "q.jsonl", ({"stem": row.question} for row in corpus()))
    found = columns(["q.jsonl", "--key", "stem", "--thresholds", "0.7"], capsys)
    main(["dedup", "q.jsonl", "--key", "stem"])
    counts = {line.split("  ")[-1].split(" / ")[0]: int(line.split()[0]) for line in capsys.readouterr().out.splitlines()}
    assert found[0.5]["kept"] == counts["kept"]
    assert found[0.5]["removed"] == counts["exact copies"] + counts["near-duplicates"]
    assert found[0.5]["conflicts_kept"] == counts["conflicts, both kept"]
    assert found[0.7]["pairs"] < found[0.5]["pairs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thresholds", "0.4,x"], "--thresholds: not a number, got x; give numbers above 0 and up to 1, parted by commas"),
        (["--thresholds", "1.5"], "command line: dedup.threshold: input should be less than or equal to 1, got 1.5; "),
        (["--key", "answer"], "--key: no key of the pipeline, got answer; use question or row, or give a FILE"),
        (["--examples", "0"], "--examples: no pair is shown, got 0; give 1 or more"),
        (["missing.jsonl"], "missing.jsonl: no such file; give the path of a file"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["dedup-preview", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_without_normalized_rows_it_says_what_to_run(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    assert main(["dedup-preview"]) == 2
    assert "data/normalized/records.jsonl: the file is missing; run `dvc repro`" in capsys.readouterr().err


def test_help_is_bilingual(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dedup-preview", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "changes nothing" in text
    assert "不修改任何文件" in text
