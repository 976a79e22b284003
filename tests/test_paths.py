"""The two ways to execute a pass: which one a run takes and why, and that a step is the same on both, however it is cut."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import Dataset
from train_factory import CPU, Base
from transformers import AutoTokenizer, Trainer, TrainingArguments

from medcot.attention import packs
from medcot.errors import DataError, MachineError
from medcot.gpu_memory import cap_memory, memory_limit, peak_bytes
from medcot.inference import _forwards
from medcot.liger import apply_liger
from medcot.outcome import Outcome
from medcot.passes import Budget
from medcot.paths import FusedPath, name_path
from medcot.train_params import TrainParams
from medcot.trainer import CotTrainer, num_predicted
from medcot.training import run, trainer_config

GPU = dataclasses.replace(CPU, device="cuda", dtype="bfloat16", reason="an H200 computes in bfloat16")
PATHS = ("plain", "fused")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def params(**values: Any) -> TrainParams:
    return TrainParams.model_validate({"max_steps": 3, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant", **values})


def make_trainer(base: Base, scratch: Path, settings: TrainParams, rows: int = 16) -> CotTrainer:
    tokenizer = AutoTokenizer.from_pretrained(base.tokenizer_dir)
    return CotTrainer(
        base.adapted(settings),
        rows=base.encoded(rows),
        params=settings,
        hardware=CPU,
        args=trainer_config(settings, CPU, rows, 0, scratch),
        processing_class=tokenizer,
    )


def train(base: Base, scratch: Path, settings: TrainParams, rows: int = 16) -> tuple[dict[str, torch.Tensor], Outcome]:
    model, tokenizer = base.adapted(settings), AutoTokenizer.from_pretrained(base.tokenizer_dir)
    config = trainer_config(settings, CPU, rows, 6, scratch)
    outcome = run(model, tokenizer, base.encoded(rows), base.encoded(6, start=100), settings, config, CPU)
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, outcome


# ---- which path


def test_a_gpu_takes_the_fused_path_where_it_is_right_and_says_why_where_not(base: Base) -> None:
    model = base.adapted(params())
    assert name_path(model, params(), CPU) == ("plain", "a test")
    assert name_path(model, params(), GPU) == ("fused", "an H200 computes in bfloat16")
    settings = params(lora_dropout=0.2)
    name, reason = name_path(base.adapted(settings), settings, GPU)
    assert name.startswith("plain")
    assert reason.startswith("lora_dropout is 0.2")


def test_a_path_asked_for_by_name_is_taken_or_refused(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    model = base.adapted(params())
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", "fused")
    assert name_path(model, params(), CPU) == ("fused", "MEDCOT_TRAIN_PATH=fused")
    settings = params(use_dora=True)
    with pytest.raises(MachineError) as caught:
        name_path(base.adapted(settings), settings, CPU)
    assert str(caught.value) == (
        "environment: MEDCOT_TRAIN_PATH: the fused path cannot train this: use_dora is True, got fused; set it to auto"
    )
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", "plain")
    assert name_path(model, params(), CPU) == ("plain", "MEDCOT_TRAIN_PATH=plain")
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", "快")
    with pytest.raises(DataError, match=r"^environment: MEDCOT_TRAIN_PATH: not a path, got 快; set it to auto, plain or fused$"):
        name_path(model, params(), CPU)


def test_ligers_layers_are_taken_on_a_gpu_where_they_are_installed_and_known(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", "plain")
    model, found = base.adapted(params()), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "liger_kernel" else found(name))
    expected = "MEDCOT_TRAIN_PATH=plain; without Liger's layers: liger-kernel is not installed"
    assert name_path(model, params(), GPU) == ("plain", expected)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "liger_kernel" else found(name))
    assert name_path(model, params(), GPU) == ("plain+liger", "MEDCOT_TRAIN_PATH=plain")
    assert name_path(model, params(), CPU) == ("plain", "MEDCOT_TRAIN_PATH=plain"), "its kernels need a GPU"
    monkeypatch.setattr(model.config, "model_type", "gemma2")
    name, reason = name_path(model, params(), GPU)
    assert name == "plain"
    assert reason.endswith("; without Liger's layers, which are tried for llama, mistral, qwen2, qwen3 and not for gemma2")


def test_liger_gets_the_model_under_the_adapter_and_none_of_its_losses(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, dict[str, bool]]] = []
    package, layers = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    layers._apply_liger_kernel_to_instance = lambda model, **options: calls.append((model, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", layers)
    model = base.adapted(params())
    apply_liger(model)
    ((under, options),) = calls
    assert type(under).__name__ == "Qwen3ForCausalLM"
    assert {name for name, wanted in options.items() if wanted} == {"rope", "rms_norm", "swiglu"}
    assert {name for name, wanted in options.items() if not wanted} == {"cross_entropy", "fused_linear_cross_entropy"}


def test_the_forward_of_a_layer_that_was_replaced_comes_back_after_a_faster_one() -> None:
    module = torch.nn.Linear(2, 2)
    module.forward = lambda states: states + 1  # type: ignore[method-assign]
    with _forwards({module: lambda states: states + 2}):
        assert module(torch.zeros(2)).tolist() == [2, 2]
    assert module(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("path", PATHS)
def test_a_run_says_its_path_and_its_passes_in_one_line_each(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
    with caplog.at_level(logging.INFO, "medcot"):
        train(base, tmp_path, params(max_steps=1))
    said = [message for message in caplog.messages if "path" in message or "passes" in message]
    assert said == [f"train: {path} path: MEDCOT_TRAIN_PATH={path}", "train: passes of up to 8,192 tokens, activations kept"]


def test_dropout_takes_the_plain_path_by_itself(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("medcot.trainer.choose_path", lambda trainer, settings, hardware: original(trainer, settings, GPU))
    from medcot.paths import choose_path as original

    with caplog.at_level(logging.INFO, "medcot"):
        train(base, tmp_path, params(max_steps=1, lora_dropout=0.1))
    (line,) = [message for message in caplog.messages if " path" in message]
    assert re.match(r"train: plain path: lora_dropout is 0.1", line)


# ---- the same step


def gradients(trainer: CotTrainer, budget: Budget) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step over all rows of a trainer."""
    trainer.budget = budget
    trainer.model.zero_grad()
    loss = trainer.run_rows(trainer.rows, sum(map(num_predicted, trainer.rows)))
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def test_a_step_has_the_same_loss_and_gradients_for_any_budget_on_both_paths(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = {}
    for path in PATHS:
        monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
        trainers[path] = make_trainer(base, tmp_path / path, params())
        for name, p in trainers[path].model.named_parameters():
            if "lora_B" in name:  # at zero it would hide what lora_A's gradient depends on
                p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05
    loss, expected = gradients(trainers["plain"], Budget(8192, 8192))
    assert isinstance(trainers["fused"].path, FusedPath)
    assert len(expected) == 28
    for path, tokens, keep in (("plain", 120, 120), ("plain", 300, 0), ("fused", 8192, 8192), ("fused", 120, 120), ("fused", 1, 0)):
        other, found = gradients(trainers[path], Budget(tokens, keep))
        assert other == pytest.approx(loss, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] - value).norm() < 1e-4 * value.norm(), (path, tokens, keep, name)


