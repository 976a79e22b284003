"""Choosing hardware, loading a base the same way for everyone, and refusing what cannot be right."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file
from train_factory import CPU, Base

from medcot import model as model_module
from medcot.errors import DataError, MachineError
from medcot.model import BaseRecord, Hardware, check_size, choose_hardware, describe_model_dir, load_base, load_tuned, why_no_gpu


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    # Emulation would say yes on every GPU.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bfloat16)


@pytest.mark.parametrize(("bfloat16", "dtype", "reason"), [(True, "bfloat16", "computes in bfloat16"), (False, "float16", "no bfloat16")])
def test_a_gpu_computes_in_bfloat16_where_it_can(monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: str, reason: str) -> None:
    pretend_gpu(monkeypatch, bfloat16=bfloat16)
    hardware = choose_hardware()
    assert (hardware.device, hardware.dtype) == ("cuda", dtype)
    assert hardware.torch_dtype is getattr(torch, dtype)
    assert "Tesla T4" in hardware.reason
    assert reason in hardware.reason


def test_a_cpu_computes_in_float32_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware = choose_hardware()
    assert (hardware.device, hardware.dtype, hardware.reason) == ("cpu", "float32", why_no_gpu())


@pytest.mark.parametrize(
    ("cuda", "visible", "driver", "reason"),
    [
        (None, None, True, "is a CPU build"),
        ("13.0", "", True, "CUDA_VISIBLE_DEVICES hides them all"),
        ("13.0", "-1", True, "CUDA_VISIBLE_DEVICES hides them all"),
        ("13.0", None, False, "this machine has no NVIDIA driver"),
        ("13.0", "0", True, "is the driver older than CUDA 13.0?"),
    ],
)
def test_the_reason_for_no_gpu_is_the_true_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: str | None, visible: str | None, driver: bool, reason: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(model_module, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "none")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert reason in why_no_gpu()
    assert why_no_gpu().startswith("no GPU is used: ")


def record(num_parameters: int) -> BaseRecord:
    return BaseRecord("local", ".", num_parameters, {}, {})


def test_a_large_base_is_refused_on_a_cpu_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDCOT_ALLOW_LARGE_ON_CPU", raising=False)
    check_size(record(500_000_000), CPU)
    check_size(record(7_000_000_000), Hardware("cuda", "bfloat16", "sdpa", "a test"))
    with pytest.raises(MachineError) as caught:
        check_size(record(1_720_000_000), CPU)
    expected = (
        "base: the model is too large for a CPU (a test), got 1.72 B parameters; run on a GPU, or set MEDCOT_ALLOW_LARGE_ON_CPU=1 and wait"
    )
    assert str(caught.value) == expected
    monkeypatch.setenv("MEDCOT_ALLOW_LARGE_ON_CPU", "1")
    check_size(record(1_720_000_000), CPU)


def test_a_large_base_is_refused_before_it_is_loaded(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDCOT_ALLOW_LARGE_ON_CPU", raising=False)
    monkeypatch.setattr(model_module, "MAX_CPU_PARAMETERS", 1000)
    monkeypatch.setattr(model_module, "load_weights", lambda *args: pytest.fail("it was loaded"))
    with pytest.raises(MachineError, match="too large for a CPU"):
        load_base(base.model_dir, "nf4", CPU)


def test_nf4_is_double_quantised_and_near_the_dense_weights(base: Base) -> None:
    dense, quantised = base.model("none"), base.model("nf4")
    layers = {n: m for n, m in quantised.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert len(layers) == 2 * 7  # all but the output layer
    for name, layer in layers.items():
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, torch.float32)
        restored = bitsandbytes.functional.dequantize_4bit(layer.weight.data, state)
        true = dense.get_submodule(name).weight.detach()
        assert 0.01 < float((restored - true).norm() / true.norm()) < 0.2
    assert not quantised.training


def test_an_evaluation_leaves_precision_and_gradients_as_they_were(base: Base) -> None:
    model, ids = base.model("nf4"), torch.tensor([base.encoded(1)[0].input_ids])

    def gradient() -> torch.Tensor:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        model(inputs_embeds=embedded).logits.square().sum().backward()
        assert embedded.grad is not None
        return embedded.grad

    model.train()
    before, logits = gradient(), model(ids).logits
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, logits, rtol=1e-5, atol=1e-4)
    model.train()
    assert torch.equal(gradient(), before)


def test_nf4_without_bitsandbytes_says_so(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"bitsandbytes is not installed; install it, or set model.quantization: none"):
        base.model("nf4")


def broken(base: Base, tmp_path: Path, **config: Any) -> Path:
    """A copy of the base with another configuration, recorded as stage base would."""
    target = Path(shutil.copytree(base.model_dir, tmp_path / "broken"))
    content = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**content, **config}), encoding="utf-8")
    describe_model_dir("local", target, path=".").write(target)
    return target


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"model_type": "qwen99"}, "cannot read the configuration, got"),
        ({"num_hidden_layers": "two"}, "cannot read the configuration, got"),
        ({"model_type": "t5"}, "not a causal language model, got t5"),
    ],
)
def test_an_architecture_that_transformers_cannot_run_is_one_line(base: Base, tmp_path: Path, config: dict[str, Any], cause: str) -> None:
    with pytest.raises(DataError) as caught:
        load_base(broken(base, tmp_path, **config), "none", CPU)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_that_do_not_fill_the_model_are_refused_instead_of_made_up(base: Base, tmp_path: Path, quantization: str) -> None:
    target = broken(base, tmp_path)
    tensors = load_file(target / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    describe_model_dir("local", target, path=".").write(target)
    with pytest.raises(DataError, match=r"1 tensors of the model are not in its weights, got model.layers.1.mlp.up_proj.weight"):
        load_base(target, quantization, CPU)


def test_loading_prints_nothing(base: Base, capfd: pytest.CaptureFixture[str]) -> None:
    base.model("nf4")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Loading" not in captured.err


def test_a_directory_without_adapter_or_model_is_one_line(base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a peft adapter nor a model; run `dvc repro train`"):
        load_tuned(base.model_dir, tmp_path, "none", CPU)
