"""One decoder layer, forward and backward written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fused_factory import pack_of, small_model
from parity_factory import SHAPES

from medcot.fused.layer import Layer, Saved
from medcot.fused.linear import Masters, Scratch
from medcot.fused.memory import DROP_GATE_UP, KEEP_ALL, KEEP_INPUT

LENGTHS = [5, 1, 9]


def layer_of(model: Any) -> Layer:
    scratch = Scratch()
    layer = Layer(model.get_base_model().model.layers[0], scratch, torch.float32)
    scratch.reserve(max(group.numel for group in layer.groups), torch.empty(0))
    with torch.no_grad():
        Masters(layer.groups).read()
    return layer


def by_autograd(model: Any, x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """The decoder layer of transformers, with the angles of the pack."""
    pack = pack_of(LENGTHS, layer.head_dim)
    angles = tuple(torch.cat([part, part], dim=1)[None] for part in (pack.cos, pack.sin))
    module = model.get_base_model().model.layers[0]
    output = module(x[None], position_embeddings=angles, attention_mask=None, cu_seq_lens_q=pack.bounds)
    return output[0] if output.dim() == 3 else output[0][0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", [KEEP_ALL, DROP_GATE_UP, KEEP_INPUT])
def test_output_and_gradient_of_the_input_are_those_of_autograd(shape: str, level: int) -> None:
    model = small_model(shape)
    layer = layer_of(model)
    torch.manual_seed(0)
    stream, delta = torch.randn(15, 64), torch.randn(15, 64)
    x = (stream + delta).requires_grad_()
    wanted = by_autograd(model, x, layer)
    grad = torch.randn(15, 64)
    wanted.backward(grad)
    with torch.no_grad():
        pack = pack_of(LENGTHS, layer.head_dim)
        h2, rest, saved = layer.forward(stream, delta, pack, level)
        torch.testing.assert_close(h2 + rest, wanted, atol=3e-5, rtol=1e-5)
        room = torch.cat([grad, torch.full((15, 64), 9.0)], dim=1)
        layer.backward(room, saved, pack, needs_input=True)
    torch.testing.assert_close(room[:, :64], x.grad, atol=3e-5, rtol=1e-5)


def test_the_gradients_of_its_adapters_do_not_depend_on_what_was_kept_or_on_whether_the_input_needs_one() -> None:
    found = []
    for level, needs_input in ((KEEP_ALL, True), (DROP_GATE_UP, False), (KEEP_INPUT, False)):
        layer = layer_of(small_model("qwen3"))
        torch.manual_seed(0)
        with torch.no_grad():
            pack = pack_of(LENGTHS, layer.head_dim)
            *_, saved = layer.forward(torch.randn(15, 64), None, pack, level)
            layer.backward(torch.randn(15, 128), saved, pack, needs_input=needs_input)
        found.append([copy.deepcopy(total) for group in layer.groups for total in (group.grad_a, group.grad_b)])
    for totals in found[1:]:
        for one, other in zip(totals, found[0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


def test_what_is_saved_is_let_go_of_in_the_backward() -> None:
    layer = layer_of(small_model("qwen2"))
    with torch.no_grad():
        pack = pack_of(LENGTHS, layer.head_dim)
        *_, saved = layer.forward(torch.randn(15, 64), None, pack, KEEP_ALL)
        assert isinstance(saved, Saved)
        assert saved.mlp is not None
        layer.backward(torch.randn(15, 128), saved, pack, needs_input=True)
    assert (saved.attention, saved.mlp) == (None, None)
