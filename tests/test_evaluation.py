"""Segments, arms and their comparison: what is scored, what may be subtracted, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from evaluation_factory import PROBES, ROWS, eval_set, params, write_adapter, write_workspace
from model_factory import tiny_model, tiny_model_dir
from transformers import StableLmConfig, StableLmForCausalLM

from medcot.arm import SEGMENTS, Arm, arm_metrics, pool, read_arm, score_metrics, write_arm
from medcot.attention import packs
from medcot.comparison import (
    ALIKE,
    check_alike,
    comparison_metrics,
    endpoint_comparison,
    escape,
    pair_rows,
    segment_metrics,
    side_by_side,
)
from medcot.errors import DataError
from medcot.evaluate_params import EvaluateParams
from medcot.evaluation import describe_arm, score_rows, segment_spans, weights_hash
from medcot.evidence import Evidence, run_arm
from medcot.llamafactory import Row, render_row, write_rows
from medcot.model import choose_hardware, describe_model_dir, load_base
from medcot.model_params import ModelParams
from medcot.params import load_section, parse_section
from medcot.probes import Reply
from medcot.tasks import Score, score_frame
from medcot.template import encode, get_template

ROOT = Path(__file__).resolve().parent.parent
MODEL = Path("models/base/model")


@pytest.fixture
def data(in_tmp):
    write_workspace(in_tmp)
    return eval_set(in_tmp)


@pytest.fixture
def model(data):
    return tiny_model(len(data.tok))


def manifest_of(data, quantization="none", **values):
    return describe_arm(data, params(**values), quantization, choose_hardware(), MODEL)


def reply(text: str, **values) -> Reply:
    return Reply(**{"id": "x", "question": "头晕？", "text": text, "think_state": "explicit", "reasoning": "想", "answer": text} | values)


def test_segments_hold_the_words_and_never_a_control_token(data):
    for row in ROWS:
        gold, empty = segment_spans(row, data)
        text = {name: data.tok.decode(gold.input_ids[span.start : span.stop]) for name, span in gold.spans.items()}
        assert text["reasoning"].rstrip("\n") == row.reasoning
        assert text["answer_given_gold"] == row.answer
        assert text["end"] == "<|im_end|>"
        assert [name for spans in (gold, empty) for name in spans.spans] == ["reasoning", "answer_given_gold", "end", SEGMENTS[2]]
        span = empty.spans["answer_given_empty_think"]
        assert data.tok.decode(empty.input_ids[span.start : span.stop]) == row.answer
        assert data.tok.decode(empty.input_ids[: span.start]).endswith("<think>\n\n</think>\n\n")
        assert row.reasoning not in data.tok.decode(empty.input_ids)
        controls = data.tok.control_ids
        for spans in (gold, empty):
            for name, positions in spans.spans.items():
                assert name == "end" or not controls & {spans.input_ids[i] for i in positions}


def test_the_spans_of_a_row_and_its_control_tokens_add_up_to_the_training_loss(data, model):
    frame = score_rows(model, data, 300)
    for row in ROWS:
        encoded = encode(data.tok, data.template, row.question, row.reasoning, row.answer)
        inside = {*encoded.reasoning, *encoded.answer, len(encoded.input_ids) - 1}
        labels = [label if i in inside else -100 for i, label in enumerate(encoded.labels)]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([encoded.input_ids]), labels=torch.tensor([labels])).loss
        wanted = ["reasoning", "answer_given_gold", "end"]
        total = frame.filter((pl.col("id") == row.id) & pl.col("segment").is_in(wanted))["nll"].sum()
        assert total == pytest.approx(float(loss) * len(inside), rel=1e-4)


def test_sizes_are_tokens_characters_and_bytes_of_the_text(data, model):
    frame = score_rows(model, data, 300)
    assert frame.columns == ["set", "id", "segment", "nll", "num_tokens", "num_chars", "num_bytes"]
    answer = frame.row(by_predicate=(pl.col("id") == "1c") & (pl.col("segment") == "answer_given_gold"), named=True)
    assert (answer["num_chars"], answer["num_bytes"]) == (5, 15)
    end = frame.filter(pl.col("segment") == "end")
    assert end["num_tokens"].to_list() == [1] * len(ROWS)
    assert end["num_chars"].sum() == end["num_bytes"].sum() == 0


def test_a_uniform_model_has_the_vocabulary_as_perplexity_in_every_segment(data, model):
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    metrics = arm_metrics(run_arm(model, data, Evidence(), params(), manifest_of(data)))
    for name in (*SEGMENTS, "all"):
        assert metrics[name]["perplexity"] == pytest.approx(len(data.tok), rel=1e-6)
        assert metrics[name]["nll_se"] == pytest.approx(0.0, abs=1e-7)


def test_bits_per_character_is_the_nll_in_bits_over_the_characters(data, model):
    frame = score_rows(model, data, 300)
    metrics = arm_metrics(Arm(frame, [], {}))
    rows = frame.filter(pl.col("segment") == "reasoning")
    chars = sum(len(row.reasoning) for row in ROWS)
    assert metrics["reasoning"]["bits_per_char"] == pytest.approx(rows["nll"].sum() / math.log(2) / chars, rel=1e-12)
    assert "bits_per_char" not in metrics["end"]


def test_all_is_reasoning_and_the_answer_after_it(data, model):
    frame = score_rows(model, data, 300)
    both = frame.filter(pl.col("segment").is_in(["reasoning", "answer_given_gold"]))
    assert pool(frame, "all")["num_tokens"].sum() == both["num_tokens"].sum()
    assert pool(frame, "all")["nll"].sum() == pytest.approx(both["nll"].sum(), rel=1e-12)
    assert pool(frame, "all")["id"].to_list() == [row.id for row in ROWS]


def test_a_segment_without_tokens_is_left_out(data, model):
    frame = score_rows(model, dataclasses.replace(data, rows=[Row("0a", "头痛？", "", "休息。")]), 300)
    assert set(arm_metrics(Arm(frame, [], {}))) == {"answer_given_gold", "answer_given_empty_think", "end", "all", "endpoints", "probes"}


def test_a_perplexity_beyond_a_float_is_left_out():
    pooled = pl.DataFrame({"nll_base": [2000.0], "nll_tuned": [1.0], "num_tokens": [1], "num_chars": [1]})
    metrics = segment_metrics(pooled, 0.95)
    assert "perplexity" not in metrics["base"]
    assert "perplexity" not in metrics["delta"]
    assert metrics["tuned"]["perplexity"] == math.e


def test_swapping_the_arms_negates_every_difference_exactly(data):
    base, tuned = (score_rows(tiny_model(len(data.tok), seed), data, 300) for seed in (0, 1))
    forth = comparison_metrics(Arm(base, [], {}), Arm(tuned, [], {}), pair_rows("x", base, tuned), 0.95)
    back = comparison_metrics(Arm(tuned, [], {}), Arm(base, [], {}), pair_rows("x", tuned, base), 0.95)
    for name in (*SEGMENTS, "all"):
        a, b = forth[name]["delta"], back[name]["delta"]
        assert all(a[key] == -b[key] != 0 for key in ("nll", "perplexity"))
        assert (a["ci_low"], a["ci_high"], a["nll_se"]) == (-b["ci_high"], -b["ci_low"], b["nll_se"])
        assert forth[name]["base"] == back[name]["tuned"]


def test_an_arm_is_read_back_as_it_was_written(data, model, tmp_path):
    arm = run_arm(model, data, Evidence(), params(probes=PROBES, probe_max_new_tokens=5), manifest_of(data))
    write_arm(tmp_path, arm)
    again = read_arm(tmp_path, "run it")
    assert again.frame.equals(arm.frame)
    assert (again.probes, again.manifest) == (arm.probes, arm.manifest)


@pytest.mark.parametrize("name", ["manifest.json", "probes.jsonl", "rows.parquet"])
@pytest.mark.parametrize("content", [b"\xff{", b"[1]\n", None])
def test_a_broken_arm_is_refused_with_its_remedy(data, model, tmp_path, name, content):
    write_arm(tmp_path, run_arm(model, data, Evidence(), params(probes=PROBES[:1], probe_max_new_tokens=2), manifest_of(data)))
    (tmp_path / name).unlink()
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"(the arm is missing|the arm cannot be read.*); run it$|the file is missing; run `dvc repro`"):
        read_arm(tmp_path, "run it")


def test_equal_arms_are_alike_and_every_difference_is_named(data):
    manifest = manifest_of(data)
    check_alike("here", manifest, {**manifest, "adapter_hash": "x"})
    assert {*ALIKE} >= {"eval_set_hash", "template_hash", "tokenizer_hash", "base_fingerprint", "precision"}
    for key, name in ALIKE.items():
        with pytest.raises(
            DataError, match=rf"^here: the base arm has another {name}, got None instead of .*; run `dvc repro -f evaluate_base`"
        ):
            check_alike("here", {**manifest, key: None}, {**manifest, key: "x"})


def test_the_manifest_tells_the_attention_that_the_base_is_loaded_with(data):
    """Layers of another kind than plain attention are loaded with sdpa, whatever the hardware asks for."""
    hardware = choose_hardware()
    assert hardware.attention == "varlen"
    assert packs(load_base(MODEL, "none", hardware))
    assert manifest_of(data)["precision"] == f"none {hardware.dtype} varlen {hardware.device}"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    StableLmForCausalLM(StableLmConfig(vocab_size=len(data.tok), **sizes)).save_pretrained(MODEL)
    describe_model_dir("demo", MODEL, path=".").write(MODEL)
    assert not packs(load_base(MODEL, "none", hardware))
    assert manifest_of(data)["precision"] == f"none {hardware.dtype} sdpa {hardware.device}"


def test_the_manifest_follows_what_is_measured(data, in_tmp):
    manifest = manifest_of(data)

    def changed(**replaced: object) -> set[str]:
        other = manifest_of(dataclasses.replace(data, **replaced))
        return {key for key in manifest if manifest[key] != other[key]}

    assert changed() == set()
    assert changed(rows=ROWS[:3]) == {"eval_set_hash", "num_rows"}
    assert changed(rows=[*ROWS[:3], dataclasses.replace(ROWS[3], answer="给氧 3 L/min。")]) == {"eval_set_hash"}
    assert changed(system="你是一名医生。") == {"template_hash"}
    assert changed(template=get_template("deepdoctor")) == {"template_hash"}
    assert manifest_of(data, "nf4")["precision"] == manifest["precision"].replace("none", "nf4")
    assert manifest_of(data, probes=["头晕？"])["probes_hash"] != manifest["probes_hash"]
    assert manifest_of(data, probe_max_new_tokens=5)["probes_hash"] != manifest["probes_hash"]
    assert manifest_of(data, confidence=0.9, max_tokens_per_batch=7) == manifest
    tiny_model_dir(MODEL, Path("models/base/tokenizer"), seed=1)
    assert {key for key, value in manifest_of(data).items() if value != manifest[key]} == {"base_fingerprint"}


def test_two_adapters_are_the_same_when_their_weights_are(in_tmp):
    write_workspace(in_tmp)
    hashes = []
    for spread in (0.0, 0.1, 0.1):
        write_adapter(in_tmp, spread)
        hashes.append(weights_hash(Path("models/adapter")))
    assert hashes[0] != hashes[1] == hashes[2]


def frame(*lines: tuple[str, str, float, int]) -> pl.DataFrame:
    rows = [("heldout", *line, 3, 9) for line in lines]
    return pl.DataFrame(rows, schema=["set", "id", "segment", "nll", "num_tokens", "num_chars", "num_bytes"], orient="row")


def test_rows_are_paired_by_id_and_segment_in_any_order():
    base = frame(("b", "reasoning", 4.0, 2), ("a", "reasoning", 3.0, 2), ("a", "end", 1.0, 1))
    tuned = frame(("a", "reasoning", 2.5, 2), ("a", "end", 1.5, 1), ("b", "reasoning", 4.0, 2))
    paired = pair_rows("here", base, tuned)
    assert paired.columns == ["set", "id", "segment", "num_tokens", "num_chars", "num_bytes", "nll_base", "nll_tuned", "delta"]
    assert paired.select("id", "segment", "delta").rows() == [("a", "reasoning", -0.5), ("a", "end", 0.5), ("b", "reasoning", 0.0)]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ([("a", "end", 1.0, 1)], "1 lines are missing in the base arm, got heldout b end"),
        ([("a", "end", 1.0, 1), ("b", "end", 1.0, 1), ("c", "end", 1.0, 1)], "1 lines are missing in the tuned arm, got heldout c end"),
        ([("a", "end", 1.0, 1), ("b", "end", 1.0, 1), ("b", "end", 1.0, 1)], "a row of the base arm stands twice, got heldout b end"),
        ([("a", "end", 1.0, 1), ("b", "end", 1.0, 2)], "the arms count another number of tokens, got heldout b end"),
    ],
)
def test_rows_that_do_not_pair_are_refused(base, message):
    tuned = frame(("a", "end", 1.0, 1), ("b", "end", 1.0, 1))
    with pytest.raises(DataError, match=f"^here: {message}; run `dvc repro -f evaluate_base`"):
        pair_rows("here", frame(*base), tuned)


def test_the_metrics_of_an_endpoint_take_its_contaminated_items_too():
    """As the reference pages say; docs/reference.md names the verdict as the place where the clean ones stand apart."""
    seen, clean = (
        Score("choice", "考试 exam", item, 0, item, item == "seen", float(item == "seen"), "ok", "A") for item in ("seen", "题1")
    )
    scores = score_frame([seen, clean])
    assert score_metrics(scores) == {"choice": {"score": 0.5, "num_items": 2, "num_replies": 2, "num_failed": 0}}
    base, tuned = (Arm(frame(), [], {}, scores=one) for one in (scores.with_columns(score=pl.lit(0.0)), scores))
    assert endpoint_comparison(base, tuned) == {"choice": {"base": 0.0, "tuned": 0.5, "delta": 0.5}}


def test_an_empty_split_is_refused(in_tmp):
    write_workspace(in_tmp, rows=[])
    with pytest.raises(DataError, match=r"val.json: the split has no rows; raise convert.val_ratio, or give more data$"):
        eval_set(in_tmp)


def test_an_id_that_stands_twice_is_refused(in_tmp):
    write_workspace(in_tmp)
    twice = [render_row(row, get_template("qwen3"), "", "alpaca") for row in (*ROWS, ROWS[1])]
    write_rows(in_tmp / "data/llamafactory/val.json", twice)
    with pytest.raises(DataError, match="1 ids stand twice, got 0b; run `dvc repro -f convert`"):
        eval_set(in_tmp)


def test_a_template_that_does_not_fit_the_tokenizer_is_refused(in_tmp):
    write_workspace(in_tmp)
    with pytest.raises(DataError, match="template deepseekr1 does not fit the tokenizer"):
        eval_set(in_tmp, model=ModelParams(template="deepseekr1"))


def test_sharegpt_rows_are_the_same_eval_set(in_tmp, data):
    write_rows(in_tmp / "data/llamafactory/val.json", (render_row(row, get_template("qwen3"), "", "sharegpt") for row in ROWS))
    assert manifest_of(eval_set(in_tmp)) == manifest_of(data)


def test_replies_stand_side_by_side_and_cannot_be_markup():
    base = [reply("<script>alert(1)</script>\n\n| **a** |", truncated=True, think_state="unclosed", num_new_tokens=7)]
    tuned = [reply("休息。\n</td></table>\r\x1b[31m", num_new_tokens=9, truncated=False)]
    text = side_by_side(base, tuned)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;<br><br>| **a** |" in text
    assert "休息。<br>&lt;/td&gt;&lt;/table&gt;\\r\\x1b[31m" in text
    assert "thought: unclosed, 7 tokens, truncated" in text
    table = text[text.index("<table>") :]
    assert "\n\n" not in table.strip()
    assert table.count("<table>") == table.count("</table>") == 1


def test_escaped_text_keeps_letters_and_shows_what_cannot_be_seen():
    assert escape("胸痛 ≥3 天，½ 片 & <b>") == "胸痛 ≥3 天，½ 片 &amp; &lt;b&gt;"
    assert escape("a\u202eb\u2028c") == "a\\u202eb\\u2028c"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "train"}, "evaluate.split: input should be 'val' or 'test', got train"),
        ({"splits": "val"}, "evaluate.splits: unknown key, got val; did you mean `split`?"),
        ({"max_tokens_per_batch": 0}, "evaluate.max_tokens_per_batch: input should be greater than or equal to 1, got 0"),
        ({"confidence": 95.0}, "evaluate.confidence: input should be less than 1, got 95.0"),
        ({"probes": "头晕？"}, "evaluate.probes: input should be a valid list, got 头晕？"),
        ({"probes": [1]}, "evaluate.probes.0: input should be a valid string, got 1"),
        ({"probe_max_new_tokens": 0}, "evaluate.probe_max_new_tokens: input should be greater than or equal to 1, got 0"),
    ],
)
def test_params_out_of_range_name_their_key(values, message):
    with pytest.raises(DataError) as error:
        parse_section("evaluate", values, EvaluateParams)
    assert f"params.yaml: {message}" in str(error.value)


def test_the_shipped_params_are_valid_and_look_at_val():
    shipped = load_section("evaluate", EvaluateParams, ROOT / "params.yaml")
    assert shipped.split == "val"
    assert len(shipped.probes) == len(set(shipped.probes)) >= 4
    assert {any("\u4e00" <= c <= "\u9fff" for c in probe) for probe in shipped.probes} == {True, False}
