"""Linear layers that share an input, as one matrix product with their LoRA inside it.

y = x Wᵀ + b + s (x Aᵀ) Bᵀ is one product of wider matrices: [x | x Aᵀ | 1] (T, K + R) by [W | s B | b] (N, K + R). And its gradient
dx = dy W + (dy s B) A is [dy | dy s B] (T, N + R) by W over A (N + R, K). Nothing is read or written twice, as adding the update to y
would. R is padded to a multiple of 64: leading dimensions that tensor cores like (measured, README.md). The wide weight exists only while
it is used, in one buffer for the whole model: 4-bit weights are unpacked straight into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """A base layer's weight (N, K): dense, or NF4 whose scales are kept in float32 from here on.

    The double quantisation of the scales is undone in the layer itself, once: bitsandbytes then computes with the same values, and
    both paths share them.
    """

    def __init__(self, base_layer: Any) -> None:
        self.weight, self.bias = base_layer.weight, base_layer.bias
        self.shape: tuple[int, int] = (base_layer.out_features, base_layer.in_features)
        self.state = getattr(self.weight, "quant_state", None)
        if self.state is not None:
            undo_double_quantisation(self.state)
            self.code = self.state.code.float().contiguous()

    def write(self, out: Tensor) -> None:
        """Write the weight into `out` (N, K), which may be part of a wider buffer."""
        if self.state is None:
            out.copy_(self.weight.data)
        else:
            ops.unpack_nf4(self.weight.data, self.state.absmax, self.code, out)


def undo_double_quantisation(state: Any) -> None:
    """Replace the 8-bit scales of a bitsandbytes QuantState by the float32 values that they stand for, in place."""
    if not state.nested:
        return
    from bitsandbytes.functional import dequantize_blockwise

    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    state.absmax, state.nested, state.state2, state.offset = scales.float().contiguous(), False, None, None


@dataclass(slots=True)
class Adapter:
    """One LoRA pair on rows `rows` of a group, with its columns of the rank at `slot`; grad_b accumulates (N, r) in float32."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scaling: float
    rows: slice
    slot: slice
    grad_b: Tensor = field(default_factory=lambda: torch.empty(0))


class LoraGroup:
    """Linear layers on one input (q|k|v, o, gate|up or down), with or without adapters.

    width, height  K, inputs, and N, outputs of all layers together
    rank           R, columns of the adapters and the bias, padded; 0 where there is neither
    """

    def __init__(self, layers: Sequence[Any], scratch: Scratch, dtype: torch.dtype) -> None:
        self.weights = [FrozenWeight(getattr(layer, "base_layer", layer)) for layer in layers]
        self.width = self.weights[0].shape[1]
        self.height = sum(weight.shape[0] for weight in self.weights)
        self.scratch, self.dtype, self.device = scratch, dtype, self.weights[0].weight.device
        self.adapters, self.used = _adapters(layers)
        self.bias = _concatenated_bias(self.weights)
        self.rank = -(-(self.used + (self.bias is not None)) // PAD) * PAD
        self.a = torch.zeros(self.rank, self.width, dtype=dtype, device=self.device)
        self.b = torch.zeros(self.height, self.rank, dtype=dtype, device=self.device)
        if self.bias is not None:
            self.b[:, self.used] = self.bias.to(dtype)
        self.grad_a = torch.empty(0)

    @property
    def numel(self) -> int:
        """Elements of the scratch buffer that either direction needs."""
        return max(self.height * (self.width + self.rank), (self.height + self.rank) * self.width)

    def refresh(self) -> None:
        """Read the fp32 masters anew and forget the gradients."""
        self.grad_a = torch.zeros(self.used, self.width, device=self.device)
        for adapter in self.adapters:
            self.a[adapter.slot] = adapter.a.data.to(self.dtype)
            self.b[adapter.rows, adapter.slot] = (adapter.b.data * adapter.scaling).to(self.dtype)
            adapter.grad_b = torch.zeros(adapter.b.shape, device=self.device)

    def forward(self, x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply; x is a (T, K + R) buffer whose last R columns are filled here. Returns y (T, N), `out` if given, and x Aᵀ (T, used)."""
        extra = x[:, self.width :]
        if self.rank:
            torch.mm(x[:, : self.width], self.a.t(), out=extra)
        if self.bias is not None:
            extra[:, self.used] = 1
        weight = self.scratch.view(self.height, self.width + self.rank)
        self._unpack(weight[:, : self.width])
        weight[:, self.width :] = self.b
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
        for adapter in self.adapters:
            _accumulate(adapter.grad_b, grad[:, adapter.rows], projected[:, adapter.slot], adapter.scaling)

    def backward_x(self, grad: Tensor) -> Tensor:
        """The gradient of the input (T, K)."""
        weight = self.scratch.view(self.height + self.rank, self.width)
        self._unpack(weight[: self.height])
        weight[self.height :] = self.a
        return torch.mm(grad, weight)

    def backward_a(self, grad: Tensor, x: Tensor) -> None:
        """Accumulate the gradients of A; x is the input, its first K columns."""
        if self.used:
            _accumulate(self.grad_a, grad[:, self.height : self.height + self.used], x[:, : self.width], 1.0)

    def finish(self) -> None:
        """Add the accumulated gradients to the masters' own, and have none any more."""
        for adapter in self.adapters:
            if adapter.grad_b.numel():
                for parameter, total in ((adapter.a, self.grad_a[adapter.slot]), (adapter.b, adapter.grad_b)):
                    parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)
            adapter.grad_b = torch.empty(0)
        self.grad_a = torch.empty(0)

    def _unpack(self, out: Tensor) -> None:
        begin = 0
        for weight in self.weights:
            weight.write(out[begin : begin + weight.shape[0]])
            begin += weight.shape[0]


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


def _concatenated_bias(weights: Sequence[FrozenWeight]) -> Tensor | None:
    if all(weight.bias is None for weight in weights):
        return None
    device = weights[0].weight.device
    return torch.cat([torch.zeros(weight.shape[0], device=device) if weight.bias is None else weight.bias.data for weight in weights])


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """total += scale * leftᵀ right, in float32."""
    if left.dtype == total.dtype:
        total.addmm_(left.t(), right, alpha=scale)
    elif left.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, left.t(), right, torch.float32, beta=1, alpha=scale, out=total)
    else:
        total.addmm_(left.t().float(), right.float(), alpha=scale)
