"""Linear layers that share an input, as one matrix product with their LoRA inside it.

y = x Wᵀ + b + s (x Aᵀ) Bᵀ is one product of wider matrices: [x | x Aᵀ | 1] (T, K + R) by [W | s B | b] (N, K + R). And its gradient
dx = dy W + (dy s B) A is [dy | dy s B] (T, N + R) by W over A (N + R, K). Nothing is read or written twice, as adding the update to y
would. R is padded to a multiple of 64: leading dimensions that tensor cores like (measured, README.md). The wide weight exists only while
it is used, in one buffer for the whole model: 4-bit weights are unpacked straight into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medcot.fused import ops

PAD = 64
SLOT = 8  # each adapter begins at a multiple of this column: 16 bytes in bfloat16


class Scratch:
    """One flat buffer that holds the weight of the moment, or a chunk of logits."""

    def __init__(self) -> None:
        self.flat = torch.empty(0)

    def reserve(self, numel: int, like: Tensor) -> None:
        """Grow to at least this many elements, of the dtype and device of `like`."""
        if self.flat.numel() < numel:
            self.flat = torch.empty(numel, dtype=like.dtype, device=like.device)

    def view(self, rows: int, columns: int) -> Tensor:
        """The first elements as a matrix; whoever had one before has it no longer."""
        return self.flat[: rows * columns].view(rows, columns)


class FrozenWeight:
    """The weights of layers on one input, one below the other (N, K): all dense, or all NF4.

    NF4 layers are changed in place, once, to no other values: their packed weights move into one tensor, of which each layer has its part,
    and the double quantisation of the scales is undone. bitsandbytes goes on computing with them.
    """

    def __init__(self, base_layers: Sequence[Any]) -> None:
        self.heights = [layer.out_features for layer in base_layers]
        self.shape: tuple[int, int] = (sum(self.heights), base_layers[0].in_features)
        self.device = base_layers[0].weight.device
        states: list[Any] = [getattr(layer.weight, "quant_state", None) for layer in base_layers]
        self.packed: Tensor | None = None
        if states[0] is None:
            self.dense = [layer.weight.data for layer in base_layers]
            return
        for state in states:
            undo_double_quantisation(state)
        self.code = states[0].code.float().contiguous()
        self.scales = torch.cat([state.absmax.view(-1) for state in states])
        self.packed = torch.cat([layer.weight.data.view(-1) for layer in base_layers])
        scales = torch.split(self.scales, [state.absmax.numel() for state in states])
        packed = torch.split(self.packed, [layer.weight.numel() for layer in base_layers])
        for layer, state, part, scale in zip(base_layers, states, packed, scales, strict=True):
            layer.weight.data, state.absmax = part.view(layer.weight.shape), scale

    def write(self, out: Tensor, extra: Tensor) -> None:
        """Write the weight, and beside it `extra` (N, R) where `out` is (N, K + R), or below it (R, K) where it is (N + R, K)."""
        if self.packed is not None:
            ops.unpack_nf4(out, self.packed, self.scales, self.code, extra)
            return
        height, width = self.shape
        for part, weight in zip(torch.split(out[:height, :width], self.heights), self.dense, strict=True):
            part.copy_(weight)
        (out[:, width:] if len(extra) == len(out) else out[height:]).copy_(extra)


def undo_double_quantisation(state: Any) -> None:
    """Replace the 8-bit scales of a bitsandbytes QuantState by the float32 values that they stand for, in place."""
    if not state.nested:
        return
    from bitsandbytes.functional import dequantize_blockwise

    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    state.absmax, state.nested, state.state2, state.offset = scales.float().contiguous(), False, None, None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One LoRA pair: its masters, its scaling, the outputs it adds to (rows) and its columns of the group's rank (slot)."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scaling: float
    rows: slice
    slot: slice


class LoraGroup:
    """Linear layers on one input (q|k|v, o, gate|up or down), with or without adapters.

    width, height   K, inputs, and N, outputs of all layers together
    used, rank      columns that the adapters take, and R: with the bias, padded; 0 where there is neither
    a, b            A (R, K) and s B (N, R), block-diagonal, as the products read them
    grad_a, grad_b  float32 sums of the gradients (used, K) and (N, used): of A, and of B before the scaling
    """

    def __init__(self, layers: Sequence[Any], scratch: Scratch, dtype: torch.dtype) -> None:
        base_layers = [getattr(layer, "base_layer", layer) for layer in layers]
        self.weight, self.scratch, self.dtype = FrozenWeight(base_layers), scratch, dtype
        self.height, self.width = self.weight.shape
        self.adapters, self.used = _adapters(layers)
        biases = [layer.bias for layer in base_layers]
        self.has_bias = any(bias is not None for bias in biases)
        self.rank = -(-(self.used + self.has_bias) // PAD) * PAD
        device = self.weight.device
        self.a = torch.zeros(self.rank, self.width, dtype=dtype, device=device)
        self.b = torch.zeros(self.height, self.rank, dtype=dtype, device=device)
        for bias, part in zip(biases, torch.split(self.b, self.weight.heights), strict=True):
            if bias is not None:
                part[:, self.used] = bias.data
        self.grad_a = torch.zeros(self.used, self.width, device=device)
        self.grad_b = torch.zeros(self.height, self.used, device=device)

    @property
    def numel(self) -> int:
        """Elements of the scratch buffer that either direction needs."""
        return max(self.height * (self.width + self.rank), (self.height + self.rank) * self.width)

    def forward(self, x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply; x is a (T, K + R) buffer whose last R columns are filled here. Returns y (T, N), `out` if given, and x Aᵀ (T, used)."""
        extra = x[:, self.width :]
        if self.rank:
            torch.mm(x[:, : self.width], self.a.t(), out=extra)
        if self.has_bias:
            extra[:, self.used] = 1
        weight = self.scratch.view(self.height, self.width + self.rank)
        self.weight.write(weight, self.b)
        return torch.mm(x, weight.t(), out=out), extra[:, : self.used].clone()

    def project(self, x: Tensor) -> Tensor:
        """Compute x Aᵀ (T, used) alone."""
        return torch.mm(x[:, : self.width], self.a[: self.used].t())

    def backward_b(self, grad: Tensor, projected: Tensor) -> None:
        """Accumulate the gradients of B, before the other two.

        grad       a (T, N + R) buffer whose last R columns are filled here, for the others
        projected  x Aᵀ, as forward returned it
        """
        if self.rank:
            torch.mm(grad[:, : self.height], self.b, out=grad[:, self.height :])
        if self.used:
            _accumulate(self.grad_b, grad[:, : self.height], projected)

    def backward_x(self, grad: Tensor) -> Tensor:
        """The gradient of the input (T, K)."""
        weight = self.scratch.view(self.height + self.rank, self.width)
        self.weight.write(weight, self.a)
        return torch.mm(grad, weight)

    def backward_a(self, grad: Tensor, x: Tensor) -> None:
        """Accumulate the gradients of A; x is the input, its first K columns."""
        if self.used:
            _accumulate(self.grad_a, grad[:, self.height : self.height + self.used], x[:, : self.width])


