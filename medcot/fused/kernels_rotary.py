"""Triton kernels of the rotary embedding, with RMSNorm of each head where the model has it; see kernels.py."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def rotate_kernel(
    source, target, cos, sin, q_weight, k_weight, stride, target_stride, heads, keys, eps,
    NORM: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    is_key = tl.program_id(1)
    head = tl.arange(0, HEADS)[:, None]
    lane = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < tl.where(is_key == 1, keys, heads)) & (lane < HALF)
    place = (is_key * heads + head) * (2 * HALF) + lane
    a = tl.load(source + row * stride + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + row * stride + place + HALF, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        weight = q_weight if is_key == 0 else k_weight
        inverse = (1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps))[:, None]
        a = (a * inverse).to(target.dtype.element_ty).to(tl.float32) * tl.load(weight + lane, mask=lane < HALF, other=0.0).to(tl.float32)
        b = (b * inverse).to(target.dtype.element_ty).to(tl.float32) * tl.load(weight + HALF + lane, mask=lane < HALF, other=0.0).to(
            tl.float32
        )
        a = a.to(target.dtype.element_ty).to(tl.float32)
        b = b.to(target.dtype.element_ty).to(tl.float32)
    c = tl.load(cos + row * HALF + lane, mask=lane < HALF, other=0.0)
    s = tl.load(sin + row * HALF + lane, mask=lane < HALF, other=0.0)
    tl.store(target + row * target_stride + place, (a * c - b * s).to(target.dtype.element_ty), mask=inside)
    tl.store(target + row * target_stride + place + HALF, (b * c + a * s).to(target.dtype.element_ty), mask=inside)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, q_weight: Tensor | None, k_weight: Tensor | None, eps: float) -> Tensor:
    rows, half = cos.shape
    keys = (qkv.shape[1] // (2 * half) - heads) // 2
    target = qkv if q_weight is None else qkv.new_empty(rows, (heads + keys) * 2 * half)
    rotate_kernel[(rows, 2)](
        qkv, target, cos, sin, cos if q_weight is None else q_weight, cos if k_weight is None else k_weight,
        qkv.stride(0), target.stride(0), heads, keys, eps,
        NORM=q_weight is not None, HALF=half, HALF_BLOCK=triton.next_power_of_2(half), HEADS=triton.next_power_of_2(heads), num_warps=4,
    )  # fmt: skip
    return target


@triton.jit
def rotate_backward_kernel(
    grad_q, grad_k, grad_v, raw, out, cos, sin, q_weight, k_weight, raw_stride, out_stride, heads, keys, eps,
    NORM: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)  # 0 queries, 1 keys, 2 values
    head = tl.arange(0, HEADS)[:, None]
    lane = tl.arange(0, HALF_BLOCK)[None, :]
    count = tl.where(part == 0, heads, keys)
    inside = (head < count) & (lane < HALF)
    place = head * (2 * HALF) + lane
    column = tl.where(part == 0, 0, heads + (part - 1) * keys) * (2 * HALF) + place
    source = (grad_q if part == 0 else (grad_k if part == 1 else grad_v)) + row * count * (2 * HALF)
    a = tl.load(source + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + place + HALF, mask=inside, other=0.0).to(tl.float32)
    if part < 2:
        c = tl.load(cos + row * HALF + lane, mask=lane < HALF, other=0.0)
        s = tl.load(sin + row * HALF + lane, mask=lane < HALF, other=0.0)
        turned = a * c + b * s
        b = b * c - a * s
        a = turned
        if NORM:
            weight = q_weight if part == 0 else k_weight
            x = tl.load(raw + row * raw_stride + column, mask=inside, other=0.0).to(tl.float32)
            y = tl.load(raw + row * raw_stride + column + HALF, mask=inside, other=0.0).to(tl.float32)
            inverse = (1.0 / tl.sqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / (2 * HALF) + eps))[:, None]
            x = x * inverse
            y = y * inverse
            a = a * tl.load(weight + lane, mask=lane < HALF, other=0.0).to(tl.float32)
            b = b * tl.load(weight + HALF + lane, mask=lane < HALF, other=0.0).to(tl.float32)
            mean = ((tl.sum(a * x, 1) + tl.sum(b * y, 1)) / (2 * HALF))[:, None]
            a = inverse * (a - x * mean)
            b = inverse * (b - y * mean)
    tl.store(out + row * out_stride + column, a.to(out.dtype.element_ty), mask=inside)
    tl.store(out + row * out_stride + column + HALF, b.to(out.dtype.element_ty), mask=inside)


def rotate_backward(
    out: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    qkv: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
) -> None:
    rows, half = cos.shape
    grad_q, grad_k, grad_v = (grad.contiguous() for grad in grads)
    heads, keys = grad_q.shape[1], grad_k.shape[1]
    raw = out if qkv is None else qkv
    rotate_backward_kernel[(rows, 3)](
        grad_q, grad_k, grad_v, raw, out, cos, sin, cos if q_weight is None else q_weight, cos if k_weight is None else k_weight,
        raw.stride(0), out.stride(0), heads, keys, eps,
        NORM=q_weight is not None, HALF=half, HALF_BLOCK=triton.next_power_of_2(half), HEADS=triton.next_power_of_2(heads), num_warps=4,
    )  # fmt: skip
