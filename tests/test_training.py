"""The trainer on a tiny NF4 base: whose labels, which precision, how many rows in a step, and what stops a run."""

from __future__ import annotations

import itertools
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from train_factory import CPU, PADDED, Base
from transformers import AutoTokenizer, TrainerCallback

from medcot.adapters import add_adapter
from medcot.attention import packs
from medcot.errors import DataError, MachineError, TrainingError
from medcot.nll import Spans, span_nll
from medcot.outcome import Outcome
from medcot.paths import PlainPath
from medcot.template import MASK
from medcot.train_params import TrainParams
from medcot.trainer import Collator, CotTrainer, TrainRow
from medcot.training import run, trainer_config


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def params(**values: Any) -> TrainParams:
    return TrainParams.model_validate({"max_steps": 3, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", **values})


def train(base: Base, scratch: Path, settings: TrainParams, rows: int = 16, val: int = 6, model: Any = None) -> tuple[Any, Outcome]:
    """Train a fresh adapter, or the given model, and return it with the outcome."""
    model = model or base.adapted(settings)
    tokenizer = AutoTokenizer.from_pretrained(base.tokenizer_dir)
    config = trainer_config(settings, CPU, rows, val, scratch)
    return model, run(model, tokenizer, base.encoded(rows), base.encoded(val, start=100), settings, config, CPU)


def losses(outcome: Outcome) -> list[float]:
    return [entry["loss"] for entry in outcome.log if "loss" in entry]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def masked_nll(model: Any, rows: list[TrainRow]) -> float:
    """The definition: mean over supervised tokens of −log softmax of the logits before them, in float32, row by row."""
    total, count = 0.0, 0
    model.eval()
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.input_ids])).logits[0].float()
        for position, label in enumerate(row.labels):
            if label != MASK:
                total -= torch.log_softmax(logits[position - 1], -1)[label].item()
                count += 1
    return total / count


def test_the_trainer_learns_from_exactly_our_labels(base: Base, tmp_path: Path) -> None:
    settings = params(max_steps=1, per_device_train_batch_size=16)
    expected = masked_nll(base.adapted(settings), base.encoded())
    _, outcome = train(base, tmp_path, settings)
    assert losses(outcome)[0] == pytest.approx(expected, rel=1e-5)
    everything = [TrainRow(row.id, row.input_ids, row.input_ids) for row in base.encoded()]
    assert abs(masked_nll(base.adapted(settings), everything) - expected) > 0.01  # so the prompt's labels would have shown


def test_label_smoothing_is_its_formula(base: Base, tmp_path: Path) -> None:
    settings = params(max_steps=1, per_device_train_batch_size=16, label_smoothing_factor=0.2)
    model, rows = base.adapted(settings).eval(), base.encoded()
    nll, uniform, count = 0.0, 0.0, 0
    for row in rows:
        with torch.no_grad():
            log_probs = torch.log_softmax(model(torch.tensor([row.input_ids])).logits[0].float(), -1)
        for position, label in enumerate(row.labels):
            if label != MASK:
                nll, uniform, count = (
                    nll - log_probs[position - 1, label].item(),
                    uniform - log_probs[position - 1].mean().item(),
                    count + 1,
                )
    _, outcome = train(base, tmp_path, settings)
    assert losses(outcome)[0] == pytest.approx((0.8 * nll + 0.2 * uniform) / count, rel=1e-5)


