"""LoRA, prefix and full fine-tunes through the same steps, and the best model by what it is worth: by loss or by its answers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from train_factory import CPU, QWEN3, Base, read_metrics, rows, write_train_workspace
from transformers import AutoTokenizer

from medcot import finetuning, training
from medcot.adapters import Identity
from medcot.attention import virtual_tokens
from medcot.errors import DataError, MachineError
from medcot.finetuning import Source, load_trainable
from medcot.generation_metric import GenerationMetric
from medcot.gpu_memory import GIB
from medcot.model import load_tuned
from medcot.model_params import ModelParams
from medcot.outcome import Outcome
from medcot.passes import TOKENS_PER_PASS
from medcot.preflight import check_rows
from medcot.stage import run_stage
from medcot.tasks import Prompting
from medcot.template import MASK
from medcot.train_params import TrainParams
from medcot.trainer import CotTrainer, TrainRow
from medcot.training import run, trainer_config
from stages import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def params(**values: Any) -> TrainParams:
    chosen = {"max_steps": 3, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "num_virtual_tokens": 5, **values}
    return TrainParams.model_validate(chosen)


def trainable_model(base: Base, settings: TrainParams, quantization: str = "nf4") -> Any:
    source = Source(base.model_dir, base.model_dir.parent / "import", base.identity(), base.tok)
    return load_trainable(source, settings, ModelParams.model_validate({"quantization": quantization}), CPU, base.encoded())


def run_training(base: Base, scratch: Path, settings: TrainParams, quantization: str = "nf4", **options: Any) -> tuple[Any, Outcome]:
    model = trainable_model(base, settings, quantization)
    tokenizer = AutoTokenizer.from_pretrained(base.tokenizer_dir)
    config = trainer_config(settings, CPU, 16, 6, scratch)
    return model, run(model, tokenizer, base.encoded(), base.encoded(6, start=100), settings, config, CPU, **options)


def losses(outcome: Outcome) -> list[float]:
    return [entry["loss"] for entry in outcome.log if "loss" in entry]


@torch.no_grad()
def masked_nll(model: Any, encoded: list[TrainRow]) -> float:
    """The definition: mean over supervised tokens of −log softmax of the logits before them, row by row."""
    total, count = 0.0, 0
    for row in encoded:
        log_probs = torch.log_softmax(model.eval()(torch.tensor([row.input_ids])).logits[0].float(), -1)
        for position, label in enumerate(row.labels):
            if label != MASK:
                total, count = total - log_probs[position - 1, label].item(), count + 1
    return total / count


# ---- a prefix through the trainer


@pytest.mark.parametrize(("tokens_per_pass", "smoothing"), [("100", 0.0), ("8192", 0.1)])
def test_a_prefix_learns_from_our_labels_in_passes_of_any_size(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens_per_pass: str, smoothing: float
) -> None:
    monkeypatch.setenv(TOKENS_PER_PASS, tokens_per_pass)
    settings = params(finetuning_type="prefix", per_device_train_batch_size=16, label_smoothing_factor=smoothing, learning_rate=1e-2)
    model = trainable_model(base, settings)
    before = {name: p.detach().clone() for name, p in model.base_model.named_parameters()}
    first = masked_nll(model, base.encoded())
    model, outcome = run_training(base, tmp_path, settings)
    if not smoothing:
        assert losses(outcome)[0] == pytest.approx(first, rel=1e-5)
    assert losses(outcome)[-1] < losses(outcome)[0]
    assert outcome.eval_loss == pytest.approx(masked_nll(model, base.encoded(6, start=100)), rel=1e-5)
    assert outcome.num_trainable == 5 * 2 * 2 * 2 * 16
    assert outcome.moved_rate == 1.0
    assert all(torch.equal(p, before[name]) for name, p in model.base_model.named_parameters())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_prefix_is_never_recomputed_whatever_memory_asks_for(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache would be dropped, and the prefix with it."""
    expected = losses(run_training(base, tmp_path / "kept", params(finetuning_type="prefix"))[1])
    original, asked = CotTrainer.settle, []

    def settle(self: CotTrainer, settings: TrainParams) -> None:
        original(self, settings)
        self.budget = type(self.budget)(self.budget.tokens, 0)  # no pass is small enough to keep its activations
        asked.append(self.budget)

    monkeypatch.setattr(CotTrainer, "settle", settle)
    assert losses(run_training(base, tmp_path / "asked", params(finetuning_type="prefix"))[1]) == expected
    assert asked


def test_rows_have_room_for_the_prefix_in_the_context(base: Base) -> None:
    model = trainable_model(base, params(finetuning_type="prefix"))
    assert virtual_tokens(model) == 5
    check_rows([TrainRow("fits", [1] * 2043, [1] * 2043)], model)
    with pytest.raises(DataError, match=r"row long is longer than the model's context of 2043 tokens, got 2044; set it to 2043 at most"):
        check_rows([TrainRow("long", [1] * 2044, [1] * 2044)], model)


