"""Stage decontaminate: its files, its invariants, no benchmark text in any of them, and one line for what goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from medcot.records import Record, read_records, write_records
from medcot.stage import run_stage
from stages import decontaminate as stage

CASE = "男，57岁。患原发性肝癌拟行肝切除术，输注红细胞约50ml时出现寒战、发热、腰痛及心前区不适，最可能的输血不良反应是"
ENGLISH = "Which finding separates acute rejection of a kidney graft from calcineurin inhibitor toxicity in the second week?"
RECORDS = [
    Record("a", "test", f"{CASE}？", "想", "答"),
    Record("b", "test", CASE.replace("57", "58"), "想", "答"),
    Record("c", "test", "痛风急性期首选什么药？", "想", "答"),
    Record("d", "test", f"{ENGLISH}\nA. tubulitis B. tremor C. oedema", "Think.", "Tubulitis.", decision="keep"),
    Record("e", "test", CASE.replace("57", "59"), "想", "答"),
]
SUITE_ROWS: dict[str, dict[str, Any]] = {
    "general_choice": {"question": "长城是在哪里？", "choices": ["甲", "乙"], "answer": "A"},
    "general_answer": {"question": "三加四等于几？", "answer": "7"},
    "general_text": {"prompt": "介绍长城。", "text": "The wall runs over the hills. 长城沿着山脊延伸。"},
    "instructions": {"prompt": "请用一句话介绍长城。", "rules": [{"rule": "sentences", "most": 1}], "example": "长城很长。"},
    "red_flags": {"question": "Pressure on my chest for 40 minutes and 冷汗?", "must": [["@urgent"]], "must_not": [], "kind": "emergency"},
}


@pytest.fixture
def workspace(in_tmp: Path) -> Path:
    """A repository root as dedup left it, with two benchmarks and a question in each suite; b and e hang together with a."""
    stage.DEDUP.mkdir(parents=True)
    write_records(stage.DEDUP, RECORDS)
    pairs = {"a": ["a"], "b": ["b"], "key": ["question"], "jaccard": [0.9], "verdict": ["conflict"], "detail": ["number"]}
    pl.DataFrame(pairs).write_parquet(stage.DEDUP / "pairs.parquet")
    write("CMExam.jsonl", [{"problem_id": 5, "problem_text": CASE, "choices": ["甲", "乙"], "answer": ["a"]}])
    write("medqa/test.jsonl", [{"question": ENGLISH, "options": {"A": "x", "B": "y"}, "answer_idx": "A"}, {"question": "Why?"}])
    write_suites()
    write_params({})
    return in_tmp


def write_suites(**of_choice: str) -> None:
    """One item in each suite; `of_choice` changes that of general_choice."""
    stage.SUITES.mkdir(parents=True, exist_ok=True)
    for name, row in SUITE_ROWS.items():
        changed = {"id": "zh-1", **row, **(of_choice if name == "general_choice" else {})}
        (stage.SUITES / f"{name}.jsonl").write_text(json.dumps(changed, ensure_ascii=False) + "\n", encoding="utf-8")


def write(name: str, rows: list[dict[str, object]], folder: Path = stage.BENCHMARKS) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_params(section: dict[str, object]) -> None:
    strict = {"near": {"shingle_size": 3, "threshold": 1.0, "num_perm": 64}, "min_overlap": 1.0}
    Path("params.yaml").write_text(yaml.safe_dump({"decontaminate": {**strict, **section}}), encoding="utf-8")


def run() -> int:
    return run_stage("decontaminate", stage.main)


def outputs() -> dict[str, bytes]:
    files = [path for top in ("data/decontaminated", "data/ledger", "metrics") for path in Path(top).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in sorted(files)}


def test_hits_and_their_clusters_leave_and_every_item_is_marked(workspace: Path) -> None:
    assert run() == 0
    assert [record.id for record in read_records(stage.DECONTAMINATED)] == ["c", "d", "e"]
    assert sorted(outputs()) == [
        *(f"data/decontaminated/{name}" for name in ("hits.parquet", "items.parquet", "records.jsonl")),
        "data/ledger/parts/decontaminate.parquet",
        "metrics/decontaminate.json",
    ]
    items = pl.read_parquet(stage.DECONTAMINATED / "items.parquet")
    assert items.filter(pl.col("benchmark").is_in(list(SUITE_ROWS))).select("item", "contaminated").rows() == 5 * [("zh-1", False)]
    assert items.filter(~pl.col("benchmark").is_in(list(SUITE_ROWS))).rows() == [
        ("cmexam", "5", True, "exact", 1.0, 1, 0),
        ("medqa", "test:0", True, "exact", 1.0, 1, 1),
        ("medqa", "test:1", False, None, None, 0, 0),
    ]
    part = pl.read_parquet(stage.PART).select("id", "stage", "action", "rule", "related_id", "similarity")
    assert part.rows() == [
        ("a", "decontaminate", "removed", "contaminated", "cmexam:5", 1.0),
        ("b", "decontaminate", "removed", "contaminated_cluster", "a", 0.9),
        ("d", "decontaminate", "flagged", "contaminated", "medqa:test:0", 1.0),
    ]


def test_the_metrics_add_up(workspace: Path) -> None:
    assert run() == 0
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    assert metrics["num_input"] == 5 == metrics["num_kept"] + sum(v for k, v in metrics.items() if k.startswith("num_removed_"))
    assert metrics["benchmark"]["medqa"] == {"num_items": 2, "num_contaminated": 1, "contaminated_rate": 0.5}


def test_no_text_of_a_benchmark_is_written(workspace: Path) -> None:
    assert run() == 0
    for name, content in outputs().items():
        if not name.endswith("records.jsonl"):
            assert CASE[:8].encode() not in content, name
            assert b"acute rejection" not in content, name


def test_a_second_run_gives_the_same_bytes(workspace: Path) -> None:
    assert run() == 0
    before = outputs()
    write("README.md", [])
    assert run() == 0
    assert outputs() == before


def test_the_samples_own_benchmark_is_read_on_request(workspace: Path) -> None:
    for name, path in stage.SAMPLES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        question = "痛风急性期首选什么药" if name == "sample" else "Which valve lies between left atrium and left ventricle?"
        row = {"id": "zh-1", "question": question, "choices": ["甲", "乙"], "answer": "A"}
        path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert run() == 0
    assert "sample" not in json.loads(stage.METRICS.read_text(encoding="utf-8"))["benchmark"]
    write_params({"sample_benchmark": True})
    assert run() == 0
    assert [record.id for record in read_records(stage.DECONTAMINATED)] == ["d", "e"]
    assert json.loads(stage.METRICS.read_text(encoding="utf-8"))["benchmark"]["sample"]["num_contaminated"] == 1
    assert json.loads(stage.METRICS.read_text(encoding="utf-8"))["benchmark"]["sample_facts"]["num_contaminated"] == 0


def test_without_benchmarks_nothing_is_removed_and_the_log_says_so(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(stage.BENCHMARKS.rglob("*.jsonl")):
        path.unlink()
    (stage.BENCHMARKS / "medqa").rmdir()
    (stage.BENCHMARKS / "README.md").write_text("# Benchmarks", encoding="utf-8")
    assert run() == 0
    assert len(read_records(stage.DECONTAMINATED)) == 5
    assert set(pl.read_parquet(stage.DECONTAMINATED / "items.parquet")["benchmark"]) == set(SUITE_ROWS)
    assert "decontaminate: no benchmark in data/benchmarks, so nothing is checked" in capsys.readouterr().err


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    assert run() == 2
    return capsys.readouterr().err.strip()


def test_a_damaged_benchmark_stops_the_stage_and_old_outputs_stay(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    before = outputs()
    capsys.readouterr()
    (stage.BENCHMARKS / "CMExam.jsonl").write_text('{"problem_text": "问"}\n', encoding="utf-8")
    assert failure(capsys).startswith("error: data/benchmarks/CMExam.jsonl: row 0: no benchmark layout has these columns, got problem_text")
    assert outputs() == before


@pytest.mark.parametrize("name", ["data/dedup/records.jsonl", "data/dedup/pairs.parquet"])
def test_a_missing_input_is_named(workspace: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / name).unlink()
    assert f"error: {name}: the file is missing; run" in failure(capsys)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ngram_size": 4}, "params.yaml: decontaminate.ngram_size: input should be greater than or equal to 5, got 4; Tokens a run"),
        ({"min_overlap": 0.0}, "decontaminate.min_overlap: input should be greater than 0"),
        ({"near": {"threshold": 2.0}}, "decontaminate.near."),
        ({"case_token": 25}, "decontaminate.case_token: unknown key, got 25; did you mean `case_tokens`?"),
    ],
)
def test_bad_params_are_one_line(workspace: Path, values: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(values)
    assert message in failure(capsys)


def test_our_own_suites_are_checked_like_a_benchmark(workspace: Path) -> None:
    write_suites(question="痛风急性期首选什么药")
    assert run() == 0
    benchmark = json.loads(stage.METRICS.read_text(encoding="utf-8"))["benchmark"]
    assert {name: benchmark[name]["num_contaminated"] for name in SUITE_ROWS} == {**dict.fromkeys(SUITE_ROWS, 0), "general_choice": 1}
    assert [record.id for record in read_records(stage.DECONTAMINATED)] == ["d", "e"]


def test_without_our_own_suites_nothing_is_checked_but_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both evaluations ask what is in them, and would call it clean."""
    shutil.rmtree(stage.SUITES)
    message = "error: data/suites: the folder of our own questions is missing; bring it back with `git checkout data/suites`"
    assert failure(capsys) == message
    assert outputs() == {}
    write_suites()
    (stage.SUITES / "red_flags.jsonl").unlink()
    assert failure(capsys).startswith("error: data/suites/red_flags.jsonl: a link to nothing, or no file, where a benchmark is expected")


