"""Whole runs by either path: equal curves, and an adapter that plain peft loads, merges and that computes the same."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_factory import by_autograd, forget, gradients, num_targets, relative_errors
from peft import PeftModel
from safetensors.torch import load_file
from train_factory import CPU, Base, read_metrics, write_train_workspace
from transformers import AutoModelForCausalLM, AutoTokenizer

from medcot.merge import merged_model
from medcot.stage import run_stage
from medcot.train_params import TrainParams
from medcot.trainer import CotTrainer
from medcot.training import run, trainer_config
from stages import train

PATHS = ("plain", "fused")
ADAPTER, MODEL = Path("models/adapter"), Path("models/base/model")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def params(**values: Any) -> TrainParams:
    return TrainParams.model_validate({"max_steps": 1, "per_device_train_batch_size": 8, **values})


def trainer(base: Base, settings: TrainParams, scratch: Path, quantization: str = "nf4") -> CotTrainer:
    """A trainer on the path that the environment names, its adapter's update away from zero."""
    model, rows, tokenizer = base.adapted(settings, quantization), base.encoded(), AutoTokenizer.from_pretrained(base.tokenizer_dir)
    torch.manual_seed(4)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    config = trainer_config(settings, CPU, len(rows), 0, scratch)
    return CotTrainer(model, rows=rows, pad_id=0, params=settings, hardware=CPU, args=config, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("path", "tokens"), [("plain", "60"), ("plain", "100000"), ("plain with fewer launches", "200"), ("fused", "60"), ("fused", "100000")]
)
def test_a_step_of_the_trainer_has_the_gradient_of_autograd(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, tokens: str
) -> None:
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", path.split()[0])
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", tokens)
    monkeypatch.setattr("medcot.lora_linear.DEVICES", ("cpu",) if "launches" in path else ())
    settings = params()
    one = trainer(base, settings, tmp_path)
    one.settle(settings)
    if path.startswith("plain"):
        assert bool(one.path.linears.layers) == ("launches" in path)
    chosen = [5, 0, 11, 2, 9, 7, 3, 14]
    rows = [one.rows[i] for i in chosen]
    loss = one.training_step(one.model, {"row": torch.tensor(chosen)})
    found = gradients(one.model)
    wanted, truth = by_autograd(one.model, rows)
    assert float(loss) == pytest.approx(wanted, rel=1e-6)
    assert max(relative_errors(found, truth).values()) < 1e-5
    # An attempt, which every run begins with, leaves nothing behind.
    forget(one.model)
    one.attempt(chosen)
    assert not gradients(one.model)
    one.training_step(one.model, {"row": torch.tensor(chosen)})
    assert max(relative_errors(gradients(one.model), found).values()) < 1e-7
    assert num_targets(rows) < sum(len(row.input_ids) for row in rows)


def train_stage(root: Path, base: Base, path: str, monkeypatch: pytest.MonkeyPatch, **values: Any) -> dict[str, bytes]:
    """Run stage train in `root` by this path; returns the files it wrote."""
    root.mkdir(exist_ok=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
    write_train_workspace(root, base, learning_rate=3e-3, **values)
    assert run_stage("train", train.main) == 0
    return {file.name: file.read_bytes() for file in ADAPTER.iterdir()}


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 200, 33, 7, 150, 12, 44]])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("values", [{}, {"use_rslora": True, "lora_target": "q_proj,down_proj"}])
def test_both_paths_write_the_same_ordinary_adapter(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    written = {path: train_stage(tmp_path / path, base, path, monkeypatch, **values) for path in PATHS}
    plain, fused = written["plain"], written["fused"]
    assert plain.keys() == fused.keys()
    same = {"adapter_config.json", "medcot.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "llamafactory.yaml"}
    assert {name for name in plain if plain[name] == fused[name]} >= same
    tensors = {path: load_file(tmp_path / path / ADAPTER / "adapter_model.safetensors") for path in PATHS}
    assert tensors["plain"].keys() == tensors["fused"].keys()
    for name, tensor in tensors["fused"].items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, tensors["plain"][name], rtol=1e-3, atol=1e-5)
    logs = [list(csv.DictReader((tmp_path / path / ADAPTER / "train_log.csv").open(encoding="utf-8"))) for path in PATHS]
    for ours, theirs in zip(*logs, strict=True):
        assert [float(value) for value in ours.values()] == pytest.approx([float(value) for value in theirs.values()], rel=1e-4)
    metrics = [read_metrics(tmp_path / path) for path in PATHS]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)


def test_plain_peft_loads_and_merges_what_the_fused_path_trained(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_stage(tmp_path / "fused", base, "fused", monkeypatch, quantization="none", max_steps=8)
    start = logits(AutoModelForCausalLM.from_pretrained(MODEL))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), ADAPTER)
    adapted = logits(loaded)
    assert (adapted - start).abs().max() > 0.1
    merged = copy.deepcopy(loaded).merge_and_unload()
    torch.testing.assert_close(logits(merged), adapted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(merged_model(MODEL, ADAPTER, "float32")), adapted, rtol=1e-4, atol=1e-4)


def test_the_paths_curves_are_far_nearer_than_those_of_two_seeds(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/curves.py does this over 200 steps, on a trained base and more seeds."""
    curves: dict[tuple[str, int], torch.Tensor] = {}
    for path, seed in (("plain", 1), ("fused", 1), ("plain", 2)):
        monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
        settings = params(max_steps=8, learning_rate=1e-2, seed=seed)
        tokenizer, rows = AutoTokenizer.from_pretrained(base.tokenizer_dir), base.encoded()
        config = trainer_config(settings, CPU, len(rows), 0, tmp_path / f"{path}{seed}")
        outcome = run(base.adapted(settings), tokenizer, rows, [], settings, config, CPU)
        curves[path, seed] = torch.tensor([entry["loss"] for entry in outcome.log if "loss" in entry])
    plain, fused, other = curves.values()
    assert plain[-1] < plain[0] - 0.3
    assert (fused - plain).abs().max() < 1e-3 * (plain - other).abs().mean()
