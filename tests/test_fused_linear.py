"""Linear layers on one input as one product, with their LoRA inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused_factory import small_model

from medcot.fused.linear import FrozenWeight, LoraGroup, Masters, Scratch, _accumulate, undo_double_quantisation

QKV = ("q_proj", "k_proj", "v_proj")


def group_of(model: Any, names: tuple[str, ...] = QKV) -> tuple[LoraGroup, list[Any]]:
    attention = model.get_base_model().model.layers[0].self_attn
    layers = [getattr(attention, name) for name in names]
    scratch = Scratch()
    group = LoraGroup(layers, scratch, torch.float32)
    scratch.reserve(group.numel, torch.empty(0))
    with torch.no_grad():
        if group.adapters:
            Masters([group]).read()
    return group, layers


def wide(x: torch.Tensor, group: LoraGroup) -> torch.Tensor:
    """x in a buffer with R more columns, of rubbish."""
    return torch.cat([x, torch.full((len(x), group.rank), 7.0)], dim=1)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["k_proj", "v_proj"], ["o_proj"]])
def test_one_product_is_what_the_layers_compute_one_by_one(targets: Any) -> None:
    group, layers = group_of(small_model("qwen2", target_modules=targets, r=3))  # with biases
    x = torch.randn(10, group.width)
    with torch.no_grad():
        found, projected = group.forward(wide(x, group))
        torch.testing.assert_close(found, torch.cat([layer(x) for layer in layers], dim=1))
    assert projected.shape == (10, 8 * len(group.adapters))


def test_adapters_begin_at_multiples_of_eight_columns_and_the_rank_is_a_multiple_of_64() -> None:
    group, _ = group_of(small_model("llama", rank_pattern={"k_proj": 9}))
    assert [(a.slot.start, a.slot.stop) for a in group.adapters] == [(0, 4), (8, 17), (24, 28)]
    assert (group.used, group.rank) == (32, 64)


def test_without_adapter_and_bias_nothing_is_added_to_the_product() -> None:
    group, _ = group_of(small_model("llama", target_modules=["o_proj"]))
    assert (group.rank, group.used, group.adapters) == (0, 0, [])


def test_the_gradients_of_input_and_adapters_are_those_of_autograd() -> None:
    model = small_model("qwen2", r=3, use_rslora=True)
    group, layers = group_of(model)
    x = torch.randn(10, group.width, requires_grad=True)
    y = torch.cat([layer(x) for layer in layers], dim=1)
    grad = torch.randn_like(y)
    y.backward(grad)
    wanted = {id(p): p.grad.clone() for p in model.parameters() if p.grad is not None}
    model.zero_grad()
    with torch.no_grad():
        _, projected = group.forward(wide(x, group))
        rows = wide(grad, group)
        group.backward_b(rows, projected)
        found = group.backward_x(rows)
        group.backward_a(rows, x)
        Masters([group]).give_gradients()
    assert x.grad is not None
    torch.testing.assert_close(found, x.grad)
    masters = [p for adapter in group.adapters for p in (adapter.a, adapter.b)]
    assert len(masters) == 6
    for p in masters:
        torch.testing.assert_close(p.grad, wanted[id(p)])


def test_gradients_are_given_once_and_added_to_those_that_stand_there() -> None:
    group, _ = group_of(small_model("llama"))
    masters = Masters([group])
    with torch.no_grad():
        for _ in range(2):
            group.grad_a += 1
            group.grad_b += 1
            masters.give_gradients()
        masters.give_gradients()
    for adapter in group.adapters:
        assert adapter.a.grad is not None
        assert adapter.b.grad is not None
        assert (adapter.a.grad == 2).all()
        assert (adapter.b.grad == 2 * adapter.scaling).all()
    assert not group.grad_a.any()


def test_reading_the_masters_forgets_what_a_failed_pass_left() -> None:
    group, _ = group_of(small_model("llama"))
    group.grad_a += 1
    with torch.no_grad():
        group.adapters[1].b.fill_(3.0)
        Masters([group]).read()
    assert not group.grad_a.any()
    adapter = group.adapters[1]
    assert (group.b[adapter.rows, adapter.slot] == 3 * adapter.scaling).all()
    assert int(group.b.count_nonzero()) == sum(a.b.numel() for a in group.adapters)  # nothing beside the diagonal


def test_gradients_of_16_bit_tensors_add_up_in_float32() -> None:
    total = torch.zeros(3, 2)
    for _ in range(9):
        _accumulate(total, torch.ones(64, 3).bfloat16(), torch.ones(64, 2).bfloat16())
    assert (total == 577 - 1).all()  # ten bits


def quantised(height: int = 96) -> Any:
    import bitsandbytes as bnb

    torch.manual_seed(height)
    layer = bnb.nn.Linear4bit(128, height, bias=False, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4")
    layer.load_state_dict({"weight": torch.randn(height, 128)})
    layer = layer.to("cpu")
    layer.support_avx512bf16_for_cpu = False
    return layer


def test_undoing_the_double_quantisation_changes_no_bit_of_the_scales() -> None:
    from bitsandbytes.functional import dequantize_4bit

    layer = quantised()
    state = layer.weight.quant_state
    assert state.nested
    before = dequantize_4bit(layer.weight.data, state)
    undo_double_quantisation(state)
    assert not state.nested
    assert state.absmax.dtype == torch.float32
    assert torch.equal(dequantize_4bit(layer.weight.data, state), before)
    scales = state.absmax
    undo_double_quantisation(state)
    assert state.absmax is scales


def test_layers_whose_weights_moved_together_compute_the_same_bits_and_hold_no_second_copy() -> None:
    layers, x = [quantised(96), quantised(64)], torch.randn(5, 128)
    outputs = [layer(x) for layer in layers]
    weight = FrozenWeight(layers)
    assert all(torch.equal(layer(x), output) for layer, output in zip(layers, outputs, strict=True))
    assert weight.packed is not None
    assert {layer.weight.untyped_storage().data_ptr() for layer in layers} == {weight.packed.untyped_storage().data_ptr()}
    again = FrozenWeight(layers)
    assert again.packed is not None
    assert torch.equal(again.packed, weight.packed)
    assert all(torch.equal(layer(x), output) for layer, output in zip(layers, outputs, strict=True))


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_the_unpacked_weight_is_that_of_bitsandbytes_to_the_bit_with_the_adapter_at_its_side(*, dense: bool, beside: bool) -> None:
    from bitsandbytes.functional import dequantize_4bit

    layers: list[Any] = [quantised(96), quantised(64)]
    wanted = torch.cat([dequantize_4bit(layer.weight.data, layer.weight.quant_state) for layer in layers])
    if dense:
        layers = [torch.nn.Linear(128, 96), torch.nn.Linear(128, 64)]
        wanted = torch.cat([layer.weight.data for layer in layers])
    extra = torch.randn(160, 8) if beside else torch.randn(8, 128)
    out = torch.empty(160, 136) if beside else torch.empty(168, 128)
    FrozenWeight(layers).write(out, extra)
    assert torch.equal(out, torch.cat([wanted, extra], dim=1 if beside else 0))


def test_the_scratch_buffer_grows_and_never_shrinks() -> None:
    scratch = Scratch()
    scratch.reserve(12, torch.empty(0, dtype=torch.bfloat16))
    scratch.reserve(6, torch.empty(0))
    assert scratch.flat.dtype == torch.bfloat16
    assert scratch.view(3, 4).data_ptr() == scratch.view(2, 5).data_ptr()