def test_general_questions_and_texts_of_ones_own_are_checked_too(workspace: Path) -> None:
    """A question, a folder of questions, and texts after a prompt and alone; a text in the answer of a row is found as well."""
    told = "The moon goes round the earth in twenty-seven days, and always shows us the same side of its face."
    records = [
        Record("f", "test", "Tell me of the moon.", "想一想。", told),
        Record("g", "test", "三乘以四是多少，请说明理由？", "十二。", "12"),
        Record("h", "test", "How many legs has a spider of the usual kind, as a rule?", "Eight.", "8"),
    ]
    write_records(stage.DEDUP, [*RECORDS, *records])
    write("Maths.jsonl", [{"question": "三乘以四是多少，请说明理由？", "answer": "#### 12"}], stage.GENERAL)
    write("ceval/a.jsonl", [{"question": records[2].question, "A": "6", "B": "8", "answer": "B"}], stage.GENERAL)
    write("alpaca.jsonl", [{"instruction": "Describe the moon.", "input": "", "output": told}, {"text": "长城很长。"}], stage.GENERAL)
    write("alpaca2.jsonl", [{"instruction": "空 Nothing.", "output": " "}], stage.GENERAL)  # it cannot be measured, so it is no item
    (stage.GENERAL / "README.md").write_text("# General", encoding="utf-8")
    write_params({"min_overlap": 0.5})
    assert run() == 0
    part = pl.read_parquet(stage.PART).filter(pl.col("id").is_in(["f", "g", "h"]))
    assert part.select("id", "rule", "related_id", "detail").rows() == [
        ("f", "contaminated", "alpaca:0", "ngram"),
        ("g", "contaminated", "maths:0", "exact"),
        ("h", "contaminated", "ceval:a:0", "exact"),
    ]
    marks = pl.read_parquet(stage.DECONTAMINATED / "items.parquet").select("benchmark", "item", "contaminated").rows()
    assert {("alpaca", "0", True), ("alpaca", "1", False), ("maths", "0", True), ("ceval", "a:0", True)} <= set(marks)
    benchmark = json.loads(stage.METRICS.read_text(encoding="utf-8"))["benchmark"]
    assert benchmark["alpaca"] == {"num_items": 2, "num_contaminated": 1, "contaminated_rate": 0.5}
    assert "alpaca2" not in benchmark


@pytest.mark.parametrize(("name", "folder"), [("Medqa.jsonl", stage.GENERAL), ("red_flags.jsonl", stage.BENCHMARKS)])
def test_a_benchmark_and_a_general_file_of_one_name_are_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str], name: str, folder: Path
) -> None:
    write(name, [{"question": "长城有多长？"}], folder)
    message = "data/benchmarks: a benchmark has the name of a file in data/general or of a suite in data/suites, got"
    assert failure(capsys) == f"error: {message} {name.lower().removesuffix('.jsonl')}; rename one of them"
