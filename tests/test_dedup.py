"""The dedup stage: survivors, pairs, conflicts, ledger part and metrics agree, whatever the order of the rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medcot import key_index
from medcot import stage as shell
from medcot.canaries import Canary, plant
from medcot.dedup_params import DedupParams
from medcot.key_index import QUESTION, ROW
from medcot.matching import matching_key
from medcot.params import load_section
from medcot.records import Record, read_jsonl, read_records, short_hash, write_jsonl, write_records
from medcot.stage import run_stage
from stages import dedup as stage
from stages.dedup import DEDUP, METRICS, NORMALIZED, PART, dedup, events, main, summarise

ROOT = Path(__file__).resolve().parent.parent
PARAMS = load_section("dedup", DedupParams, ROOT / "params.yaml")


def record(question: str, reasoning: str, answer: str, copy: int = 0) -> Record:
    row_id = short_hash(question + reasoning + answer) + (f"-{copy}" if copy else "")
    return Record(row_id, "file", question, reasoning, answer)


def reasoning(seed: int) -> str:
    return "".join(random.Random(seed).choices([chr(point) for point in range(0x5000, 0x5B00)], k=300)) + "。"


def corpus() -> list[Record]:
    angina = record("患者男，44岁，反复胸痛，诊断是什么？", reasoning(1), "心绞痛。")
    fever = record(
        "A child has a fever of 39 degrees and a rash; what comes first?",
        "Think of measles, then of rubella: " + reasoning(3),
        "Isolation.",
    )
    return [
        angina,
        record(angina.question, angina.reasoning, angina.answer, copy=1),
        record(angina.question.replace("，", ","), reasoning(2), "心绞痛"),  # cut off, so not the one to keep
        record("请问" + angina.question, angina.reasoning[:-2] + "。", "心绞痛。"),
        record(angina.question.replace("44", "54"), angina.reasoning, angina.answer),
        fever,
        record(fever.question.replace("a fever", "no fever"), fever.reasoning, fever.answer),
    ]


def write_input(records: list[Record]) -> None:
    NORMALIZED.mkdir(parents=True, exist_ok=True)
    write_records(NORMALIZED, records)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())


def outputs() -> dict[str, str]:
    paths = [*sorted(DEDUP.iterdir()), PART, METRICS]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_stage_removes_copies_and_reports_conflicts(in_tmp: Path) -> None:
    write_input(corpus())
    assert run_stage("dedup", main) == 0
    kept = {row.id for row in read_records(DEDUP)}
    ledger = pl.read_parquet(PART)
    removed = ledger.filter(pl.col("action") == "removed")
    assert sorted(removed["rule"].to_list()) == ["exact_copy", "exact_question", "near_duplicate"]
    assert removed["related_id"].is_in(list(kept)).all()
    assert len(kept) == 4
    assert not kept & set(removed["id"])
    conflicts = ledger.filter(pl.col("action") == "conflict")
    assert set(conflicts["detail"]) == {"question: number", "row: number", "question: negation", "row: negation"}
    assert sorted(conflicts["id"]) == sorted(conflicts["related_id"])  # on both sides
    assert set(conflicts["id"]) == kept


def test_a_cut_off_row_gives_way_to_a_complete_one(in_tmp: Path) -> None:
    rows = corpus()[:3]
    write_input(rows)
    assert run_stage("dedup", main) == 0
    assert rows[2].id not in {row.id for row in read_records(DEDUP)}


def test_pairs_and_conflicts_are_written_for_the_next_stage_and_for_a_reviewer(in_tmp: Path) -> None:
    write_input(corpus())
    run_stage("dedup", main)
    pairs = pl.read_parquet(DEDUP / "pairs.parquet")
    assert pairs.columns == ["a", "b", "key", "jaccard", "alignment", "verdict", "detail"]
    assert (pairs["a"] < pairs["b"]).all()
    assert pairs.sort("a", "b", "key").equals(pairs)
    assert set(pairs["verdict"]) == {"duplicate", "conflict"}
    counted = pl.read_csv(DEDUP / "similarity.csv")
    for key, params in (("question", PARAMS.question), ("row", PARAMS.row)):
        decided = counted.filter((pl.col("key") == key) & (pl.col("to") <= params.threshold)).select("duplicate", "conflict", "similar")
        assert decided.sum_horizontal().sum() == 0
        assert set(counted.filter(key=key)["threshold"]) == {params.threshold}
    for key, verdict in (("row", "duplicate"), ("row", "conflict"), ("question", "duplicate"), ("question", "conflict")):
        assert counted.filter(key=key)[verdict].sum() == pairs.filter(key=key, verdict=verdict).height
    for conflict in read_jsonl(DEDUP / "conflicts.jsonl"):
        assert conflict["differs"] in ("number", "negation")
        assert conflict["a"]["question"] != conflict["b"]["question"]
        assert conflict["places"]


def test_metrics_add_up(in_tmp: Path) -> None:
    write_input(corpus())
    run_stage("dedup", main)
    metrics = summarise(stage.dedup(corpus(), PARAMS))
    canaries = metrics.pop("canaries")
    assert set(canaries) == {"row", "question"}
    assert metrics == {
        "num_input": 7,
        "num_kept": 4,
        "num_removed_exact_copy": 1,
        "num_removed_exact_question": 1,
        "num_removed_near_duplicate": 1,
        "num_conflicts": 2,
        "removed_rate": 3 / 7,
        "largest_cluster": 4,
    }
    assert '"num_conflicts": 2' in METRICS.read_text(encoding="utf-8")


def test_any_row_order_gives_the_same_bytes(in_tmp: Path) -> None:
    write_input(corpus())
    run_stage("dedup", main)
    first = outputs()
    shuffled = random.Random(1).sample(corpus(), 7)
    write_jsonl(NORMALIZED / "records.jsonl", (dict(zip(Record.__slots__, _values(row), strict=True)) for row in shuffled))
    run_stage("dedup", main)
    assert outputs() == first
    assert len(first) == 7


def _values(row: Record) -> list[str]:
    return [getattr(row, name) for name in Record.__slots__]


@pytest.mark.parametrize("count", [0, 1])
def test_an_input_without_pairs_passes_through(in_tmp: Path, count: int) -> None:
    write_input(corpus()[:count])
    assert run_stage("dedup", main) == 0
    assert len(read_records(DEDUP)) == count
    assert pl.read_parquet(DEDUP / "pairs.parquet").height == 0
    assert (DEDUP / "conflicts.jsonl").read_bytes() == b""


def test_a_copy_of_a_question_that_answers_otherwise_says_so_in_the_ledger() -> None:
    question, params = "成人急性上消化道出血时应当立即输血吗？", DedupParams(seed=1, canaries=0, question=QUESTION, row=ROW)
    records = [
        Record("a", "s", question, "先看血红蛋白是否低于七十，再看生命体征，条件符合就要考虑补充红细胞。", "应当立即输血。"),
        Record("b", "s", question, "限制性策略更安全，多数病人无需马上补充，观察即可，等结果出来再说。", "不应当立即输血。"),
    ]
    result = dedup(records, params)
    (removed,) = [event for event in events(result, records) if event.action == "removed"]
    assert removed.rule == "exact_question"
    assert removed.detail == "question; the answers differ: negation"


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        ("threshold: 0.8", "threshold: 1.5", "params.yaml: dedup.row.threshold: input should be less than or equal to 1, got 1.5; "),
        ("shingle_size: 5", "shingle_size: 0", "params.yaml: dedup.row.shingle_size: input should be greater than or equal to 1, got 0; "),
        ("shingle_size: 5", "shingle_sise: 5", "params.yaml: dedup.row.shingle_sise: unknown key, got 5; did you mean `shingle_size`?"),
    ],
)
def test_a_wrong_param_is_one_line_and_exit_code_2(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], line: str, wrong: str, message: str
) -> None:
    write_input(corpus())
    path = Path("params.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace(line, wrong), encoding="utf-8")
    assert run_stage("dedup", main) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not DEDUP.exists()


def test_a_failed_write_leaves_the_old_output(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(corpus())
    run_stage("dedup", main)
    first = outputs()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "conflicts.jsonl")

    monkeypatch.setattr(stage, "write_jsonl", full)
    assert run_stage("dedup", main) == 3
    assert outputs() == first
    assert shell.scratch_dir().exists()


def test_pairs_below_the_threshold_are_counted_but_not_decided(in_tmp: Path) -> None:
    base = reasoning(9)
    far = record("另一个完全不同的问题，讲述腹痛。", base[:260] + reasoning(10)[:41], "阑尾炎。")
    write_input([record("患者咳嗽三天，怎么办？", base, "休息。"), far])
    assert run_stage("dedup", main) == 0
    assert len(read_records(DEDUP)) == 2
    assert pl.read_parquet(DEDUP / "pairs.parquet").height == 0
    (row,) = pl.read_csv(DEDUP / "similarity.csv").rows(named=True)
    assert (row["key"], row["below"], row["duplicate"]) == ("row", 1, 0)
    assert 0.65 <= row["from"] < 0.8


def test_a_record_that_a_curator_kept_stays_and_its_copies_go(in_tmp: Path) -> None:
    rows = corpus()[:3]
    cut_off = dataclasses.replace(rows[2], decision="keep")
    write_input([rows[0], cut_off])
    assert run_stage("dedup", main) == 0
    assert [row.id for row in read_records(DEDUP)] == [cut_off.id]
    write_input([dataclasses.replace(rows[0], decision="edit"), cut_off])
    assert run_stage("dedup", main) == 0
    assert len(read_records(DEDUP)) == 2
    # They stay near for the split, so that they never part into train and test.
    assert pl.read_parquet(DEDUP / "pairs.parquet")["verdict"].to_list() == ["duplicate"]
    flagged = pl.read_parquet(PART).filter(pl.col("action") == "flagged")
    assert flagged.select("id", "rule", "detail", "related_id").rows() == [
        (one, "curator", "duplicate by question; kept by the curator", other)
        for one, other in sorted([(rows[0].id, cut_off.id), (cut_off.id, rows[0].id)])
    ]


def test_canaries_measure_the_recall_and_never_leave_the_stage(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted: list[Canary] = []

    def spy(*args: Any) -> list[Canary]:
        planted.extend(made := plant(*args))
        return made

    monkeypatch.setattr(key_index, "plant", spy)
    write_input(corpus())
    assert run_stage("dedup", main) == 0
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))["canaries"]
    assert sum(metrics[key]["num_planted"] for key in ("row", "question")) == len(planted) >= 6
    assert all(metrics[key]["recall"] == 1.0 for key in metrics)
    outs = [*DEDUP.iterdir(), PART]
    texts = [pl.read_parquet(path).write_csv() if path.suffix == ".parquet" else path.read_text(encoding="utf-8") for path in outs]
    originals = {matching_key(text) for row in corpus() for text in (row.question, "\n".join((row.question, row.reasoning, row.answer)))}
    known = {row.id for row in corpus()}
    for canary in planted:
        assert matching_key(canary.key) not in originals
        for text in texts:
            assert canary.key not in text
            assert matching_key(canary.key) not in matching_key(text)
    for path in outs:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
            ids = {value for name in ("a", "b", "id", "related_id") if name in frame.columns for value in frame[name].drop_nulls()}
            assert ids <= known


def test_canaries_change_nothing_but_their_metrics(in_tmp: Path) -> None:
    write_input(corpus())
    run_stage("dedup", main)
    first = outputs()
    path = Path("params.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("canaries: 200", "canaries: 0"), encoding="utf-8")
    run_stage("dedup", main)
    second = outputs()
    assert first.pop(str(METRICS)) != second.pop(str(METRICS))
    assert second == first
    assert json.loads(METRICS.read_text(encoding="utf-8"))["canaries"] == {"question": {"num_planted": 0}, "row": {"num_planted": 0}}


def test_a_search_that_misses_its_canaries_is_one_warning_line(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(key_index, "near_pairs", lambda *args: iter(()))
    write_input(corpus())
    assert run_stage("dedup", main) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "planted" in line]
    assert [line.split(" the search")[0] for line in lines] == ["dedup: by row", "dedup: by question"]
    assert "found only 0.0000 of" in lines[0]
    assert "raise dedup.row.num_perm or try another dedup.seed" in lines[0]
