"""Seven lies that published comparisons have told, each planted in real files and caught by its name.

What is not sound is refused (exit code 2, one line) as early as it can be seen, else the verdict is INVALID with a reason of a stable name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import test_convert
import test_decontaminate
import yaml
from evaluation_factory import ROWS, TRAIN, write_adapter, write_workspace
from test_observations import BASE, TUNED, health, rows
from verdict_factory import GAIN, KEPT, arms, manifest

from medcot.arm import Arm, write_arm
from medcot.llamafactory import render_row, write_rows
from medcot.records import Record, read_records, write_records
from medcot.stage import run_stage
from medcot.tasks import REPLY_SCHEMA
from medcot.template import TEMPLATES, THINK_CLOSE, THINK_OPEN, get_template
from stages import convert, decontaminate, evaluate, evaluate_base, verdict

Say = pytest.CaptureFixture[str]
LOOP = "先看心电图，再查肌钙蛋白，然后复查。" * 40
SOUND = "胸痛三天，先看心电图，再查肌钙蛋白。Then decide on the treatment."


def refused(stage: str, main: Callable[[], None], say: Say) -> str:
    """The one line with which a stage refuses."""
    say.readouterr()
    assert run_stage(stage, main) == 2
    return say.readouterr().err.splitlines()[-1]


def judged() -> tuple[str, str]:
    """The verdict on the arms in the working directory, and its reasons."""
    assert run_stage("verdict", verdict.main) == 0
    found = json.loads(Path("metrics/verdict.json").read_text(encoding="utf-8"))
    return found["verdict"], found["reasons"]


def write_arms(primary: str = "choice", texts: tuple[str, str] = (SOUND, SOUND)) -> None:
    """Arms whose verdict is BETTER as they are; `texts` is what base and fine-tune say in 100 of the replies."""
    endpoints = {primary: GAIN, **KEPT}
    Path("models/adapter").mkdir(parents=True, exist_ok=True)
    Path("params.yaml").write_text(yaml.safe_dump({"verdict": {"primary": primary}}), encoding="utf-8")
    for name, scores, frame, text in zip(("base", "tuned"), arms(endpoints), (rows(BASE), rows(TUNED)), texts, strict=True):
        chosen = scores.filter(endpoint=primary).head(100).select("endpoint", "benchmark", "item", "sample")
        said = {"text": text, "think_state": "explicit", "reasoning": "", "answer": text, "num_new_tokens": 99, "truncated": False}
        replies = chosen.with_columns(**{key: pl.lit(value) for key, value in said.items()}).select(list(REPLY_SCHEMA)).cast(REPLY_SCHEMA)
        frame_of_health = health({"loop": [text == LOOP] * 40 + [False] * 160})
        directory = Path("data/evaluation") / name
        directory.mkdir(parents=True, exist_ok=True)
        write_arm(directory, Arm(frame, [], manifest(endpoints), replies, scores, frame_of_health))


def change(name: str, edit: Callable[[pl.DataFrame], pl.DataFrame], *both: str) -> None:
    """Edit a table of the arms named."""
    for arm in both:
        path = Path("data/evaluation") / arm / name
        edit(pl.read_parquet(path)).write_parquet(path)


def test_arms_without_a_lie_are_better(in_tmp: Path) -> None:
    for primary in ("choice", "open"):
        write_arms(primary)
        assert judged() == ("BETTER", "")


# ---- 1. test rows in train


def test_a_benchmark_item_among_the_rows_is_contaminated(in_tmp: Path) -> None:
    decontaminate.DEDUP.mkdir(parents=True)
    planted = Record("a", "test", f"{test_decontaminate.CASE}？", "想", "答")
    write_records(decontaminate.DEDUP, [planted, Record("c", "test", "痛风急性期首选什么药？", "想", "答")])
    none: dict[str, Any] = {"a": [], "b": [], "key": [], "jaccard": [], "verdict": [], "detail": []}
    pairs = pl.DataFrame(none, schema={**dict.fromkeys(none, pl.String), "jaccard": pl.Float64})
    pairs.write_parquet(decontaminate.DEDUP / "pairs.parquet")
    item = {"problem_id": 5, "problem_text": test_decontaminate.CASE, "choices": ["甲", "乙"], "answer": ["a"]}
    test_decontaminate.write("CMExam.jsonl", [item])
    test_decontaminate.write_suites()
    test_decontaminate.write_params({})
    assert run_stage("decontaminate", decontaminate.main) == 0
    events = pl.read_parquet(decontaminate.PART)
    assert events.select("id", "action", "rule", "related_id").rows() == [("a", "removed", "contaminated", "cmexam:5")]
    assert [record.id for record in read_records(decontaminate.DECONTAMINATED)] == ["c"]


def test_a_row_of_val_copied_into_train_is_refused_by_both_arms(in_tmp: Path, capfd: Say) -> None:
    write_workspace(in_tmp)
    template = get_template("qwen3")
    for copied in (ROWS[0], replace(ROWS[0], id="another id")):
        write_rows(Path("data/llamafactory/train.json"), (render_row(row, template, "", "alpaca") for row in (*TRAIN, copied)))
        for name, stage in (("evaluate_base", evaluate_base), ("evaluate", evaluate)):
            line = refused(name, stage.main, capfd)
            expected = "error: data/llamafactory/val.json: 1 val rows stand in train.json too, got 0a; run `dvc repro -f convert`"
            assert line.startswith(expected)


# ---- 2. a template that closes the think block


@pytest.mark.parametrize("where", ["prefill", "user"])
def test_a_template_that_closes_the_think_block_is_refused(in_tmp: Path, capfd: Say, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    write_workspace(in_tmp)
    sound = get_template("qwen3")
    closing = replace(sound, **{where: getattr(sound, where) + THINK_OPEN + THINK_CLOSE})
    monkeypatch.setitem(TEMPLATES, "qwen3", closing)
    expected = "the prompt of template qwen3 closes the think block before the model can think, got qwen3; let the prompt end"
    assert expected in refused("evaluate_base", evaluate_base.main, capfd)
    test_convert.write_workspace(test_convert.records(), [])
    test_convert.write_params({}, {})
    assert expected in refused("convert", convert.main, capfd)


# ---- 3. perplexity over different masks


def test_perplexity_over_other_tokens_is_never_subtracted(in_tmp: Path, capfd: Say) -> None:
    write_arms()
    change("rows.parquet", lambda frame: frame.with_columns(num_tokens=pl.col("num_tokens") + 5), "base")
    assert "data/evaluation/base: the arms count another number of tokens" in refused("verdict", verdict.main, capfd)


def test_another_template_or_tokenizer_is_named(in_tmp: Path) -> None:
    for key in ("template_hash", "tokenizer_hash"):
        write_arms()
        lie({key: "another"})
        assert judged() == ("INVALID", f"arms_differ:{key.removesuffix('_hash')}")
        assert pl.read_parquet("data/verdict/observations.parquet").height == 0


def lie(values: dict[str, Any]) -> None:
    """Write other values into the manifest of the base arm."""
    path = Path("data/evaluation/base/manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


# ---- 4. base in another precision; 7. eval set changed after the base was cached


def test_what_changed_after_the_base_was_measured_is_named(in_tmp: Path, capfd: Say) -> None:
    write_workspace(in_tmp)
    write_adapter(in_tmp, spread=0.3)
    assert run_stage("evaluate_base", evaluate_base.main) == 0
    params = Path("params.yaml").read_text(encoding="utf-8")

    Path("params.yaml").write_text(params.replace("quantization: none", "quantization: nf4"), encoding="utf-8")
    assert "data/evaluation/base: the base arm has another precision, got none " in refused("evaluate", evaluate.main, capfd)
    Path("params.yaml").write_text(params, encoding="utf-8")

    path = Path("data/llamafactory/val.json")
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("急性心肌梗死", "主动脉夹层"), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    assert "data/evaluation/base: the base arm has another eval set, got " in refused("evaluate", evaluate.main, capfd)
    path.write_text(before, encoding="utf-8")

    path = Path("data/benchmarks/exam.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, list)
    for item in content:
        item["answer"] = "B" if item["answer"] == "A" else "A"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert "data/evaluation/base: the base arm has another set of items of " in refused("evaluate", evaluate.main, capfd)


@pytest.mark.parametrize("key", ["precision", "eval_set_hash", "prompts_hash.choice"])
def test_arms_that_were_brought_together_all_the_same_are_invalid(in_tmp: Path, key: str) -> None:
    write_arms()
    lie({key: "another"})
    assert judged() == ("INVALID", f"arms_differ:{key.removesuffix('_hash')}")


# ---- 5. failures dropped from the denominator


def test_failures_dropped_from_the_denominator_are_missed(in_tmp: Path) -> None:
    for dropped in (("base", "tuned"), ("tuned",)):
        write_arms()
        change("scores.parquet", lambda frame: frame.filter((pl.col("status") == "ok") | (pl.col("endpoint") != "choice")), *dropped)
        assert judged() == ("INVALID", "too_many_missing:choice")


# ---- 6. a looping model


def test_a_looping_model_makes_its_endpoint_invalid(in_tmp: Path) -> None:
    for texts in ((SOUND, LOOP), (LOOP, SOUND)):
        write_arms("open", texts)
        assert judged() == ("INVALID", "looping:open")


def test_a_looping_model_cannot_win_by_likelihood(in_tmp: Path) -> None:
    write_arms("choice", (SOUND, LOOP))
    assert judged() == ("TRADE-OFF", "")
    page = Path("data/verdict/verdict.md").read_text(encoding="utf-8")
    assert "但以下方面变差：自由回答不陷入循环。" in page
    assert "but it lost in: free replies that do not loop." in page
