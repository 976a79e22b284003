"""Causal attention inside each row of a pack, forward and backward, without autograd.

On a GPU it is torch's flash attention (Dao 2023, https://arxiv.org/abs/2307.08691) by the operators beneath
torch.nn.attention.varlen, whose signatures hold from torch 2.11 on while the public function's change; elsewhere the same formulas,
row by row in float32.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The arguments that are passed below; a release of torch without one of them takes the plain path (support.py).
_FORWARD = {"cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "return_debug_mask", "scale"}
_BACKWARD = {"grad_out", "out", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "rng_state", "unused"}


@dataclass(frozen=True, slots=True)
class Pack:
    """Where the rows of a pass lie, and their positions as angles.

    bounds    int32 (rows + 1,): where each row begins, and the last one ends
    longest   tokens of the longest row
    cos, sin  float32 (T, head_dim / 2)
    """

    bounds: Tensor
    longest: int
    cos: Tensor
    sin: Tensor


def has_operators() -> bool:
    """Whether this torch has both operators, with the arguments that are used here."""
    return all(
        hasattr(torch.ops.aten, name) and wanted <= {argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments}
        for name, wanted in (("_flash_attention_forward", _FORWARD), ("_flash_attention_backward", _BACKWARD))
    )


def attend(q: Tensor, k: Tensor, v: Tensor, pack: Pack, scale: float) -> tuple[Tensor, Tensor]:
    """Attend within each row; q (T, heads, d), k and v (T, key heads, d).

    Returns the output, as q, and the log-sum-exp of the scores, float32 (heads, T).
    """
    if not q.is_cuda:
        return _attend_rows(q, k, v, pack, scale)
    bounds, longest = pack.bounds, pack.longest
    output: Any = torch.ops.aten._flash_attention_forward(q, k, v, bounds, bounds, longest, longest, 0.0, True, False, scale=scale)
    return output[0], output[1]


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor, pack: Pack, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of the output (T, heads, d)."""
    if not q.is_cuda:
        return _attend_rows_backward(grad, q, k, v, output, log_sum, pack, scale)
    bounds, longest = pack.bounds, pack.longest
    no_dropout = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of the generator that dropout would use
    unused = torch.empty(0, device=q.device)
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, q, k, v, output, log_sum, bounds, bounds, longest, longest, 0.0, True, no_dropout, unused, scale=scale
    )
    return grads


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, pack: Pack, scale: float) -> tuple[Tensor, Tensor]:
    output, log_sum = q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    for start, end in itertools.pairwise(pack.bounds.tolist()):
        queries, keys, values = (_by_head(states[start:end], q.shape[1]) for states in (q, k, v))
        scores = _scores(queries, keys, scale)
        log_sum[:, start:end] = scores.logsumexp(2)
        output[start:end] = (scores.softmax(2) @ values).transpose(0, 1)
    return output, log_sum


def _attend_rows_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor, pack: Pack, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.empty(q.shape), torch.empty(k.shape), torch.empty(v.shape)
    heads = q.shape[1]
    for start, end in itertools.pairwise(pack.bounds.tolist()):
        queries, keys, values, outer, out = (_by_head(states[start:end], heads) for states in (q, k, v, grad, output))
        probabilities = (_scores(queries, keys, scale) - log_sum[:, start:end, None]).exp()
        inner = probabilities * (outer @ values.mT - (outer * out).sum(2, keepdim=True)) * scale
        parts = inner @ keys, inner.mT @ queries, probabilities.mT @ outer
        for total, part in zip(grads, parts, strict=True):
            # The heads that share a key head add up.
            total[start:end] = part.view(total.shape[1], -1, *part.shape[1:]).sum(1).transpose(0, 1)
    return tuple(total.to(q.dtype) for total in grads)  # type: ignore[return-value]


def _by_head(states: Tensor, heads: int) -> Tensor:
    """(tokens, key heads, d) as float32 (heads, tokens, d)."""
    return states.float().transpose(0, 1).repeat_interleave(heads // states.shape[1], dim=0)


def _scores(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    length = queries.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return (queries @ keys.mT * scale).masked_fill(future, float("-inf"))
