"""What the fused step's choices are worth on this GPU: its kernels' bandwidths, and LoRA inside a matrix product against LoRA added to it.

Run     python -m benchmarks.fused_kernels [--shape 7b] [--tokens 5120]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.random_model import SHAPES, config_of
from medcot.fused import ops
from medcot.fused.linear import PAD, SLOT, _accumulate

RANK = 8
Widths = tuple[int, int, int]  # inputs, outputs, adapters of a group


def median_ms(run: Callable[[], Any]) -> float:
    """Median milliseconds of a call, with its inputs out of the cache."""
    from triton.testing import do_bench

    return float(do_bench(run, warmup=10, rep=60, return_mode="median"))


def groups_of(config: Any) -> dict[str, Widths]:
    """The four groups of linear layers on one input."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "q|k|v": (hidden, queries + 2 * keys, 3),
        "o": (queries, hidden, 1),
        "gate|up": (hidden, 2 * inner, 2),
        "down": (inner, hidden, 1),
    }


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").bfloat16()


def kernels(config: Any, tokens: int) -> Iterator[tuple[str, Callable[[], Any], int]]:
    """Name, call and bytes read and written of every kernel, at the widths of a model."""
    hidden, inner, heads, keys, width = (
        config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
    )  # fmt: skip
    columns = (heads + 2 * keys) * width
    packed = torch.randint(0, 256, (inner * hidden // 2,), dtype=torch.uint8, device="cuda")
    scales, code = torch.rand(inner * hidden // 64, device="cuda"), torch.linspace(-1, 1, 16, device="cuda")
    weight, extra = random(inner, hidden + PAD), random(inner, PAD)
    yield "unpack_nf4", lambda: ops.unpack_nf4(weight, packed, scales, code, extra), inner * (hidden * 41 // 16 + 4 * PAD)
    stream, delta, norm, grad = random(tokens, hidden), random(tokens, hidden), random(hidden), random(tokens, hidden + PAD)
    yield "add_norm", lambda: ops.add_norm(stream, delta, norm, 1e-6, PAD), 8 * tokens * hidden
    yield "norm_backward", lambda: ops.norm_backward(delta, stream, norm, 1e-6, grad[:, :hidden]), 10 * tokens * hidden
    gate_up, act = random(tokens, 2 * inner + PAD)[:, : 2 * inner], random(tokens, inner)
    yield "swiglu", lambda: ops.swiglu(gate_up, PAD), 6 * tokens * inner
    yield "swiglu_backward", lambda: ops.swiglu_backward(gate_up, act), 12 * tokens * inner
    qkv, out, angles = random(tokens, columns), random(tokens, columns), torch.rand(tokens, width // 2, device="cuda")
    scale = random(width) if config.model_type == "qwen3" else None
    grads = tuple(random(tokens, count, width) for count in (heads, keys, keys))
    yield "rotate", lambda: ops.rotate(qkv, angles, angles, heads, scale, scale, 1e-6), 4 * tokens * (heads + keys) * width
    raw, factor = (None, 4) if scale is None else (qkv, 6)
    yield (
        "rotate_backward",
        lambda: ops.rotate_backward(out, grads, raw, angles, angles, scale, scale, 1e-6),  # type: ignore[arg-type]
        factor * tokens * columns,
    )
    logits, targets = random(1024, config.vocab_size), torch.randint(0, config.vocab_size, (1024,), device="cuda")
    yield "cross_entropy, 1,024 rows", lambda: ops.cross_entropy(logits, targets, 1e-4), 6 * logits.numel()


def products(widths: Widths, tokens: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of forward and of the input's gradient: without LoRA, with LoRA added, and with LoRA inside, R padded to 8 or to 64."""
    inputs, outputs, adapters = widths
    used = adapters * SLOT
    x, dy, weight = random(tokens, inputs), random(tokens, outputs), random(outputs, inputs)
    a, b, xa, dyb = random(used, inputs), random(outputs, used), random(tokens, used), random(tokens, used)
    y, dx = torch.empty_like(dy), torch.empty_like(x)
    plain = median_ms(lambda: torch.mm(x, weight.t(), out=y)), median_ms(lambda: torch.mm(dy, weight, out=dx))
    added = median_ms(lambda: y.addmm_(xa, b.t())), median_ms(lambda: dx.addmm_(dyb, a))
    found = {"without LoRA": plain, "LoRA added": (plain[0] + added[0], plain[1] + added[1])}
    for pad in (SLOT, PAD):
        rank = -(-used // pad) * pad
        wide_x, beside = random(tokens, inputs + rank), random(outputs, inputs + rank)
        wide_dy, below = random(tokens, outputs + rank), random(outputs + rank, inputs)
        forward = median_ms(lambda: torch.mm(wide_x, beside.t(), out=y))  # noqa: B023
        found[f"LoRA inside, R {rank}"] = forward, median_ms(lambda: torch.mm(wide_dy, below, out=dx))  # noqa: B023
    return found


def skinny(widths: Widths, tokens: int) -> float:
    """Milliseconds of the four narrow products of a group: x Aᵀ, dy B, and the gradients of A and B."""
    inputs, outputs, adapters = widths
    used = adapters * SLOT
    x, dy, a, b, xa = (
        random(tokens, inputs + PAD),
        random(tokens, outputs + PAD),
        random(PAD, inputs),
        random(outputs, PAD),
        random(tokens, used),
    )
    grad_a, grad_b = torch.zeros(used, inputs, device="cuda"), torch.zeros(outputs, used, device="cuda")
    calls: list[Callable[[], Any]] = [
        lambda: torch.mm(x[:, :inputs], a.t(), out=x[:, inputs:]),
        lambda: torch.mm(dy[:, :outputs], b, out=dy[:, outputs:]),
        lambda: _accumulate(grad_b, dy[:, :outputs], xa),
        lambda: _accumulate(grad_a, xa, x[:, :inputs]),
    ]
    return sum(map(median_ms, calls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--tokens", type=int, default=5120)
    args = parser.parse_args()
    config = config_of(args.shape)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.shape}, {args.tokens:,} tokens")
    with torch.inference_mode():
        for name, run, size in kernels(config, args.tokens):
            ms = median_ms(run)
            print(f"{name:<27} {ms:7.4f} ms  {size / ms / 1e9:5.2f} TB/s")
        for name, widths in groups_of(config).items():
            print(f"{name}: " + "; ".join(f"{how} {f:.3f} + {b:.3f} ms" for how, (f, b) in products(widths, args.tokens).items()))
            print(f"{name}: the narrow products {skinny(widths, args.tokens):.3f} ms")


if __name__ == "__main__":
    main()
