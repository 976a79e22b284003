"""Triton kernels of the fused step, one program a row (or a tile of a row), float32 inside, for sm_80 and newer: nothing is Hopper's own.

`<name>_kernel` is the device code, `<name>` its launcher, of the same signature as its twin in twins.py, where what it computes is
written. All are bound by memory: README.md has the bytes of each. Offsets of rows are 64-bit, since T x 2I can pass 2^31.
Imported only where Triton is (ops.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from medcot.fused.kernels_rotary import rotate as rotate
from medcot.fused.kernels_rotary import rotate_backward as rotate_backward

UNPACK_GROUPS = 32  # groups of 64 weights of one program
TILE = 1024  # columns of one program of SwiGLU
VOCABULARY_TILE = 8192


@triton.jit
def unpack_nf4_kernel(
    packed, scales, code, extra, out, groups, row_groups, stride, extra_numel, extra_width, extra_row, extra_column, programs,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if program < programs:  # BLOCK groups of 64 weights that share a scale
        group = program * BLOCK + tl.arange(0, BLOCK)[:, None]
        inside = group < groups
        byte = group.to(tl.int64) * 32 + tl.arange(0, 32)[None, :]
        pair = tl.load(packed + byte, mask=inside, other=0).to(tl.int32)
        scale = tl.load(scales + group, mask=inside, other=0.0)
        values = tl.interleave(tl.load(code + (pair >> 4)) * scale, tl.load(code + (pair & 15)) * scale)
        row = group // row_groups
        place = row.to(tl.int64) * stride + (group - row * row_groups) * 64 + tl.arange(0, 64)[None, :]
        tl.store(out + place, values.to(out.dtype.element_ty), mask=inside)
    else:  # what stands beside or below the weight
        index = (program - programs) * TILE + tl.arange(0, TILE)
        at = index // extra_width
        to = (extra_row + at).to(tl.int64) * stride + extra_column + index - at * extra_width
        tl.store(out + to, tl.load(extra + index, mask=index < extra_numel), mask=index < extra_numel)


def unpack_nf4(out: Tensor, packed: Tensor, scales: Tensor, code: Tensor, extra: Tensor) -> None:
    rank_rows, extra_width = extra.shape
    beside = rank_rows == len(out)
    width = out.shape[1] - extra_width if beside else extra_width
    programs = triton.cdiv(scales.numel(), UNPACK_GROUPS)
    grid = (programs + triton.cdiv(extra.numel(), TILE),)
    unpack_nf4_kernel[grid](
        packed, scales, code, extra, out, scales.numel(), width // 64, out.stride(0), extra.numel(), max(extra_width, 1),
        0 if beside else len(out) - rank_rows, width if beside else 0, programs, BLOCK=UNPACK_GROUPS, TILE=TILE, num_warps=4,
    )  # fmt: skip


@triton.jit
def add_norm_kernel(stream, delta, weight, total, normed, width, stride, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(stream + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        added = x + tl.load(delta + row * width + column, mask=inside, other=0.0).to(tl.float32)
        rounded = added.to(total.dtype.element_ty)
        tl.store(total + row * width + column, rounded, mask=inside)
        x = rounded.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    scaled = (x * inverse).to(normed.dtype.element_ty).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * stride + column, (w * scaled).to(normed.dtype.element_ty), mask=inside)


def add_norm(stream: Tensor, delta: Tensor | None, weight: Tensor, eps: float, pad: int) -> tuple[Tensor, Tensor]:
    rows, width = stream.shape
    total = stream if delta is None else torch.empty_like(stream)
    normed = stream.new_empty(rows, width + pad)
    add_norm_kernel[(rows,)](
        stream,
        stream if delta is None else delta,
        weight,
        total,
        normed,
        width,
        width + pad,
        eps,
        ADD=delta is not None,
        BLOCK=triton.next_power_of_2(width),
        num_warps=8,
    )
    return total, normed


@triton.jit
def norm_backward_kernel(grad_normed, stream, weight, grad, width, stride, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(stream + row * width + column, mask=inside, other=0.0).to(tl.float32)
    incoming = tl.load(grad_normed + row * width + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    scaled = x * inverse
    incoming = incoming * w
    through = inverse * (incoming - scaled * (tl.sum(incoming * scaled, 0) / width))
    place = grad + row * stride + column
    tl.store(place, (tl.load(place, mask=inside, other=0.0).to(tl.float32) + through).to(grad.dtype.element_ty), mask=inside)
    rounded = scaled.to(grad_normed.dtype.element_ty).to(tl.float32)
    tl.store(grad_normed + row * width + column, (w * rounded).to(grad_normed.dtype.element_ty), mask=inside)


def norm_backward(grad_normed: Tensor, stream: Tensor, weight: Tensor, eps: float, grad: Tensor) -> None:
    rows, width = stream.shape
    block = triton.next_power_of_2(width)
    norm_backward_kernel[(rows,)](grad_normed, stream, weight, grad, width, grad.stride(0), eps, BLOCK=block, num_warps=8)


@triton.jit
def swiglu_kernel(gate_up, act, width, stride, act_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + column, mask=inside, other=0.0)
    silu = (gate * tl.sigmoid(gate)).to(up.dtype).to(tl.float32)
    tl.store(act + row * act_stride + column, (silu * up.to(tl.float32)).to(act.dtype.element_ty), mask=inside)


def swiglu(gate_up: Tensor, pad: int) -> Tensor:
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    act = gate_up.new_empty(rows, width + pad)
    grid = (rows, triton.cdiv(width, TILE))
    swiglu_kernel[grid](gate_up, act, width, gate_up.stride(0), width + pad, BLOCK=TILE, num_warps=4)
    return act


@triton.jit
def swiglu_backward_kernel(gate_up, grad_act, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate_place = gate_up + row * stride + column
    act_place = grad_act + row * width + column
    gate = tl.load(gate_place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_place + width, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(act_place, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    rounded = silu.to(grad_act.dtype.element_ty).to(tl.float32)
    tl.store(act_place, (rounded * up).to(grad_act.dtype.element_ty), mask=inside)
    slope = sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(gate_place, (grad * up * slope).to(gate_up.dtype.element_ty), mask=inside)
    tl.store(gate_place + width, (grad * silu).to(gate_up.dtype.element_ty), mask=inside)


def swiglu_backward(gate_up: Tensor, grad_act: Tensor) -> None:
    rows, width = grad_act.shape
    swiglu_backward_kernel[(rows, triton.cdiv(width, TILE))](gate_up, grad_act, width, gate_up.stride(0), BLOCK=TILE, num_warps=4)


@triton.jit
def cross_entropy_kernel(logits, targets, losses, scale, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    place = logits + row * stride
    highest = float("-inf")
    total = 0.0
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(place + column, mask=column < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(x - higher), 0)
        highest = higher
    log_sum = highest + tl.log(total)
    tl.store(losses + row, log_sum - tl.load(place + target).to(tl.float32))
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(place + column, mask=column < width, other=float("-inf")).to(tl.float32)
        grad = (tl.exp(x - log_sum) - tl.where(column == target, 1.0, 0.0)) * scale
        tl.store(place + column, grad.to(logits.dtype.element_ty), mask=column < width)


def cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    rows, width = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(VOCABULARY_TILE, triton.next_power_of_2(width))
    cross_entropy_kernel[(rows,)](logits, targets, losses, scale, width, logits.stride(0), BLOCK=block, num_warps=16)
    return losses
