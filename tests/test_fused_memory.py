"""Bytes that a pass keeps, and what is recomputed where they do not fit."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from typing import Any

import pytest
import torch
from fused_factory import pack_of, small_model
from hypothesis import given
from hypothesis import strategies as st

from medcot.fused.layer import Layer
from medcot.fused.linear import Scratch
from medcot.fused.memory import DROP_GATE_UP, KEEP_ALL, KEEP_INPUT, Shape, plan_levels, saved_bytes, working_bytes

QWEN_7B = Shape(3584, 18944, 4608, 3584, 28, o_rank=64, inner_rank=64, projected=56, itemsize=2)


def tensors(saved: Any) -> list[torch.Tensor]:
    values = asdict(saved).values() if is_dataclass(saved) else saved.values()
    return [t for value in values for t in (tensors(value) if isinstance(value, dict) else [value]) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("shape", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("level", [KEEP_ALL, DROP_GATE_UP, KEEP_INPUT])
@pytest.mark.parametrize("targets", ["all-linear", ["v_proj", "down_proj"]])
def test_the_formula_counts_what_a_layer_keeps_to_the_byte(shape: str, level: int, targets: Any) -> None:
    model = small_model(shape, target_modules=targets).get_base_model()
    scratch = Scratch()
    layer = Layer(model.model.layers[0], scratch, torch.float32)
    scratch.reserve(max(group.numel for group in layer.groups), torch.empty(0))
    with torch.no_grad():
        *_, saved = layer.forward(torch.randn(12, layer.shape.hidden), None, pack_of([5, 7], layer.head_dim), level)
    kept = {t.data_ptr(): t.untyped_storage().nbytes() for t in tensors(saved)}
    assert sum(kept.values()) == 12 * saved_bytes(layer.shape, level)


def test_gate_and_up_are_seven_tenths_of_what_a_7b_layer_keeps() -> None:
    whole, dropped = saved_bytes(QWEN_7B, KEEP_ALL), saved_bytes(QWEN_7B, DROP_GATE_UP)
    assert (whole, dropped, saved_bytes(QWEN_7B, KEEP_INPUT)) == (106_976, 31_072, 7_168)
    assert (whole - dropped) / whole == pytest.approx(0.71, abs=0.01)


@pytest.mark.parametrize("limit", [None, 5000, 6000])
def test_what_fits_recomputes_nothing(limit: int | None) -> None:
    assert plan_levels(QWEN_7B, 28, 5000, limit) == [KEEP_ALL] * 28


def test_a_little_too_long_a_pass_gives_up_gate_and_up_of_its_first_layers() -> None:
    assert plan_levels(QWEN_7B, 28, 5500, 5000) == [DROP_GATE_UP] * 4 + [KEEP_ALL] * 24


def test_no_room_at_all_keeps_the_inputs_alone() -> None:
    assert plan_levels(QWEN_7B, 28, 1, 0) == [KEEP_INPUT] * 28


@given(st.integers(1, 40), st.integers(1, 100_000), st.integers(0, 50_000), st.integers(2, 4))
def test_a_plan_fits_and_gives_up_no_more_than_needed(layers: int, tokens: int, limit: int, itemsize: int) -> None:
    shape = replace(QWEN_7B, itemsize=itemsize)
    room = limit * (layers * saved_bytes(shape, KEEP_ALL) + working_bytes(shape))

    def needed(levels: list[int]) -> int:
        return tokens * (sum(saved_bytes(shape, level) for level in levels) + working_bytes(shape))

    levels = plan_levels(shape, layers, tokens, limit)
    assert levels == sorted(levels, reverse=True)
    assert needed(levels) <= room or levels == [KEEP_INPUT] * layers
    if any(levels):
        last = max(i for i, level in enumerate(levels) if level == max(levels))
        assert needed([*levels[:last], levels[last] - 1, *levels[last + 1 :]]) > room