def test_the_words_of_a_prefix_do_not_depend_on_the_order_of_the_rows(base: Base) -> None:
    source = Source(base.model_dir, base.model_dir, base.identity(), base.tok)
    model = ModelParams.model_validate({"quantization": "none"})
    one, other = (
        load_trainable(source, params(finetuning_type="prefix"), model, CPU, encoded).prompt_encoder["default"].embedding.weight
        for encoded in (base.encoded(), base.encoded()[::-1])
    )
    assert torch.equal(one, other)


# ---- every weight


def test_a_full_fine_tune_says_what_it_keeps_in_memory(base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medcot")
    model, outcome = run_training(base, tmp_path, params(finetuning_type="full", learning_rate=1e-3), "none")
    size = sum(p.numel() for p in model.parameters()) * (4 + 4 + 16) / GIB
    assert f"train: every weight: float32 masters, gradients and an update of adamw_torch take {size:.3g} GiB, activations" in caplog.text
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert outcome.moved_rate > 0.9
    assert outcome.eval_loss == pytest.approx(masked_nll(model, base.encoded(6, start=100)), rel=1e-5)


def test_a_full_fine_tune_that_cannot_be_is_one_line(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        trainable_model(base, params(finetuning_type="full"), "nf4")
    place = "params.yaml: train.finetuning_type"
    remedy = "set model.quantization: none"
    assert str(caught.value) == f"{place}: a full fine-tune needs weights that are not quantised, got full; {remedy}"
    monkeypatch.setattr(finetuning, "memory_limit", lambda: 20 * GIB)
    with pytest.raises(MachineError) as short:
        finetuning.check_full(params(finetuning_type="full"), ModelParams.model_validate({"quantization": "none"}), 7_600_000_000)
    assert str(short.value).startswith(f"{place}: a full fine-tune of 7.60 B parameters needs ")
    assert str(short.value).endswith("GiB, and the GPU has 20.0 GiB, got full; use lora, or an optimiser that keeps less")


# ---- the best model by its answers


class Scores:
    """A generation metric that gives these values, one an evaluation."""

    def __init__(self, *values: float) -> None:
        self.left = list(values)

    def check(self, model: Any) -> None:
        pass

    def __call__(self, model: Any) -> dict[str, float]:
        return {"eval_bleu_4": self.left.pop(0), "eval_rouge_l": 0.5}


CHOOSING = {"eval_steps": 1, "load_best_model_at_end": True, "eval_generate_rows": 4, "metric_for_best_model": "eval_bleu_4"}


def test_the_highest_score_is_best_of_equals_the_earlier_and_patience_follows_it(base: Base, tmp_path: Path) -> None:
    settings = params(max_steps=12, learning_rate=1e-2, early_stopping_steps=3, **CHOOSING)
    scores = Scores(0.1, 0.3, 0.2, 0.3, 0.25, 0.3)  # the fourth is as good as the second: no better; the last is that of what is kept
    model, outcome = run_training(base, tmp_path, settings, metric=scores)
    assert (outcome.best_step, outcome.steps) == (2, 5)
    assert scores.left == []
    assert outcome.generation == {"eval_bleu_4": 0.3, "eval_rouge_l": 0.5}
    by_step = {entry["step"]: entry for entry in outcome.log if "eval_loss" in entry}
    assert [by_step[step]["eval_bleu_4"] for step in range(1, 6)] == [0.1, 0.3, 0.2, 0.3, 0.25]
    assert by_step[5]["eval_loss"] < by_step[2]["eval_loss"] == pytest.approx(outcome.eval_loss)  # by loss, another would be
    assert masked_nll(model, base.encoded(6, start=100)) == pytest.approx(by_step[2]["eval_loss"], rel=1e-5)


def test_answers_in_between_change_nothing_in_the_training(base: Base, tmp_path: Path) -> None:
    values = {"max_steps": 4, "learning_rate": 1e-2, "lora_dropout": 0.3, "neftune_noise_alpha": 2.0, "eval_steps": 1}
    silent, one = run_training(base, tmp_path / "silent", params(**values))
    settings = params(**values, eval_generate_rows=3, eval_max_new_tokens=8)
    metric = GenerationMetric(rows(6, start=100), Prompting(base.tok, QWEN3, ""), settings)
    asked, two = run_training(base, tmp_path / "asked", settings, metric=metric)
    assert losses(one) == losses(two)
    assert one.eval_loss == two.eval_loss
    for (name, p), (_, q) in zip(silent.named_parameters(), asked.named_parameters(), strict=True):
        assert torch.equal(p, q), name
    assert one.generation == {}
    assert set(two.generation) == {"eval_bleu_4", "eval_rouge_l"}


def test_replies_beyond_the_context_are_refused_before_the_first_step(base: Base, tmp_path: Path) -> None:
    settings = params(eval_generate_rows=3, eval_max_new_tokens=5000)
    metric = GenerationMetric(rows(6, start=100), Prompting(base.tok, QWEN3, ""), settings)
    with pytest.raises(DataError, match=r"train.eval_max_new_tokens: the longest prompt leaves \d+ of the 2048 tokens"):
        run_training(base, tmp_path, settings, metric=metric)
    assert not list(tmp_path.iterdir())


# ---- the stage


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def adapter_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "models/adapter").iterdir()}


