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

    hidden, inner  H and I;  qkv, attended  columns of q|k|v and of the attention's output;  heads  query heads
    ranks          columns that LoRA adds to q|k|v's, o's, gate|up's and down's products (medcot/fused/linear.py)
    """

    hidden: int
    inner: int
    qkv: int
    attended: int
    heads: int
    ranks: tuple[int, int, int, int]
    itemsize: int


def saved_bytes(shape: Shape, level: int) -> int:
    """Bytes a token that a layer keeps between its forward and its backward."""
    if level == KEEP_INPUT:
        return shape.hidden * shape.itemsize
    qkv_rank, o_rank, gate_up_rank, down_rank = shape.ranks
    elements = 2 * shape.hidden + shape.qkv + shape.attended + o_rank  # h, h2, q|k|v, attention's output with its x Aᵀ
    elements += qkv_rank + gate_up_rank + down_rank  # the other x Aᵀ, at most
    if level == KEEP_ALL:
        elements += 2 * shape.inner + gate_up_rank
    return elements * shape.itemsize + 4 * shape.heads  # and the log-sum-exp in float32


def working_bytes(shape: Shape) -> int:
    """Bytes a token that the backward of one layer needs beside what is kept: the gradients of activation, stream and input."""
    return (shape.inner + 3 * shape.hidden + 2 * shape.qkv + sum(shape.ranks)) * shape.itemsize


def plan_levels(shape: Shape, layers: int, tokens: int, no_recompute_tokens: int | None) -> list[int]:
    """Decide what each layer keeps in a pass of `tokens`, where `no_recompute_tokens` fit with everything kept (None: any number).

    As few layers as needed give up gate | up, which is two thirds of it, and only when that is not enough they keep their input alone.
    The first layers do: their backward comes last, when the others' memory is free for what they recompute.
    """
    levels = [KEEP_ALL] * layers
    if no_recompute_tokens is None or tokens <= no_recompute_tokens:
        return levels
    room = no_recompute_tokens * (layers * saved_bytes(shape, KEEP_ALL) + working_bytes(shape))
    # What a layer recomputes is there again during its backward, beside what the others keep.
    needed = tokens * (layers * saved_bytes(shape, KEEP_ALL) + working_bytes(shape))
    for level in (DROP_GATE_UP, KEEP_INPUT):
        for layer in range(layers):
            if needed <= room:
                return levels
            needed -= tokens * (saved_bytes(shape, levels[layer]) - saved_bytes(shape, level))
            levels[layer] = level
    return levels
