"""What a pass keeps until its backward, in bytes, and which layers recompute it instead where it does not fit.

All figures are a token's, so they do not depend on how rows lie in a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

KEEP_ALL, DROP_GATE_UP, KEEP_INPUT = 0, 1, 2
"""What a layer keeps: everything, everything but gate | up, or only its input."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns of a layer's tensors, and the bytes of an element.

    hidden, inner       H and I
    qkv, attended       q|k|v, and the attention's output;  heads  query heads
    o_rank, inner_rank  R, the columns that LoRA adds to o's and to gate|up's products (medcot/fused/linear.py)
    projected           x Aᵀ of all four groups
    """

    hidden: int
    inner: int
    qkv: int
    attended: int
    heads: int
    o_rank: int
    inner_rank: int
    projected: int
    itemsize: int


def saved_bytes(shape: Shape, level: int) -> int:
    """Bytes a token that a layer keeps between its forward and its backward."""
    if level == KEEP_INPUT:
        return shape.hidden * shape.itemsize
    columns = 2 * shape.hidden + shape.qkv + shape.attended + shape.o_rank + shape.projected
    if level == KEEP_ALL:
        columns += 2 * shape.inner + shape.inner_rank
    return columns * shape.itemsize + 4 * shape.heads  # the log-sum-exp is float32


def working_bytes(shape: Shape) -> int:
    """Bytes a token that one layer's backward needs beside what is kept, at its height: the gradients of activation, stream and input."""
    return (shape.inner + 3 * shape.hidden + 2 * shape.qkv + shape.o_rank) * shape.itemsize


def plan_levels(shape: Shape, layers: int, tokens: int, no_recompute_tokens: int | None) -> list[int]:
    """Decide what each layer keeps in a pass of `tokens`, where `no_recompute_tokens` fit with everything kept (None: any number).

    As few layers as needed give up gate | up, most of what they keep; only when that is not enough they keep their input alone. The
    first layers do, whose backward comes last, when the memory of the others is free for what they recompute.
    """
    levels = [KEEP_ALL] * layers
    if no_recompute_tokens is None or tokens <= no_recompute_tokens:
        return levels
    whole = layers * saved_bytes(shape, KEEP_ALL) + working_bytes(shape)
    excess = (tokens - no_recompute_tokens) * whole
    for level in (DROP_GATE_UP, KEEP_INPUT):
        for layer in range(layers):
            if excess <= 0:
                return levels
            excess -= tokens * (saved_bytes(shape, levels[layer]) - saved_bytes(shape, level))
            levels[layer] = level
    return levels
