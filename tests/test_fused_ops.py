"""Kernels where there is a GPU, their twins elsewhere."""

from __future__ import annotations

import inspect
import types

import pytest
import torch

from medcot.fused import ops, twins


def test_every_operation_has_a_twin_and_is_listed() -> None:
    dispatched = {name for name, value in vars(ops).items() if hasattr(value, "__wrapped__") and not name.startswith("_")}
    assert dispatched == set(ops.KERNELS)
    assert all(getattr(ops, name).__wrapped__ is getattr(twins, name) for name in ops.KERNELS)


def test_kernels_take_what_their_twins_take() -> None:
    kernels = pytest.importorskip("medcot.fused.kernels", reason="triton is not installed", exc_type=ImportError)
    for name in ops.KERNELS:
        assert inspect.signature(getattr(kernels, name)) == inspect.signature(getattr(twins, name)), name


def test_a_cpu_computes_by_the_twin_unless_the_interpreter_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def swiglu(gate_up: torch.Tensor, pad: int) -> str:
        return f"kernel {tuple(gate_up.shape)} {pad}"

    monkeypatch.setattr(ops, "_kernels", lambda: types.SimpleNamespace(swiglu=swiglu))
    gate_up = torch.randn(2, 8)
    assert torch.equal(ops.swiglu(gate_up, 0), twins.swiglu(gate_up, 0))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ops.swiglu(gate_up, 3) == "kernel (2, 8) 3"