class Masters:
    """The fp32 masters of all groups: read, and given their gradients, all of them in a few launches."""

    def __init__(self, groups: Sequence[LoraGroup]) -> None:
        pairs = [(group, adapter) for group in groups for adapter in group.adapters]
        self.sums = [total for group in groups for total in (group.grad_a, group.grad_b)]
        self.parameters = [p for _, adapter in pairs for p in (adapter.a, adapter.b)]
        self.scalings = [scaling for _, adapter in pairs for scaling in (1.0, adapter.scaling)]
        self.copies = [copy for group, adapter in pairs for copy in (group.a[adapter.slot], group.b[adapter.rows, adapter.slot])]
        self.totals = [
            total for group, adapter in pairs for total in (group.grad_a[adapter.slot], group.grad_b[adapter.rows, adapter.slot])
        ]

    def read(self) -> None:
        """Copy the masters to where the products read them, and forget the sums of gradients."""
        torch._foreach_zero_(self.sums)
        torch._foreach_copy_(self.copies, torch._foreach_mul([parameter.data for parameter in self.parameters], self.scalings))

    def give_gradients(self) -> None:
        """Add the sums of gradients to the masters' own, and forget them."""
        for parameter, grad in zip(self.parameters, torch._foreach_mul(self.totals, self.scalings), strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        torch._foreach_zero_(self.sums)


def _adapters(layers: Sequence[Any]) -> tuple[list[Adapter], int]:
    """The adapters of peft's layers, each in its own columns of the rank, and the columns they take."""
    adapters, row, column = [], 0, 0
    for layer in layers:
        rows = slice(row, row + layer.out_features)
        row = rows.stop
        for name in getattr(layer, "active_adapters", ()):
            if name in layer.lora_A:
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                adapters.append(Adapter(a, b, layer.scaling[name], rows, slice(column, column + a.shape[0])))
                column += -(-a.shape[0] // SLOT) * SLOT
    return adapters, column


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += leftᵀ right, in float32."""
    if left.is_cuda and left.dtype != total.dtype:
        torch.ops.aten.addmm.dtype_out(total, left.t(), right, torch.float32, out=total)
    else:
        total.addmm_(left.t().float(), right.float())
