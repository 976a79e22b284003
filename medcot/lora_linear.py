"""One autograd function for each linear layer with a LoRA adapter, in a model of any architecture.

peft runs a dozen operations there: casts of the fp32 masters in every pass, bitsandbytes' own function, dropout that is none, the product
with the scaling and a sum. At a few thousand tokens a pass, launching them takes longer than computing. Here
y = x Wᵀ + b + (x Aᵀ)(s B)ᵀ is three products, its gradients with q = dy (s B) are five: dx = dy W + q A, dA = qᵀ x, dB = s dyᵀ (x Aᵀ).
What is kept for the backward pass is x, of which layers on one input hold the same tensor, and x Aᵀ.
A and s B are copied in the layer's precision once a step. Outside a step, without gradients, and wherever an adapter is off or merged,
peft's forward runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medcot.fused import ops
from medcot.fused.linear import FrozenWeight, Scratch
from medcot.fused.support import why_not_linear

DEVICES = ("cuda",)  # where it is used: on a CPU launching costs little, and results there keep their bytes


class LoraLinears:
    """The adapted layers of a model that take the function; the others, with dropout or DoRA for example, stay peft's."""

    def __init__(self, model: Any) -> None:
        self.layers: list[_Layer] = []
        self.in_step = False
        scratch = Scratch()
        for module in list(model.modules()):
            if hasattr(module, "lora_A") and _fits(module):
                self.layers.append(_Layer(module, scratch))
                module.forward = partial(self._forward, self.layers[-1], module.forward)

    def begin_step(self) -> None:
        """Read the masters; they must not change before end_step."""
        rows = [row for layer in self.layers for row in layer.masters()]
        if rows:
            copies, masters, scalings = zip(*rows, strict=True)
            torch._foreach_copy_(copies, torch._foreach_mul(masters, scalings))
        self.in_step = True

    def end_step(self) -> None:
        """Leave the layers to peft."""
        self.in_step = False

    def remove(self) -> None:
        """Give the layers their own forward back, for good."""
        for layer in self.layers:
            del layer.module.forward
        self.layers = []

    def _forward(self, layer: _Layer, peft: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (self.in_step and torch.is_grad_enabled() and x.dtype == layer.dtype and layer.is_on()) or args or kwargs:
            return peft(x, *args, **kwargs)
        return _LoraLinear.apply(x, layer.master_a, layer.master_b, layer)  # type: ignore[no-untyped-call]


class _Layer:
    """What the function needs of one layer: a (r, K) is A, b (N, r) is s B, both in the layer's precision."""

    def __init__(self, module: Any, scratch: Scratch) -> None:
        base = module.base_layer
        self.module, self.name, self.bias = module, module.active_adapters[0], base.bias
        self.dtype = _precision(base)
        self.master_a, self.master_b = module.lora_A[self.name].weight, module.lora_B[self.name].weight
        self.a, self.b = (torch.empty_like(master, dtype=self.dtype, requires_grad=False) for master in (self.master_a, self.master_b))
        self.frozen, self.scratch = FrozenWeight([base]), scratch
        if self.frozen.packed is not None:
            self.scratch.reserve(self.frozen.shape[0] * self.frozen.shape[1], self.a)

    def masters(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Each copy, its master and the factor between them."""
        yield self.a, self.master_a.data, 1.0
        yield self.b, self.master_b.data, self.scaling

    @property
    def scaling(self) -> float:
        return float(self.module.scaling[self.name])

    def is_on(self) -> bool:
        """Whether the adapter is the one in use, beside the frozen weight."""
        module = self.module
        return not module.disable_adapters and not module.merged and module.active_adapters == [self.name]

    def weight(self) -> Tensor:
        """W (N, K); one in NF4 is valid until the next is unpacked."""
        weight: Tensor
        if self.frozen.packed is None:
            weight = self.frozen.dense[0]
        else:
            weight = self.scratch.view(*self.frozen.shape)
            ops.unpack_nf4(weight, self.frozen.packed, self.frozen.scales, self.frozen.code, weight[:, :0])
        return weight


class _LoraLinear(torch.autograd.Function):
    """y (..., N) of x (..., K); the masters are arguments for their gradients alone.

    Products write into `out` where autocast is on, which it then leaves alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, master_a: Tensor, master_b: Tensor, layer: _Layer) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        projected = torch.mm(flat, layer.a.t(), out=flat.new_empty(len(flat), len(layer.a)))
        y = x.new_empty(*x.shape[:-1], len(layer.b))
        rows, weight = y.view(-1, len(layer.b)), layer.weight().t()
        if layer.bias is None:
            torch.mm(flat, weight, out=rows)
        else:
            torch.addmm(layer.bias.to(y.dtype), flat, weight, out=rows)
        rows.addmm_(projected, layer.b.t())
        ctx.save_for_backward(flat, projected)
        ctx.layer = layer
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (flat, projected), layer = ctx.saved_tensors, ctx.layer
        rows = grad.reshape(-1, grad.shape[-1])
        inner = torch.mm(rows, layer.b)
        grad_a, grad_b = _wide(inner, flat), _wide(rows, projected).mul_(layer.scaling)
        if not ctx.needs_input_grad[0]:  # the first layer's input is the frozen embedding
            return None, grad_a, grad_b, None
        grad_x = torch.mm(rows, layer.weight()).addmm_(inner, layer.a)
        return grad_x.view(*grad.shape[:-1], -1), grad_a, grad_b, None


def _wide(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right in float32, as the masters are."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left.t(), right, out_dtype=torch.float32)
    return torch.mm(left.t().float(), right.float())


def _fits(module: Any) -> bool:
    """Whether the function computes what the layer does."""
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(module.active_adapters) != 1 or len(names) != 1 or why_not_linear(module):
        return False
    if module.base_layer.weight.is_cuda and importlib.util.find_spec("triton") is None:  # which unpacks NF4 there
        return False
    base, masters = module.base_layer, (module.lora_A[names[0]].weight, module.lora_B[names[0]].weight)
    trained = all(master.requires_grad and master.dtype == torch.float32 for master in masters)
    frozen = not any(parameter.requires_grad for parameter in base.parameters())
    precisions = (torch.bfloat16,) if base.weight.is_cuda else (torch.bfloat16, torch.float32)
    return trained and frozen and base.weight.device.type in DEVICES and _precision(base) in precisions


def _precision(base: Any) -> torch.dtype | None:
    """What the layer computes in; bitsandbytes takes what it is given where nothing is set, which is not known yet."""
    dtype: torch.dtype | None = base.compute_dtype if hasattr(base, "compute_dtype") else base.weight.dtype
    return dtype
