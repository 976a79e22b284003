"""What makes a model on a GPU faster where no gradient is wanted, for as long as a block lasts; on a CPU nothing changes.

RMS normalisation takes one kernel, where transformers takes six and writes float32 in between: a tenth of a pass. Its weight is then
applied before the rounding to 16 bits and not after it, so results differ from transformers' by a rounding.
Weights in NF4 are unpacked once, where memory has room for it. bitsandbytes unpacks them in every pass, which for a step of one token a
row takes longer than all the rest. The products are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm

NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
ROOM = 0.5  # share of the free memory that unpacked weights may take: keys and values come on top


@contextmanager
def fused_norms(model: Any) -> Iterator[None]:
    """Let a model normalise in one kernel."""
    norms = [module for module in model.modules() if type(module).__name__ in NORMS and module.weight.is_cuda]
    with _forwards({norm: partial(_normalize, norm) for norm in norms}):
        yield


@contextmanager
def unpacked_weights(model: Any) -> Iterator[None]:
    """Let a model compute with its NF4 weights unpacked, where they take at most ROOM of the free memory."""
    layers = [module for module in model.modules() if _is_packed(module)]
    needed = sum(layer.in_features * layer.out_features * layer.compute_dtype.itemsize for layer in layers)
    if not layers or needed > ROOM * torch.cuda.mem_get_info(layers[0].weight.device)[0]:
        yield
        return
    with _forwards({layer: partial(_multiply, _unpack(layer), layer.bias) for layer in layers}):
        yield


@contextmanager
def _forwards(forwards: dict[Any, Any]) -> Iterator[None]:
    before = {module: module.__dict__.get("forward") for module in forwards}  # another kernel's, where training put one there
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, own in before.items():
            del module.forward
            if own is not None:
                module.forward = own


def _normalize(norm: Any, states: torch.Tensor) -> torch.Tensor:
    return rms_norm(states, (states.shape[-1],), norm.weight.to(states.dtype), norm.variance_epsilon)


def _is_packed(module: Any) -> bool:
    # peft's own layers of this name hold one of these.
    return type(module).__name__ == "Linear4bit" and type(module).__module__.startswith("bitsandbytes") and bool(module.weight.is_cuda)


def _unpack(layer: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return torch.as_tensor(dequantize_4bit(layer.weight.data, layer.weight.quant_state)).to(layer.compute_dtype)


def _multiply(weight: torch.Tensor, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    return linear(states.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype)).to(states.dtype)
