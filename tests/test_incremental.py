"""medcot dedup --against: new rows are compared with earlier survivors, which never change."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from medcot.cli import main
from medcot.dedup_params import DedupParams
from medcot.params import load_section
from medcot.records import Record, read_jsonl, read_records, short_hash, write_jsonl, write_records
from medcot.stage import run_stage
from stages import dedup as stage

OLD = [
    {"id": "old1", "Question": "患者男，44岁，反复胸痛两年，心电图未见异常，最可能的诊断是什么？"},
    {"id": "old2", "Question": "What does warfarin 5 mg do in a patient with a deep vein thrombosis?"},
    {"id": "old3", "Question": "二期梅毒的主要皮肤表现是？"},
    {"id": "old4", "Question": "妊娠期糖尿病应当如何控制血糖？"},
]
NEW = [
    {"id": "copy", "Question": "what does Warfarin 5mg do in a patient with a deep vein thrombosis"},
    {"id": "near", "Question": "二期梅毒的主要皮肤表现为？"},
    {"id": "other fact", "Question": "患者男，45岁，反复胸痛两年，心电图未见异常，最可能的诊断是什么？"},
    {"id": "new", "Question": "Which vaccine is given at birth against hepatitis?"},
    {"id": "new twice", "Question": "Which vaccine is given at birth against hepatitis"},
    {"id": "new zh", "Question": "小儿腹泻脱水时如何补液？"},
]


def names(path: Path, *keys: str) -> list[str]:
    """The ids of a written file's rows, below these keys."""
    found = []
    for row in read_jsonl(path):
        for key in keys:
            row = row[key]
        found.append(row["id"])
    return found


def against(rows: list[dict[str, Any]], out: str, *arguments: str) -> None:
    write_jsonl(Path("new.jsonl"), rows)
    assert main(["dedup", "new.jsonl", "--out", out, *arguments]) == 0