@pytest.mark.parametrize("path", PATHS)
def test_a_run_is_the_same_for_any_tokens_per_pass(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
    whole, one = train(base, tmp_path / "whole", params(learning_rate=1e-3, max_steps=2))
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", "150")
    parts, two = train(base, tmp_path / "parts", params(learning_rate=1e-3, max_steps=2, gradient_checkpointing=True))
    assert [entry["loss"] for entry in one.log if "loss" in entry] == pytest.approx(
        [entry["loss"] for entry in two.log if "loss" in entry], rel=1e-5
    )
    assert one.eval_loss == pytest.approx(two.eval_loss, rel=1e-5)
    assert [entry["num_tokens"] for entry in one.log if "loss" in entry] == [entry["num_tokens"] for entry in two.log if "loss" in entry]
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-3, atol=1e-5)


def test_the_fused_path_starts_and_ends_where_the_plain_one_does(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {}
    for path in PATHS:
        monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
        results[path] = train(base, tmp_path / path, params(learning_rate=1e-3, num_train_epochs=1, max_steps=0), rows=13)
    (plain, one), (fused, two) = results["plain"], results["fused"]
    assert one.steps == two.steps == 2, "13 rows are a step of 8 and one of 5"
    for key in ("loss", "grad_norm", "num_tokens"):
        assert [e[key] for e in one.log if key in e] == pytest.approx([e[key] for e in two.log if key in e], rel=1e-4), key
    assert one.eval_loss == pytest.approx(two.eval_loss, rel=1e-5)
    assert one.moved_rate == pytest.approx(two.moved_rate, abs=0.01)
    for name, value in plain.items():
        torch.testing.assert_close(value, fused[name], rtol=1e-3, atol=1e-5)


class Seen(Trainer):  # type: ignore[misc]
    """transformers' own trainer, which notes the rows of every optimiser step."""

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.state.global_step == len(self.steps):
            self.steps.append([])
        self.steps[-1] += inputs["row"].tolist()
        loss = (model.weight * 0).sum()
        loss.backward()
        return loss.detach()


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 3), (4, 2), (1, 5)])
def test_the_rows_of_every_step_are_those_of_batch_and_accumulation(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, accumulation: int
) -> None:
    settings = params(max_steps=0, num_train_epochs=2, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    arguments = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": settings.num_steps(13)}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no"}
    options = TrainingArguments(str(tmp_path / "a"), seed=42, data_seed=42, remove_unused_columns=False, **quiet, **arguments)
    rows = Dataset.from_dict({"row": list(range(13))})
    theirs = Seen(torch.nn.Linear(1, 1), options, train_dataset=rows, data_collator=lambda r: {"row": torch.tensor([x["row"] for x in r])})
    theirs.steps = []
    theirs.train()
    ours: list[list[int]] = []

    def run_rows(self: CotTrainer, rows: Any, num_items: int) -> torch.Tensor:
        ours.append([int(row.id, 16) for row in rows])
        assert num_items == sum(map(num_predicted, rows))
        return torch.zeros(())

    monkeypatch.setattr(CotTrainer, "run_rows", run_rows)
    make_trainer(base, tmp_path / "b", settings, rows=13).train()
    assert ours == theirs.steps
    assert sorted(i for step in ours[: len(ours) // 2] for i in step) == list(range(13))
    assert len(ours[-1]) == 13 % (batch * accumulation)


# ---- memory


def test_without_a_gpu_there_is_no_limit_and_no_peak(base: Base, tmp_path: Path) -> None:
    assert memory_limit(10**12) == float("inf")
    assert peak_bytes() == 0
    trainer = make_trainer(base, tmp_path, params())
    cost = trainer.attempt([0, 1])
    assert cost is not None
    assert cost.peak == 0
    assert all(p.grad is None for p in trainer.model.parameters())


def test_a_smaller_card_is_told_to_torch_and_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    gib, fractions = 2**30, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6 * gib)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    cap_memory()
    assert fractions == []
    assert memory_limit(gib) == pytest.approx(76 * gib * 0.97 - gib)
    monkeypatch.setenv("MEDCOT_GPU_MEMORY_GIB", "20")
    cap_memory()
    assert fractions == [0.25]
    assert memory_limit(gib) == pytest.approx(20 * gib * 0.97 - gib)
    for wrong in ("0", "-1", "nan", "inf", "二十", "24GB"):
        monkeypatch.setenv("MEDCOT_GPU_MEMORY_GIB", wrong)
        with pytest.raises(DataError, match=f"^environment: MEDCOT_GPU_MEMORY_GIB: not a size in GiB, got {wrong}; set it to one such as"):
            cap_memory()


def test_packed_rows_are_what_both_paths_take(base: Base, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, params())
    assert packs(trainer.model)
    assert trainer.path.packed
    assert not make_trainer(base, tmp_path, params(neftune_noise_alpha=5.0)).path.packed, "noise goes by the length of a row"