def test_the_stage_trains_a_prefix_chooses_by_answers_and_repeats_to_the_byte(base: Base, in_tmp: Path) -> None:
    values = {"finetuning_type": "prefix", "num_virtual_tokens": 5, "learning_rate": 1e-2, "eval_max_new_tokens": 8, **CHOOSING}
    write_train_workspace(in_tmp, base, **values)
    assert run_stage("train", train.main) == 0
    out, first = in_tmp / "models/adapter", adapter_bytes(in_tmp)
    assert load_file(out / "adapter_model.safetensors")["prompt_embeddings"].shape == (5, 128)
    assert [list(row) for row in table(out / "eval_log.csv")] == [["step", "eval_loss", "eval_bleu_4", "eval_rouge_l"]] * 4
    metrics = read_metrics(in_tmp)
    assert {"eval_loss", "eval_bleu_4", "eval_rouge_l", "best_step"} < set(metrics)
    kept = table(out / "eval_log.csv")[metrics["best_step"] - 1]
    assert all(metrics[name] == pytest.approx(float(kept[name]), rel=1e-6) for name in ("eval_loss", "eval_bleu_4", "eval_rouge_l"))
    text = (out / "llamafactory.yaml").read_text(encoding="utf-8")
    assert text.startswith("# A record of this run: LLaMA-Factory has no prefix tuning, and refuses this file.\n")
    assert yaml.safe_load(text)["finetuning_type"] == "prefix"
    tuned = load_tuned(in_tmp / "models/base/model", out, "nf4", CPU)
    encoded = base.encoded(6, start=100)
    assert masked_nll(tuned, encoded) == pytest.approx(metrics["eval_loss"], rel=1e-5)
    shutil.rmtree(out)
    assert run_stage("train", train.main) == 0
    assert adapter_bytes(in_tmp) == first


def test_a_prefix_that_was_trained_here_is_imported_unchanged(base: Base, in_tmp: Path) -> None:
    write_train_workspace(in_tmp, base, finetuning_type="prefix", num_virtual_tokens=5, learning_rate=1e-2)
    assert run_stage("train", train.main) == 0
    before = adapter_bytes(in_tmp)["adapter_model.safetensors"]
    (in_tmp / "models/import_adapter").mkdir()
    shutil.move(in_tmp / "models/adapter", in_tmp / "models/import_adapter/mine")
    write_train_workspace(in_tmp, base, adapter="mine")
    assert run_stage("train", train.main) == 0
    assert adapter_bytes(in_tmp)["adapter_model.safetensors"] == before
    assert json.loads((in_tmp / "models/adapter/medcot.json").read_text()) == vars_of(base.identity())


def vars_of(identity: Identity) -> dict[str, str]:
    return {"base": identity.base, "template": identity.template, "tokenizer": identity.tokenizer}


RESUMED: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 1e-3},
    "prefix": {"learning_rate": 1e-2, "num_virtual_tokens": 5, "eval_generate_rows": 2, "eval_max_new_tokens": 4},
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_that_keeps_its_best_model_goes_on_to_the_same_bytes(
    base: Base, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    values = {"finetuning_type": kind, "max_steps": 4, "eval_steps": 1, "load_best_model_at_end": True, **RESUMED[kind]}
    write_train_workspace(in_tmp, base, "none" if kind == "full" else "nf4", **values)
    assert run_stage("train", train.main) == 0
    whole, metrics = adapter_bytes(in_tmp), read_metrics(in_tmp)
    shutil.rmtree(in_tmp / "models/adapter")
    with monkeypatch.context() as patch:
        original = CotTrainer.training_step

        def training_step(self: CotTrainer, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 2:
                raise DataError("here", "a stop in the middle", "go on")
            return original(self, *args, **kwargs)

        patch.setattr(CotTrainer, "training_step", training_step)
        assert run_stage("train", train.main) == 2
    resumed = []
    with monkeypatch.context() as patch:
        newest = training.newest_checkpoint
        patch.setattr(training, "newest_checkpoint", lambda path: resumed.append(newest(path)) or resumed[-1])
        assert run_stage("train", train.main) == 0
    assert resumed[0].name == "checkpoint-2"
    assert adapter_bytes(in_tmp) == whole
    assert read_metrics(in_tmp) == metrics
