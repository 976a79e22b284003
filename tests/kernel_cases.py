"""What the kernels of the fused path are run on: small and odd sizes, where a mask or a stride that is wrong shows.

As a program (under TRITON_INTERPRET=1, which has to be set before triton is imported) it runs each kernel beside its twin and writes
the largest differences to the file argv[1] as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A call of a kernel, and which of its arguments and results are to be compared (what lies beside them is nobody's)."""

    name: str
    arguments: tuple[Any, ...]
    compared: Callable[[tuple[Any, ...], Any], list[Tensor]]


def wide(rows: int, columns: int, pad: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """A matrix that is part of a wider buffer, as those of the fused path are."""
    return (scale * torch.randn(rows, columns + pad)).to(dtype)[:, :columns]


def weight(width: int, dtype: torch.dtype) -> Tensor:
    return (0.5 + torch.rand(width)).to(dtype)


def angles(rows: int, half: int) -> tuple[Tensor, Tensor]:
    turned = torch.arange(rows)[:, None] * 0.3 ** torch.arange(half)[None]
    return turned.cos(), turned.sin()


def unpack(rows: int, columns: int, rank: int, dtype: torch.dtype, *, beside: bool) -> Case:
    packed = torch.randint(0, 256, (rows * columns // 2,), dtype=torch.uint8)
    scales, code = torch.rand(rows * columns // 64), torch.linspace(-1, 1, 16) ** 3
    out = wide(rows, columns + rank, 0, dtype) if beside else wide(rows + rank, columns, 0, dtype)
    extra = wide(rows, rank, 0, dtype) if beside else wide(rank, columns, 0, dtype)
    return Case("unpack_nf4", (out, packed, scales, code, extra), lambda args, _: [args[0]])


def add_norm(rows: int, width: int, *, delta: bool, pad: int, dtype: torch.dtype) -> Case:
    arguments = (wide(rows, width, 0, dtype), wide(rows, width, 0, dtype) if delta else None, weight(width, dtype), 0.01, pad)
    return Case("add_norm", arguments, lambda args, made: [args[0], made[0], made[1][:, :width]])


def norm_backward(rows: int, width: int, pad: int, dtype: torch.dtype) -> Case:
    arguments = (wide(rows, width, 0, dtype), wide(rows, width, 0, dtype), weight(width, dtype), 0.01, wide(rows, width, pad, dtype))
    return Case("norm_backward", arguments, lambda args, _: [args[0], args[1], args[4]])


def swiglu(rows: int, width: int, pad: int, dtype: torch.dtype) -> Case:
    return Case("swiglu", (wide(rows, 2 * width, 0, dtype, 3.0), pad), lambda args, made: [args[0], made[:, :width]])


def swiglu_backward(rows: int, width: int, pad: int, dtype: torch.dtype) -> Case:
    arguments = (wide(rows, 2 * width, pad, dtype, 3.0), wide(rows, width, 0, dtype))
    return Case("swiglu_backward", arguments, lambda args, _: list(args))


def rotate(rows: int, heads: int, keys: int, half: int, *, norms: bool, dtype: torch.dtype) -> Case:
    qkv = wide(rows, (heads + 2 * keys) * 2 * half, 0, dtype)
    weights = (weight(2 * half, dtype), weight(2 * half, dtype)) if norms else (None, None)
    columns = (heads + keys) * 2 * half
    return Case("rotate", (qkv, *angles(rows, half), heads, *weights, 0.01), lambda args, made: [args[0], made[:, :columns]])


def rotate_backward(rows: int, heads: int, keys: int, half: int, *, norms: bool, dtype: torch.dtype) -> Case:
    out = wide(rows, (heads + 2 * keys) * 2 * half, 64, dtype)
    grads = tuple(torch.randn(rows, count, 2 * half).to(dtype) for count in (heads, keys, keys))
    qkv = wide(rows, out.shape[1], 0, dtype) if norms else None
    weights = (weight(2 * half, dtype), weight(2 * half, dtype)) if norms else (None, None)
    return Case("rotate_backward", (out, grads, qkv, *angles(rows, half), *weights, 0.01), lambda args, _: [args[0]])


def cross_entropy(rows: int, vocabulary: int, scale: float, dtype: torch.dtype) -> Case:
    logits, targets = wide(rows, vocabulary, 0, dtype, scale), torch.randint(0, vocabulary, (rows,))
    targets[0] = vocabulary - 1  # the last column, in the last tile
    return Case("cross_entropy", (logits, targets, 0.125), lambda args, made: [args[0], made])


def cases(dtype: torch.dtype, tokens: tuple[int, ...] = (1, 7, 129)) -> dict[str, Case]:
    """Every kernel on odd sizes, by a name that says which; fewer tokens take less time under the interpreter."""
    made: dict[str, Case] = {}
    torch.manual_seed(0)
    for rows, columns, rank in ((1, 64, 0), (7, 192, 64), (3, 2176, 8)):
        for beside in (True, False):
            made[f"unpack_nf4 {rows}x{columns}+{rank} {'beside' if beside else 'below'}"] = unpack(
                rows, columns, rank, dtype, beside=beside
            )
    for rows, width, pad in zip(tokens, (130, 1000, 96), (0, 64, 64), strict=False):
        for delta in (True, False):
            made[f"add_norm {rows}x{width}+{pad} {delta}"] = add_norm(rows, width, delta=delta, pad=pad, dtype=dtype)
        made[f"norm_backward {rows}x{width}+{pad}"] = norm_backward(rows, width, pad, dtype)
    for rows, width, pad in zip(tokens, (1030, 48, 130), (0, 64, 64), strict=False):
        made[f"swiglu {rows}x{width}+{pad}"] = swiglu(rows, width, pad, dtype)
        made[f"swiglu_backward {rows}x{width}+{pad}"] = swiglu_backward(rows, width, pad, dtype)
    for rows, heads, keys, half in ((1, 3, 1, 8), (7, 6, 2, 12)):
        for norms in (True, False):
            size = f"{rows}x{heads}/{keys}x{half} {'with' if norms else 'without'} norms"
            made[f"rotate {size}"] = rotate(rows, heads, keys, half, norms=norms, dtype=dtype)
            made[f"rotate_backward {size}"] = rotate_backward(rows, heads, keys, half, norms=norms, dtype=dtype)
    for rows, vocabulary, scale in ((1, 131, 3.0), (7, 8197, 3.0), (2, 16500, 300.0)):
        made[f"cross_entropy {rows}x{vocabulary} {scale:g}"] = cross_entropy(rows, vocabulary, scale, dtype)
    return made


def copied(value: Any, device: str) -> Any:
    """A copy that keeps the strides."""
    if isinstance(value, tuple):
        return tuple(copied(one, device) for one in value)
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device).copy_(value)
    return value


def difference(case: Case, kernels: Any, twins: Any, device: str = "cpu") -> float:
    """The largest difference of anything they write, relative to the largest value of the tensor."""
    results = []
    for module in (kernels, twins):
        arguments = copied(case.arguments, device)
        made = getattr(module, case.name)(*arguments)
        results.append([tensor.float() for tensor in case.compared(arguments, made)])
    errors = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(*results, strict=True)]
    return max(errors)


def real_calls(hidden: int, inner: int, vocabulary: int, heads: int, keys: int, half: int, *, norms: bool) -> list[Case]:
    """One call of each kernel at the widths of a real model, on two tokens in bfloat16: to be compiled, or run on a GPU."""
    dtype = torch.bfloat16
    return [
        unpack(2, hidden, 64, dtype, beside=True),
        add_norm(2, hidden, delta=True, pad=64, dtype=dtype),
        add_norm(2, hidden, delta=False, pad=64, dtype=dtype),
        norm_backward(2, hidden, 64, dtype),
        swiglu(2, inner, 64, dtype),
        swiglu_backward(2, inner, 64, dtype),
        rotate(2, heads, keys, half, norms=norms, dtype=dtype),
        rotate_backward(2, heads, keys, half, norms=norms, dtype=dtype),
        cross_entropy(2, vocabulary, 1.0, dtype),
    ]


def main() -> None:
    from medcot.fused import kernels, twins

    found = {f"float32 {name}": difference(case, kernels, twins) for name, case in cases(torch.float32).items()}
    found |= {f"bfloat16 {name}": difference(case, kernels, twins) for name, case in cases(torch.bfloat16, (1, 7)).items()}
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