@pytest.fixture
def old(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    write_jsonl(Path("old.jsonl"), OLD)
    assert main(["dedup", "old.jsonl", "--out", "old"]) == 0
    capsys.readouterr()
    return Path("old")


def test_every_new_row_is_new_a_copy_a_near_duplicate_or_a_conflict(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    against(NEW, "out", "--against", "old")
    lines = {line.strip().split("  ", 1)[1].split(" / ")[0]: int(line.split()[0]) for line in capsys.readouterr().out.splitlines()}
    assert lines == {
        "earlier rows, unchanged": 4,
        "input": 6,
        "exact copies": 2,
        "near-duplicates": 1,
        "conflicts, both kept": 1,
        "not compared": 0,
        "kept": 3,
    }
    removed = {row["row"]["id"]: (row["rule"], row["kept"]["id"]) for row in read_jsonl(Path("out/removed.jsonl"))}
    assert removed == {"copy": ("exact_copy", "old2"), "near": ("near_duplicate", "old3"), "new twice": ("exact_copy", "new")}
    assert names(Path("out/kept.jsonl")) == ["other fact", "new", "new zh"]
    (conflict,) = read_jsonl(Path("out/conflicts.jsonl"))
    assert {conflict["a"]["id"], conflict["b"]["id"]} == {"old1", "other fact"}
    assert conflict["differs"] == "number"
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_an_earlier_row_stays_even_where_the_new_one_is_the_better(old: Path) -> None:
    """On its own the complete, longer row would be kept."""
    rows = [{"id": "cut", "Question": OLD[0]["Question"].rstrip("？")}]
    write_jsonl(Path("cut.jsonl"), rows)
    main(["dedup", "cut.jsonl", "--out", "cut"])
    against([OLD[0]], "out", "--against", "cut")
    assert names(Path("out/kept.jsonl")) == []
    assert names(Path("out/removed.jsonl"), "kept") == ["cut"]
    against([*rows, OLD[0]], "together")
    assert names(Path("together/kept.jsonl")) == ["old1"]


def corpus(seed: int) -> list[dict[str, str]]:
    """Questions of which many come back, reworded or with another number, in Chinese and English."""
    generator = random.Random(seed)
    stems = [
        "患者{n}岁，反复胸痛{k}年，{x}，最可能的诊断是什么？", "A {n}-year-old with {k} days of fever and {x}; what comes first?",
        "成人{x}时，每日应口服多少毫克阿司匹林，疗程{k}天是否合适？", "How is {x} treated in a patient of {n} years after {k} weeks?",
    ]  # fmt: skip
    extra = ["心电图未见异常", "咳嗽伴有黄色脓痰", "severe abdominal pain", "a rash on both arms", "肝功能轻度受损", "renal failure"]
    return [
        {"id": f"{seed}-{i}", "Question": generator.choice(stems).format(n=generator.randrange(40, 43), k=generator.randrange(2, 4), x=x)}
        for i, x in enumerate(generator.choices(extra, k=60))
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_union_de_duplicated_again_loses_nothing(in_tmp: Path, seed: int) -> None:
    against(corpus(seed), "old")
    against(corpus(seed + 10), "more", "--against", "old")
    union = [row for name in ("old", "more") for row in read_jsonl(Path(name) / "kept.jsonl")]
    assert 0 < len(read_jsonl(Path("more/kept.jsonl"))) < 60
    against(union, "again")
    assert sorted(names(Path("again/kept.jsonl"))) == sorted(row["id"] for row in union)
    assert names(Path("again/removed.jsonl"), "row") == []
    # The same new rows once more hold nothing new.
    against(corpus(seed + 10), "twice", "--against", "old", "--against", "more")
    assert names(Path("twice/kept.jsonl")) == []
    assert len(read_jsonl(Path("twice/removed.jsonl"))) == 60


def test_the_order_of_new_and_of_old_rows_does_not_matter(in_tmp: Path) -> None:
    results = []
    for seed in (1, 2):
        write_jsonl(Path(f"old{seed}.jsonl"), random.Random(seed).sample(corpus(5), 60))
        main(["dedup", f"old{seed}.jsonl", "--out", f"old{seed}"])
        against(random.Random(seed).sample(corpus(6), 60), f"out{seed}", "--against", f"old{seed}")
        results.append(
            [
                sorted(names(Path(f"out{seed}") / file, *keys))
                for file, *keys in (("kept.jsonl",), ("removed.jsonl", "row"), ("removed.jsonl", "kept"))
            ]
        )
    assert results[0] == results[1]


def test_rows_after_the_pipeline_are_compared_by_both_of_its_keys(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = random.Random(1)
    reasoning = ["".join(generator.choices([chr(point) for point in range(0x5000, 0x5B00)], k=300)) + "。" for _ in range(4)]
    stored = [Record(short_hash(str(i)), "file", OLD[i]["Question"], reasoning[i], "答案。") for i in range(3)]
    stage.NORMALIZED.mkdir(parents=True)
    write_records(stage.NORMALIZED, stored)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    run_stage("dedup", stage.main)
    before = read_records(stage.DEDUP)
    capsys.readouterr()
    rows = [
        {"id": "same question", "Question": OLD[0]["Question"], "Complex_CoT": reasoning[3], "Response": "Another answer."},
        {"id": "same row", "Question": OLD[1]["Question"], "Complex_CoT": reasoning[1], "Response": "答案"},
        {"id": "asked politely", "Question": "请问" + OLD[2]["Question"], "Complex_CoT": reasoning[2], "Response": "答案。"},
        {"id": "new", "Question": OLD[3]["Question"], "Complex_CoT": reasoning[3][::-1], "Response": "New."},
    ]
    against(rows, "out", "--against", "data/dedup")
    removed = {row["row"]["id"]: (row["rule"], row["kept"]["question"]) for row in read_jsonl(Path("out/removed.jsonl"))}
    assert removed == {
        "same question": ("exact_question", OLD[0]["Question"]),
        "same row": ("exact_copy", OLD[1]["Question"]),
        "asked politely": ("near_duplicate", OLD[2]["Question"]),
    }
    assert names(Path("out/kept.jsonl")) == ["new"]
    assert "1  exact copies of the question" in capsys.readouterr().out
    assert read_records(stage.DEDUP) == before
    section = load_section("dedup", DedupParams)
    rules = json.loads((stage.DEDUP / "rules.json").read_text(encoding="utf-8"))
    assert rules == {"seed": section.seed, "keys": {"row": section.row.model_dump(), "question": section.question.model_dump()}}
    assert list(rules["keys"]) == ["row", "question"]


def test_later_rows_follow_the_rules_of_the_earlier_ones(in_tmp: Path) -> None:
    write_jsonl(Path("old.jsonl"), [{"stem": row["Question"], **row} for row in OLD])
    main(["dedup", "old.jsonl", "--key", "stem", "--threshold", "0.9", "--out", "old"])
    against([{"stem": row["Question"], **row} for row in NEW], "out", "--against", "old")
    assert set(names(Path("out/removed.jsonl"), "row")) == {"copy", "new twice"}
    assert (Path("out/rules.json")).read_bytes() == (old_rules := Path("old/rules.json")).read_bytes()
    assert json.loads(old_rules.read_text(encoding="utf-8"))["keys"]["stem"]["threshold"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "row"], "--against old: its rows were compared by question, got row; leave --key out"),
        (
            ["--threshold", "0.6"],
            "--against old: made with --threshold 0.5, got 0.6; leave --threshold out, or de-duplicate the earlier rows again with it",
        ),
        (["--shingle-size", "2"], "--against old: made with --shingle-size 3, got 2; leave --shingle-size out, or"),
        (["--against", "nowhere"], "nowhere/rules.json: no such file; give data/dedup after `dvc repro dedup`, or the DIR of an earlier"),
        (["--against", "broken"], "broken/rules.json: the file is damaged, got "),
        (["--against", "wrong"], "wrong/rules.json: question.threshold: input should be less than or equal to 1, got 7; "),
        (["--against", "other"], "--against other: made by other rules than old; make one of them again"),
        (["--out", "old"], "--out: the input itself would be overwritten, got old; choose another directory"),
    ],
)
def test_other_rules_and_directories_are_refused(old: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    content = (old / "rules.json").read_text(encoding="utf-8")
    for name, text in (("broken", "{"), ("wrong", content.replace("0.5", "7")), ("other", content.replace("0.5", "0.7"))):
        Path(name).mkdir()
        Path(name, "rules.json").write_text(text, encoding="utf-8")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    write_jsonl(Path("new.jsonl"), NEW)
    assert main(["dedup", "new.jsonl", "--against", "old", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_the_given_rules_may_be_named_again(old: Path) -> None:
    against(NEW, "out", "--against", "old", "--key", "question", "--threshold", "0.5")
    assert names(Path("out/kept.jsonl")) == ["other fact", "new", "new zh"]


def test_an_increment_that_kept_nothing_is_no_obstacle(old: Path) -> None:
    against(OLD, "nothing", "--against", "old")
    assert (Path("nothing/kept.jsonl")).read_bytes() == b""
    against(NEW, "out", "--against", "old", "--against", "nothing")
    assert names(Path("out/kept.jsonl")) == ["other fact", "new", "new zh"]