def test_neftune_changes_training_and_leaves_the_val_loss_a_true_nll(base: Base, tmp_path: Path) -> None:
    plain = losses(train(base, tmp_path / "a", params())[1])
    model, outcome = train(base, tmp_path / "b", params(neftune_noise_alpha=5.0))
    assert losses(outcome)[0] != plain[0]
    assert outcome.eval_loss == pytest.approx(masked_nll(model, base.encoded(6, start=100)), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_the_val_loss_is_the_mean_over_tokens_for_any_batch_size(base: Base, tmp_path: Path, batch_size: int) -> None:
    settings = params(per_device_eval_batch_size=batch_size, learning_rate=1e-2)
    model, outcome = train(base, tmp_path, settings)
    rows = base.encoded(6, start=100)
    assert outcome.eval_loss == pytest.approx(masked_nll(model, rows), rel=1e-5)
    spans = [Spans(row.input_ids, {"all": range(row.labels.count(MASK), len(row.labels))}) for row in rows]
    scored = sum(one["all"] for one in span_nll(model, spans, 256)) / sum(len(one.spans["all"]) for one in spans)
    assert outcome.eval_loss == pytest.approx(scored, rel=1e-5)  # as the evaluation will measure it


def test_trainable_parameters_are_float32_while_training(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[torch.dtype]] = []
    original = CotTrainer.training_step

    def spy(self: CotTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append({p.dtype for p in self.model.parameters() if p.requires_grad})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(CotTrainer, "training_step", spy)
    train(base, tmp_path, params(use_dora=True, additional_target="embed_tokens"))
    assert seen == [{torch.float32}] * 3


class Touched(TrainerCallback):  # type: ignore[misc]
    """Which elements of which parameter ever had a gradient."""

    def __init__(self) -> None:
        self.elements: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for name, p in model.named_parameters():
            if p.requires_grad:
                self.elements[name] = self.elements.get(name, torch.zeros(p.shape, dtype=torch.bool)) | (p.grad != 0)


def moved(base: Base, scratch: Path, masters: torch.dtype) -> dict[str, float]:
    """Share of elements that moved in lora_A and lora_B over ten steps at 5e-6, with masters of this dtype."""
    settings = params(learning_rate=5e-6, max_steps=10)
    rows, tokenizer = base.encoded(), AutoTokenizer.from_pretrained(base.tokenizer_dir)
    cls = CotTrainer if masters == torch.float32 else BfloatTrainer
    trainer = cls(
        base.adapted(settings),
        rows=rows,
        params=settings,
        hardware=CPU,
        args=trainer_config(settings, CPU, len(rows), 0, scratch),
        processing_class=tokenizer,
    )
    before, seen = weights(trainer.model), Touched()
    trainer.add_callback(seen)
    trainer.train()
    result, touched = {}, seen.elements
    for part in ("lora_A", "lora_B"):
        pairs = [(before[n][touched[n]], p[touched[n]]) for n, p in weights(trainer.model).items() if part in n]
        assert sum(a.numel() for a, _ in pairs) > 1000
        result[part] = sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    return result


class BfloatTrainer(CotTrainer):
    """As TRL would have it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for p in self.model.parameters():
            if p.requires_grad:
                p.data = p.data.bfloat16()


@pytest.mark.parametrize("path", ["plain", "fused"])
def test_at_5e_6_all_elements_move_because_the_masters_are_float32(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
    shares = moved(base, tmp_path / "fp32", torch.float32)
    assert shares["lora_A"] > 0.99
    assert shares["lora_B"] > 0.99


def test_in_bfloat16_most_elements_would_stay_where_they_are(base: Base, tmp_path: Path) -> None:
    # lora_B starts at zero, where bfloat16 is fine too; lora_A does not.
    assert moved(base, tmp_path / "bf16", torch.bfloat16)["lora_A"] < 0.3


def test_the_metric_counts_moved_elements(base: Base, tmp_path: Path) -> None:
    model = base.adapted(params())
    before = weights(model)
    model, outcome = train(base, tmp_path, params(learning_rate=1e-3), model=model)
    after = weights(model)
    share = sum(int((before[n] != after[n]).sum()) for n in before) / sum(p.numel() for p in before.values())
    assert outcome.moved_rate == pytest.approx(share)
    assert share > 0.9
    assert outcome.num_trainable == sum(p.numel() for p in before.values())
    assert train(base, tmp_path / "still", params(learning_rate=0.0))[1].moved_rate == 0


def test_a_step_is_batch_times_accumulation_rows(base: Base, tmp_path: Path) -> None:
    whole, one = train(base, tmp_path / "8x1", params(per_device_train_batch_size=8, learning_rate=1e-3))
    parts, two = train(base, tmp_path / "2x4", params(per_device_train_batch_size=2, gradient_accumulation_steps=4, learning_rate=1e-3))
    assert one.steps == two.steps == 3
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(parts)[name], rtol=1e-3, atol=1e-5)
    other = losses(train(base, tmp_path / "4x1", params(per_device_train_batch_size=4, learning_rate=1e-3))[1])
    assert other != pytest.approx(losses(one), rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_packed_in_parts_and_padded_in_one_batch_the_same_rows_teach_the_same(base: Base, tmp_path: Path, smoothing: float) -> None:
    """Loss, gradient and weights depend on the rows of a step alone: not on packing, nor on the parts that the step is made in."""
    settings = {"learning_rate": 1e-3, "label_smoothing_factor": smoothing}
    packed, one = train(base, tmp_path / "packed", params(per_device_train_batch_size=4, gradient_accumulation_steps=4, **settings))
    whole = params(per_device_train_batch_size=16, **settings)
    padded = add_adapter(base.model("nf4", PADDED), whole, str(base.model_dir))
    assert packs(packed)
    assert not packs(padded)
    padded, two = train(base, tmp_path / "padded", whole, model=padded)
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)
    norms = [[entry["grad_norm"] for entry in outcome.log if "grad_norm" in entry] for outcome in (one, two)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert one.eval_loss == pytest.approx(two.eval_loss, rel=1e-5)
    for name, value in weights(packed).items():
        torch.testing.assert_close(value, weights(padded)[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_each_schedule_runs_its_course(base: Base, tmp_path: Path, scheduler: str) -> None:
    settings = params(max_steps=6, lr_scheduler_type=scheduler, warmup_ratio=0.3, learning_rate=1e-3)
    _, outcome = train(base, tmp_path, settings)
    rates = [entry["learning_rate"] for entry in outcome.log if "learning_rate" in entry]
    shape = {
        "linear": lambda step: (6 - step) / 4,
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * (step - 2) / 4)),
        "constant": lambda step: 1.0,
        "constant_with_warmup": lambda step: 1.0,
        "polynomial": lambda step: (1e-3 - 1e-7) / 1e-3 * (6 - step) / 4 + 1e-4,
        "inverse_sqrt": lambda step: math.sqrt(2 / step),
    }[scheduler]
    warm = [1.0, 1.0] if scheduler == "constant" else [0.0, 0.5]
    assert rates == pytest.approx([1e-3 * factor for factor in (*warm, *(shape(step) for step in range(2, 6)))], rel=1e-6)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd"])
def test_each_optimiser_moves_the_adapter_on_a_cpu(base: Base, tmp_path: Path, optim: str) -> None:
    # Rank 64: bitsandbytes keeps 8-bit states only of tensors from 4,096 elements.
    rate = 1.0 if optim == "sgd" else 1e-3
    _, outcome = train(base, tmp_path, params(optim=optim, lora_rank=64, learning_rate=rate, max_steps=6))
    assert outcome.moved_rate > 0.9
    assert losses(outcome)[-1] < losses(outcome)[0]


@pytest.mark.parametrize(
    "values",
    [{"use_rslora": True}, {"use_dora": True}, {"lora_dropout": 0.2}, {"gradient_checkpointing": True}, {"lora_target": "q_proj,v_proj"}],
)
def test_each_kind_of_adapter_learns(base: Base, tmp_path: Path, values: dict[str, Any]) -> None:
    _, outcome = train(base, tmp_path, params(**values, learning_rate=5e-3, max_steps=8))
    assert losses(outcome)[-1] < losses(outcome)[0]


def test_checkpointing_and_evaluation_in_between_do_not_change_the_training(base: Base, tmp_path: Path) -> None:
    """bitsandbytes would repack the weights at the first evaluation, and gradients would be lost from then on."""
    plain, _ = train(base, tmp_path / "a", params(max_steps=6, learning_rate=1e-3))
    watched, outcome = train(base, tmp_path / "b", params(max_steps=6, learning_rate=1e-3, eval_steps=1, save_steps=2))
    assert [entry["step"] for entry in outcome.log if "eval_loss" in entry] == [1, 2, 3, 4, 5, 6]
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(watched)[name])
    recomputed, _ = train(base, tmp_path / "c", params(max_steps=6, learning_rate=1e-3, gradient_checkpointing=True))
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, weights(recomputed)[name], rtol=1e-4, atol=1e-6)


def test_the_best_model_is_kept_and_training_stops_early(base: Base, tmp_path: Path) -> None:
    settings = params(max_steps=40, learning_rate=3e-2, eval_steps=2, load_best_model_at_end=True, early_stopping_steps=3)
    model, outcome = train(base, tmp_path, settings, rows=4)
    by_step = {entry["step"]: entry["eval_loss"] for entry in outcome.log if "eval_loss" in entry}
    best = min(by_step, key=lambda step: by_step[step])
    assert outcome.steps == best + 3 * 2 < 40
    assert outcome.eval_loss == pytest.approx(by_step[best], rel=1e-6)
    assert masked_nll(model, base.encoded(6, start=100)) == pytest.approx(by_step[best], rel=1e-5)


def test_the_best_model_needs_val_rows(base: Base, tmp_path: Path) -> None:
    settings = params(eval_steps=2, load_best_model_at_end=True)
    with pytest.raises(DataError, match=r"load_best_model_at_end: there are no val rows to choose by; raise convert.val_ratio"):
        train(base, tmp_path, settings, val=0)
    assert train(base, tmp_path, params(eval_steps=2), val=0)[1].eval_loss is None


def poison(trainer_step: int, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Let the loss, or a gradient, be NaN or infinite at a step."""
    original = PlainPath._loss

    def loss_of(self: PlainPath, batch: dict[str, Any], num_items: int) -> torch.Tensor:
        loss = original(self, batch, num_items)
        if self.trainer.is_in_train and self.trainer.state.global_step + 1 == trainer_step:
            if what == "gradient":
                loss.register_hook(lambda grad: grad * float("inf"))
            else:
                return loss * float(what)
        return loss

    monkeypatch.setattr(PlainPath, "_loss", loss_of)


@pytest.mark.parametrize(("what", "name"), [("nan", "the loss"), ("inf", "the loss"), ("gradient", "the gradient norm")])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_number_that_is_not_finite_stops_the_run_and_names_step_and_records(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, name: str, max_grad_norm: float
) -> None:
    poison(4, monkeypatch, what)
    settings = params(max_steps=6, save_steps=1, gradient_accumulation_steps=2, max_grad_norm=max_grad_norm)
    with pytest.raises(TrainingError) as caught:
        train(base, tmp_path, settings)
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert message.startswith("train: step 4, records 0000")
    assert f"{name} is not finite" in message
    ids = message.split("records ")[1].split(":")[0].split(", ")
    assert len(ids) == len(set(ids)) == 8, "all rows of the step"
    assert set(ids) <= {row.id for row in base.encoded()}
    last = tmp_path / "checkpoint-3"
    assert (last / "complete").is_file()
    assert str(last) in message


def test_a_val_loss_that_is_not_finite_stops_the_run(base: Base, tmp_path: Path) -> None:
    settings = params()
    model = base.adapted(settings)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="is not finite"):
        train(base, tmp_path, settings, model=model)


def test_float16_lets_the_loss_scaler_skip_a_step_and_stops_when_the_scale_has_run_out(base: Base, tmp_path: Path) -> None:
    class Scaler:
        scale = 65536.0

        def get_scale(self) -> float:
            return self.scale

    settings = params()
    model = base.adapted(settings)
    rows, tokenizer = base.encoded(), AutoTokenizer.from_pretrained(base.tokenizer_dir)
    config = trainer_config(settings, CPU, len(rows), 0, tmp_path)
    trainer = CotTrainer(model, rows=rows, params=settings, hardware=CPU, args=config, processing_class=tokenizer)
    trainer.accelerator.scaler = Scaler()
    next(p for p in model.parameters() if p.requires_grad).grad = torch.tensor(float("inf")).expand(8, 64).clone()
    assert not math.isfinite(float(trainer._get_grad_norm(model)))
    trainer.accelerator.scaler.scale = 1.0
    with pytest.raises(TrainingError, match="the gradient norm is not finite"):
        trainer._get_grad_norm(model)


def test_a_run_that_could_learn_nothing_is_refused(base: Base, tmp_path: Path) -> None:
    settings = params()
    tokenizer = AutoTokenizer.from_pretrained(base.tokenizer_dir)
    config = trainer_config(settings, CPU, 4, 0, tmp_path)
    rows = base.encoded(4)
    masked = TrainRow("masked", rows[0].input_ids, [MASK] * len(rows[0].labels))
    with pytest.raises(DataError, match=r"data/llamafactory/train.json: no training rows; look at metrics/convert.json"):
        run(base.adapted(settings), tokenizer, [], [], settings, config, CPU)
    with pytest.raises(DataError, match="1 rows have every label masked, got masked; run `dvc repro -f convert`"):
        run(base.adapted(settings), tokenizer, [*rows, masked], [], settings, config, CPU)
    with pytest.raises(DataError, match="no parameter would be trained"):
        run(base.model().requires_grad_(False), tokenizer, rows, [], settings, config, CPU)
    outside = TrainRow("outside", [5000, 1], [MASK, 1])
    with pytest.raises(DataError, match=r"an id outside the model's 427 embeddings, got 5000"):
        run(base.adapted(settings), tokenizer, [outside], [], settings, config, CPU)
    long = TrainRow("long", [1] * 2049, [1] * 2049)
    with pytest.raises(DataError, match=r"model.cutoff_len: row long is longer than the model's context of 2048 tokens, got 2049"):
        run(base.adapted(settings), tokenizer, [long], [], settings, config, CPU)


def out_of_memory_above(tokens: int, monkeypatch: pytest.MonkeyPatch, error: Exception, step: int = 0) -> list[int]:
    """Let passes of more tokens fail, from a step on; the list fills with the tokens of each pass that is tried."""
    original, tried = PlainPath.run_pass, []

    def run_pass(self: PlainPath, batch: dict[str, Any], num_items: int, keep_tokens: int) -> torch.Tensor:
        tried.append(batch["input_ids"].numel())
        if tried[-1] > tokens and (self.trainer.state.global_step + 1 >= step):
            raise error
        return original(self, batch, num_items, keep_tokens)

    monkeypatch.setattr(PlainPath, "run_pass", run_pass)
    return tried


CUDA_OOM = torch.OutOfMemoryError("CUDA out of memory")
CPU_OOM = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


@pytest.mark.parametrize("error", [CUDA_OOM, CPU_OOM])
def test_where_memory_is_short_the_same_step_takes_more_passes(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settings = params(per_device_train_batch_size=8, learning_rate=1e-3)
    roomy, one = train(base, tmp_path / "roomy", settings)
    tried = out_of_memory_above(150, monkeypatch, error)
    tight, two = train(base, tmp_path / "tight", settings)
    assert max(tried[-3:]) <= 150 < max(tried)
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)
    for name, value in weights(roomy).items():
        torch.testing.assert_close(value, weights(tight)[name], rtol=1e-3, atol=1e-5)


def test_out_of_memory_late_in_a_run_keeps_the_checkpoint_and_names_the_tokens_that_fit(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params(max_steps=5, save_steps=2, per_device_train_batch_size=8, learning_rate=1e-3)
    whole, _ = train(base, tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        out_of_memory_above(150, patch, CUDA_OOM, step=4)
        with pytest.raises(MachineError) as caught:
            train(base, tmp_path / "run", settings)
    assert caught.value.exit_code == 3
    last = tmp_path / "run/checkpoint-2"
    found = re.fullmatch(
        r"train: step 4: out of memory in passes of up to \d+ tokens; set MEDCOT_TOKENS_PER_PASS=(\d+), which fits these rows and changes "
        rf"no result, and run again: it resumes from {last}",
        str(caught.value),
    )
    assert found
    assert int(found[1]) <= 150
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", found[1])
    resumed, outcome = train(base, tmp_path / "run", settings)
    assert outcome.steps == 5
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(resumed)[name], rtol=1e-3, atol=1e-5)


def test_a_single_row_that_fits_nowhere_is_one_line(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = max(len(row.input_ids) for row in base.encoded())
    with monkeypatch.context() as patch:
        out_of_memory_above(longest - 1, patch, CUDA_OOM)
        with pytest.raises(
            MachineError, match=rf"train: out of memory on a single row of {longest} tokens; lower model.cutoff_len, or free the GPU$"
        ):
            train(base, tmp_path, params())
    out_of_memory_above(0, monkeypatch, CUDA_OOM, step=2)
    with pytest.raises(MachineError, match=r"train: out of memory on a single row of \d+ tokens; lower model.cutoff_len, or free the GPU$"):
        train(base, tmp_path, params())


def test_tokens_per_pass_are_set_by_hand(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for wrong in ("0", "-3", "4k", "１２"):
        monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", wrong)
        with pytest.raises(DataError, match=f"environment: MEDCOT_TOKENS_PER_PASS: not a number of tokens, got {wrong}; set it to one"):
            train(base, tmp_path, params())
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", "120")
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "medcot"):
        tried = out_of_memory_above(10_000, patch, CUDA_OOM)
        train(base, tmp_path / "a", params())
        assert max(tried) <= 120
    assert "train: passes of up to 120 tokens, activations kept" in caplog.messages
    out_of_memory_above(150, monkeypatch, CUDA_OOM)
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", "300")
    with pytest.raises(MachineError, match=r"MEDCOT_TOKENS_PER_PASS: out of memory in passes of so many tokens, got 300; set it to \d+, "):
        train(base, tmp_path / "b", params())


@pytest.mark.parametrize("wanted", [False, True])
def test_the_attempt_recomputes_as_the_steps_will(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    original, recomputing = PlainPath._loss, []

    def loss_of(self: PlainPath, *args: Any) -> Any:
        recomputing.append(any(getattr(module, "gradient_checkpointing", False) for module in self.trainer.model.modules()))
        return original(self, *args)

    monkeypatch.setattr(PlainPath, "_loss", loss_of)
    train(base, tmp_path, params(max_steps=1, gradient_checkpointing=wanted))
    assert recomputing == [wanted, wanted], "the attempt, then the step"


def test_an_error_that_is_no_out_of_memory_is_not_hidden(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(base, tmp_path, params())


def test_the_preflight_leaves_no_trace(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params(lora_dropout=0.5)
    with_preflight = losses(train(base, tmp_path / "a", settings)[1])
    monkeypatch.setattr(CotTrainer, "settle", lambda *args: None)
    assert losses(train(base, tmp_path / "b", settings)[1]) == with_preflight


def test_a_run_is_silent_on_stdout_and_short_in_the_log(
    base: Base, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "medcot"):
        train(base, tmp_path, params(max_steps=20, eval_steps=10, save_steps=10, label_smoothing_factor=0.1, optim="paged_adamw_8bit"))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    steps = [message for message in caplog.messages if message.startswith("train: step")]
    assert [int(message.split()[2]) for message in steps] == list(range(2, 21, 2))
    assert "loss" in steps[0]
    assert "val" in steps[-1]


def test_the_collator_pads_on_the_right_and_masks_the_padding() -> None:
    rows = [TrainRow("a", [1, 2, 3], [MASK, 2, 3]), TrainRow("b", [4], [4])]
    packed = Collator(pad_id=9, packed=True)(rows)
    assert packed["input_ids"].tolist() == [[1, 2, 3, 4]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert packed["labels"].tolist() == [[MASK, 2, 3, MASK]], "nothing predicts the first token of a row"
    assert "attention_mask" not in packed
    batch = Collator(pad_id=9)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[MASK, 2, 3], [4, MASK, MASK]]


def test_every_step_is_logged(base: Base, tmp_path: Path) -> None:
    _, outcome = train(base, tmp_path, params(max_steps=5, eval_steps=2))
    logged = [entry for entry in outcome.log if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(entry[key]) for entry, key in itertools.product(logged, ("loss", "learning_rate", "grad_norm")))
    assert [entry["step"] for entry in outcome.log if "eval_loss" in entry] == [2, 4, 5]
    _, unwatched = train(base, tmp_path, params(max_steps=5))
    assert [(entry["step"], entry["eval_loss"]) for entry in unwatched.log if "eval_loss" in entry] == [(5, unwatched.eval_loss)]
