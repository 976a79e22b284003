"""Every kernel in plain torch: the same numbers on any device and in any precision, for machines without Triton and for tests.

Each function has the name, the arguments and the in-place effects of its kernel (medcot/fused/kernels.py); ops.py chooses. Arithmetic
is float32, rounded where the kernel rounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

NF4_BLOCK = 64


def unpack_nf4(out: Tensor, packed: Tensor, scales: Tensor, code: Tensor, extra: Tensor) -> None:
    """Write 4-bit weights (N, K), K a multiple of 64, and `extra` beside or below them.

    out     (N, K + R), with extra (N, R) in the last columns; or (N + R, K), with extra (R, K) in the last rows
    packed  uint8 of N * K / 2, the high half of a byte first;  code  float32 of 16;  scales  float32 of N * K / 64: code[index] * scale
    """
    indices = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], dim=1).view(-1, NF4_BLOCK)
    values = code[indices.long()] * scales.view(-1, 1)
    if len(extra) == len(out):
        out.copy_(torch.cat([values.view(len(out), -1).to(out.dtype), extra], dim=1))
    else:
        out.copy_(torch.cat([values.view(-1, out.shape[1]).to(out.dtype), extra]))


def add_norm(stream: Tensor, delta: Tensor | None, weight: Tensor, eps: float, pad: int) -> tuple[Tensor, Tensor]:
    """Add `delta` to the residual stream (T, H) and normalise the sum: RMSNorm (Zhang & Sennrich 2019, equation 4).

    Returns the sum and a (T, H + pad) buffer whose first H columns are the normalised sum; the others are not written.
    """
    total = stream if delta is None else stream + delta
    width = total.shape[1]
    normed = total.new_empty(total.shape[0], width + pad)
    normed[:, :width] = weight * _scaled(total, eps)[0].to(total.dtype)
    return total, normed


def norm_backward(grad_normed: Tensor, stream: Tensor, weight: Tensor, eps: float, grad: Tensor) -> None:
    """Add the gradient of RMSNorm to `grad` (T, H) in place, and put the normalised stream where its gradient was."""
    scaled, inverse = _scaled(stream, eps)
    incoming = grad_normed.float() * weight.float()
    through = inverse * (incoming - scaled * (incoming * scaled).mean(1, keepdim=True))
    grad.copy_(grad.float() + through)
    grad_normed.copy_(weight * scaled.to(stream.dtype))


def _scaled(values: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = values.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return wide * inverse, inverse


def swiglu(gate_up: Tensor, pad: int) -> Tensor:
    """Compute silu(gate) * up (Shazeer 2020, equation 6) of gate | up (T, 2I), into the first I columns of a (T, I + pad) buffer."""
    gate, up = gate_up.chunk(2, dim=1)
    width = gate.shape[1]
    act = gate_up.new_empty(gate.shape[0], width + pad)
    act[:, :width] = (gate.float() * gate.float().sigmoid()).to(gate.dtype) * up
    return act


def swiglu_backward(gate_up: Tensor, grad_act: Tensor) -> None:
    """Turn gate | up into its gradient and the gradient of the activation (T, I) into the activation, both in place."""
    gate, up = (half.float() for half in gate_up.chunk(2, dim=1))
    grad, sigmoid = grad_act.float(), gate.sigmoid()
    silu = gate * sigmoid
    act = silu.to(gate_up.dtype).float() * up
    gate_up.copy_(torch.cat([grad * up * sigmoid * (1 + gate * (1 - sigmoid)), grad * silu], dim=1))
    grad_act.copy_(act)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, q_weight: Tensor | None, k_weight: Tensor | None, eps: float) -> Tensor:
    """Rotate queries and keys by their positions (RoPE, Su et al. 2021), after RMSNorm of each head where the model has it.

    qkv (T, columns): `heads` query heads, then the key heads, then as many value heads; cos, sin (T, head_dim / 2), float32. Returns
    a tensor whose first columns are the rotated queries and keys: qkv itself, changed in place, or with norms a new one without values.
    """
    head_dim = 2 * cos.shape[1]
    keys = (qkv.shape[1] // head_dim - heads) // 2
    columns = (heads + keys) * head_dim
    states = qkv[:, :columns].view(-1, heads + keys, head_dim)
    wide = states.float()
    if q_weight is not None and k_weight is not None:
        scaled = _scaled(states, eps)[0].to(qkv.dtype)
        wide = torch.cat([q_weight * scaled[:, :heads], k_weight * scaled[:, heads:]], dim=1).float()
    target = qkv if q_weight is None else qkv.new_empty(qkv.shape[0], columns)
    target[:, :columns] = _turn(wide, cos, sin).reshape(-1, columns)
    return target


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
    """Write the gradient of q | k | v before `rotate` into `out`, from those (T, heads, head_dim) after it.

    A rotation's gradient is the rotation back, so only a model with head norms needs `qkv`, as it was before.
    """
    parts = [_turn(grad.float(), cos, -sin) for grad in grads[:2]]
    if qkv is not None and q_weight is not None and k_weight is not None:
        raw = qkv.view(qkv.shape[0], -1, 2 * cos.shape[1])
        heads, keys = parts[0].shape[1], parts[1].shape[1]
        parts = [
            _head_norm_backward(parts[0], raw[:, :heads], q_weight, eps),
            _head_norm_backward(parts[1], raw[:, heads : heads + keys], k_weight, eps),
        ]
    out.copy_(torch.cat([part.flatten(1) for part in (*parts, grads[2].float())], dim=1))


def _head_norm_backward(grad: Tensor, raw: Tensor, weight: Tensor, eps: float) -> Tensor:
    scaled, inverse = _scaled(raw, eps)
    incoming = grad * weight.float()
    return inverse * (incoming - scaled * (incoming * scaled).mean(-1, keepdim=True))


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """NLL of each target (n,) in float32; the logits (n, V) become, in place, `scale` times their gradient: softmax - one-hot."""
    log_probs = logits.float().log_softmax(1)
    losses = -log_probs.gather(1, targets[:, None]).squeeze(1)
    grad = log_probs.exp_()
    grad[torch.arange(len(targets), device=targets.device), targets] -= 1
    logits.copy_(grad.mul_(scale))
    return losses
