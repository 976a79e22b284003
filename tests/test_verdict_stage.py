"""The stage verdict, run as a user runs it: what it writes, in which words, and that it ends with 0 whatever it finds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from test_lm_eval import both, sample
from test_observations import BASE, TUNED, health, rows
from verdict_factory import GAIN, KEPT, Counts, arms, manifest

from medcot.arm import Arm, write_arm
from medcot.cli import main as medcot
from medcot.looks import record_look
from medcot.looks import test_hash as hash_of_test
from medcot.stage import run_stage
from medcot.verdict_texts import gate_text, points, signed
from stages import verdict as stage

OUT = Path("data/verdict")
BETTER: dict[str, Counts] = {"choice": GAIN, "open": (60, 5, 15, 20), **KEPT}


def write_arms(endpoints: Mapping[str, Counts] = BETTER, split: str = "val", **params: Any) -> None:
    """Both arms as the stages before leave them, and params.yaml, in the working directory."""
    asked = manifest(endpoints, split=split)
    for name in ("metrics", "models/adapter"):
        Path(name).mkdir(parents=True, exist_ok=True)
    Path("params.yaml").write_text(yaml.safe_dump({"verdict": params}), encoding="utf-8")
    frames = (rows(BASE), health({"loop": [False] * 30})), (rows(TUNED), health({"loop": [False] * 30}))
    for name, scores, (frame, replies) in zip(("base", "tuned"), arms(endpoints), frames, strict=True):
        directory = Path("data/evaluation") / name
        directory.mkdir(parents=True, exist_ok=True)
        own = {"adapter_hash": "a" * 16} if name == "tuned" else {}
        write_arm(directory, Arm(frame, [], {**asked, **own}, scores=scores, health=replies))
    apart = pl.DataFrame({"id": ["g1", "g2"], "num_tokens": [10, 20], "kl": [0.1, 0.3], "top1": [9, 19]})
    apart.write_parquet("data/evaluation/tuned/divergence.parquet")


def run() -> dict[str, Any]:
    assert run_stage("verdict", stage.main) == 0
    record: dict[str, Any] = json.loads((OUT / "verdict.json").read_text(encoding="utf-8"))
    return record


def metrics() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("metrics/verdict.json").read_text(encoding="utf-8"))
    return found


def test_everything_promised_is_written(in_tmp: Path) -> None:
    write_arms()
    record = run()
    names = ["comparisons.parquet", "forest.csv", "items.parquet", "observations.parquet", "verdict.json", "verdict.md"]
    assert sorted(path.name for path in OUT.iterdir()) == names
    assert (record["verdict"], record["reasons"]) == ("BETTER", [])
    table = pl.read_parquet(OUT / "comparisons.parquet")
    assert table.to_dicts() == record["comparisons"]
    assert table["role"].unique(maintain_order=True).to_list() == ["primary", "secondary", "forgetting", "safety"]
    assert [row["name"] for row in record["observations"]] == pl.read_parquet(OUT / "observations.parquet")["name"].to_list()
    forest = pl.read_csv(OUT / "forest.csv")
    assert forest["difference"].to_list() == pytest.approx([100 * row["difference"] for row in record["comparisons"]])
    assert forest["name"].n_unique() == forest.height


def test_every_figure_of_an_endpoint_can_be_traced_to_its_items(in_tmp: Path) -> None:
    write_arms()
    record = run()
    items = pl.read_parquet(OUT / "items.parquet")
    for row in record["comparisons"]:
        own = (
            items.filter(endpoint=row["endpoint"])
            if row["endpoint"] != "forgetting"
            else items.filter(pl.col("endpoint").is_in(list(KEPT)[:3]))
        )
        assert own.height == row["n"]
        assert own["base"].mean() == pytest.approx(row["base"])
        assert own["difference"].mean() == pytest.approx(row["difference"])


def test_metrics_are_flat_finite_and_those_of_the_record(in_tmp: Path) -> None:
    write_arms()
    record, found = run(), metrics()
    assert all(isinstance(value, (int, float, str)) for value in found.values())
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))
    primary = record["primary"]
    for name in ("base", "tuned", "difference", "ci_low", "ci_high", "n", "mde"):
        assert found[f"primary_{name}"] == pytest.approx(primary[name], rel=1e-7)
    assert (found["verdict"], found["primary"], found["num_reasons"], found["reasons"]) == ("BETTER", "choice", 0, "")
    assert (found["gate_forgetting"], found["gate_safety"], found["gate_looping"]) == ("shown", "shown", "unproven")
    assert {"open_difference", "forgetting_ci_low", "red_flags_mde", "instructions_n", "overfitting_difference"} <= set(found)
    assert found["declaration_hash"] == record["declaration_hash"]


def test_the_gate_reads_what_the_stage_writes(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_arms()
    run()
    assert medcot(["gate", "--require", "BETTER", "--lang", "en"]) == 0
    assert capsys.readouterr().out.startswith("met: the verdict is BETTER; choice +6.0 points (+3.")
    write_arms({"choice": (600, 100, 40, 260), **KEPT})
    run()
    assert medcot(["gate", "--require", "BETTER"]) == 1


OTHERS: list[tuple[str, Mapping[str, Counts], dict[str, Any]]] = [
    ("INCONCLUSIVE", BETTER, {"tier": "smoke"}),
    ("INVALID", {"choice": (50, 3, 7, 40)}, {}),
    ("NO-ENDPOINT", KEPT, {}),
    ("WORSE", {"choice": (600, 100, 40, 260)}, {}),
]


@pytest.mark.parametrize(("verdict", "endpoints", "params"), OTHERS, ids=[other[0] for other in OTHERS])
def test_whatever_the_verdict_it_ends_with_0(in_tmp: Path, verdict: str, endpoints: Mapping[str, Counts], params: dict[str, Any]) -> None:
    write_arms(endpoints, **params)
    assert run()["verdict"] == metrics()["verdict"] == verdict
    assert f"# 结论：{verdict}" in (OUT / "verdict.md").read_text(encoding="utf-8")


def test_without_any_endpoint_there_is_still_a_page_and_a_table(in_tmp: Path) -> None:
    write_arms({})
    assert run()["verdict"] == "NO-ENDPOINT"
    assert (OUT / "forest.csv").read_text(encoding="utf-8") == "name,role,difference,ci_low,ci_high\n"


def test_arms_that_differ_are_not_subtracted_anywhere(in_tmp: Path) -> None:
    write_arms()
    path = Path("data/evaluation/base/manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "precision": "bf16"}), encoding="utf-8")
    record = run()
    assert (record["verdict"], metrics()["reasons"]) == ("INVALID", "arms_differ:precision")
    assert (record["comparisons"], record["observations"]) == ([], [])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_says_it_in_both_languages(in_tmp: Path, language: str) -> None:
    write_arms()
    run()
    chinese, english = (OUT / "verdict.md").read_text(encoding="utf-8").split("\n---\n")
    page = english if language == "en" else chinese
    expected = {
        "en": [
            "# Verdict: BETTER",
            "It scores 6.0 points out of 100 higher (95 % interval +3.",
            "rule-based screening, not reviewed by a physician",
        ],
        "zh": ["# 结论：BETTER（更好）", "每 100 分高 6.0 分（95 % 区间 +3.", "规则筛查，未经医师审核"],
    }[language]
    assert [text for text in expected if text not in page] == []
    assert "{" not in page
    assert "1000" in page
    if language == "zh":
        assert re.findall(r"[一-鿿][,;:?!][一-鿿]", page) == []
    headings = {"en": "What was measured|What was lost|What this does not say|What to do next|Looks at the test set"}
    headings["zh"] = "测了什么|失去了什么|这不能说明什么|下一步|测试集被查看的次数"
    assert re.findall(rf"^## (?:{headings[language]})$", page, re.MULTILINE) == [f"## {name}" for name in headings[language].split("|")]


def test_an_endpoint_that_may_not_be_read_is_marked(in_tmp: Path) -> None:
    write_arms()
    for arm in ("base", "tuned"):
        path = Path(f"data/evaluation/{arm}/scores.parquet")
        cut = (pl.col("endpoint") == "open") & (pl.col("score") == 0)
        pl.read_parquet(path).with_columns(status=pl.when(cut).then(pl.lit("truncated")).otherwise(pl.col("status"))).write_parquet(path)
    record = run()
    assert record["verdict"] == "BETTER"  # it decides nothing
    marked = {row["endpoint"]: row["faults"] for row in record["comparisons"] if row["faults"]}
    assert marked == {"open": "truncation_differs,too_many_truncated"}
    page = (OUT / "verdict.md").read_text(encoding="utf-8")
    assert "open questions, key points found (not to be read: cut unequally, too many cut) | 100 |" in page
    assert "问答题（要点命中）（不可解读：截断不等、截断过多） | 100 |" in page


def test_a_smoke_says_what_a_claim_takes(in_tmp: Path) -> None:
    write_arms(tier="smoke")
    run()
    page = (OUT / "verdict.md").read_text(encoding="utf-8")
    assert "Nothing is claimed: this is a trial run (tier smoke) on 1000 questions. A claim takes at least 500 clean questions" in page
    assert "要下结论，至少需要 500 道未受污染的题" in page
    assert page.count("`verdict.tier: standard`") == 2


def test_imported_results_may_decide_where_their_questions_were_checked(in_tmp: Path) -> None:
    write_arms(KEPT, primary="lm_eval:cmmlu_anatomy")
    num = 600
    scores = ([sample(i, i % 2 == 0) for i in range(num)], [sample(i, i % 2 == 0 or i % 10 == 1) for i in range(num)])
    both(Path("data/lm_eval"), "cmmlu_anatomy", *scores)
    for name in ("benchmarks", "decontaminated"):
        Path("data", name).mkdir()
    assert (run()["verdict"], metrics()["reasons"]) == ("INVALID", "contamination_not_checked:lm_eval:cmmlu_anatomy")
    exam = [{"id": f"q{i}", "question": f"血钾 {i}？", "choices": ["高", "low"], "answer": "B"} for i in range(num)]
    Path("data/benchmarks/exam.json").write_text(json.dumps(exam, ensure_ascii=False), encoding="utf-8")
    marks = {"benchmark": ["exam"] * num, "item": [row["id"] for row in exam], "contaminated": [i < 20 for i in range(num)]}
    pl.DataFrame(marks).write_parquet("data/decontaminated/items.parquet")
    found = run()
    assert (found["verdict"], found["primary"]["n"]) == ("BETTER", num - 20)
    assert metrics()["primary_difference"] == pytest.approx(58 / 580)
    assert [row["n"] for row in found["comparisons"] if row["role"] == "contaminated"] == [20]


def test_looks_at_test_are_counted_and_warned_of(in_tmp: Path) -> None:
    write_arms(split="test")
    asked, looks = json.loads(Path("data/evaluation/tuned/manifest.json").read_text(encoding="utf-8")), Path("metrics/looks.csv")
    record_look(looks, hash_of_test(asked), "a" * 16)
    assert run()["num_looks"] == 1
    assert "1 fine-tune has been measured on this test set" in (OUT / "verdict.md").read_text(encoding="utf-8")
    assert "Warning" not in (OUT / "verdict.md").read_text(encoding="utf-8")
    record_look(looks, hash_of_test(asked), "b" * 16)
    assert (run()["num_looks"], metrics()["num_looks"]) == (2, 2)
    page = (OUT / "verdict.md").read_text(encoding="utf-8")
    assert "2 fine-tunes have been measured on this test set" in page
    assert "警告" in page
    assert "Warning" in page


def test_a_run_on_val_counts_no_look(in_tmp: Path) -> None:
    write_arms()
    assert run()["num_looks"] == 0
    assert "evaluate.split: test" in (OUT / "verdict.md").read_text(encoding="utf-8")


def test_the_health_of_training_is_in_the_record(in_tmp: Path) -> None:
    write_arms()
    assert run()["training"] is None
    lines = ["step,loss,learning_rate,grad_norm", *(f"{i},{2 - i / 50},1e-4,0.5" for i in range(1, 31))]
    Path("models/adapter/train_log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    training = run()["training"]
    assert training is not None
    assert training["verdict"] in ("HEALTHY", "WARN", "UNHEALTHY")


def test_running_twice_gives_the_same_bytes(in_tmp: Path) -> None:
    write_arms()
    run()
    first = {path: path.read_bytes() for path in [*OUT.iterdir(), Path("metrics/verdict.json")]}
    run()
    assert {path: path.read_bytes() for path in first} == first


@pytest.mark.parametrize("primary", ["perplexity", "red_flags", "bleu_4"])
def test_a_primary_that_cannot_decide_is_refused_before_anything_is_read(
    in_tmp: Path, capfd: pytest.CaptureFixture[str], primary: str
) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"verdict": {"primary": primary}}), encoding="utf-8")
    assert run_stage("verdict", stage.main) == 2
    assert "params.yaml: verdict.primary: this endpoint can never decide: " in capfd.readouterr().err


def test_a_missing_arm_is_2(in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_arms()
    Path("data/evaluation/tuned/manifest.json").unlink()
    assert run_stage("verdict", stage.main) == 2
    assert "data/evaluation/tuned/manifest.json: the arm is missing; run `dvc repro -f evaluate`" in capfd.readouterr().err


def spoil(arm: str, name: str, **columns: pl.Expr) -> None:
    path = Path("data/evaluation") / arm / name
    pl.read_parquet(path).with_columns(**columns).write_parquet(path)


SPOILT: list[tuple[str, dict[str, pl.Expr], str]] = [
    ("scores.parquet", {"score": pl.lit(None, pl.Float64)}, "scores.parquet: score is missing in "),
    ("scores.parquet", {"score": pl.lit(float("nan"))}, "scores.parquet: score is not finite in some line"),
    ("scores.parquet", {"case": pl.lit(None, pl.String)}, "scores.parquet: case is missing in "),
    ("scores.parquet", {"score": pl.col("score").cast(pl.String)}, "scores.parquet has other columns: "),
    ("rows.parquet", {"nll": pl.lit(float("inf"))}, "rows.parquet: nll is not finite in some line"),
    ("rows.parquet", {"another": pl.lit(1)}, "rows.parquet has other columns: "),
    ("health.parquet", {"loop": pl.lit(None, pl.Boolean)}, "health.parquet: loop is missing in 30 lines"),
    ("divergence.parquet", {"kl": pl.lit(float("nan"))}, "divergence.parquet: kl is not finite in some line"),
]


@pytest.mark.parametrize(("name", "columns", "said"), SPOILT)
def test_a_table_that_no_stage_writes_is_refused_in_one_line(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], name: str, columns: dict[str, pl.Expr], said: str
) -> None:
    write_arms()
    spoil("tuned", name, **columns)
    assert run_stage("verdict", stage.main) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: data/evaluation/tuned")
    assert said in error
    assert error.endswith("run `dvc repro -f evaluate`")
    assert not OUT.exists()


@pytest.mark.parametrize("content", ["[1]", "null", '{"num_items.choice": "many"}', '{"chance.choice": "a quarter"}'])
def test_a_manifest_that_is_none_is_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    write_arms()
    (stage.TUNED_ARM / "manifest.json").write_text(content, encoding="utf-8")
    assert run_stage("verdict", stage.main) == 2
    assert "data/evaluation/tuned: the arm cannot be read, got manifest.json" in capsys.readouterr().err


def test_arms_that_changed_places_cannot_turn_worse_into_better(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_arms({"choice": (600, 100, 40, 260), **KEPT})
    assert run()["verdict"] == "WORSE"
    stage.BASE_ARM.rename("other")
    stage.TUNED_ARM.rename(stage.BASE_ARM)
    Path("other").rename(stage.TUNED_ARM)
    assert run_stage("verdict", stage.main) == 2
    said = "data/evaluation/base: the base arm is a fine-tune's: its manifest has adapter_hash, got aaaaaaaaaaaaaaaa; run"
    assert said in capsys.readouterr().err


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert [points(share) for share in (-0.0001, 0.0, 0.0001, -0.012)] == ["0.0", "0.0", "0.0", "−1.2"]
    assert [signed(share) for share in (-0.0001, 0.0, 0.0001, -0.012, 0.012)] == ["0.0", "0.0", "0.0", "−1.2", "+1.2"]


def test_few_replies_without_a_loop_read_as_nothing_that_is_missing() -> None:
    """That replies do not loop may veto and needs no proof; the page says so, and not that something is unproven."""
    gate = {"name": "looping", "state": "unproven", "harmed": [], "needed": {}, "faults": []}
    assert gate_text(gate, "en") == "Free replies that do not loop: no rise was shown, and none has to be excluded."
    assert gate_text(gate, "zh") == "自由回答不陷入循环：未见循环增多；此项无须证明。"
