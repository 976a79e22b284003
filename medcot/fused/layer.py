"""One decoder layer, forward and backward written out: what it saves is all that its backward reads (README.md has the table).

The names are those of the papers: h the residual stream that enters, h2 the stream after attention. The sum into the stream happens inside
the normalisation that follows it, so a layer hands on the stream and what is still to be added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medcot.fused import ops
from medcot.fused.attention import Pack, attend, attend_backward
from medcot.fused.linear import LoraGroup, Scratch
from medcot.fused.memory import KEEP_ALL, KEEP_INPUT, Shape


@dataclass(slots=True)
class SavedAttention:
    """From the first norm to o.

    qkv         (T, q|k|v columns)   rotated, or with head norms as projected
    qkv_a, o_a  (T, r)   x Aᵀ of both groups
    attended    (T, heads * d + R)   the attention's output, which is o's input
    log_sum     (heads, T) float32   log-sum-exp of the scores
    """

    qkv: Tensor
    qkv_a: Tensor
    attended: Tensor
    o_a: Tensor
    log_sum: Tensor


@dataclass(slots=True)
class SavedMlp:
    """From the second norm to down.

    h2         (T, H)   the stream before the MLP
    gate_up    (T, 2I + R)   with room for its gradient's own R columns; None where it is recomputed
    gate_up_a, down_a  (T, r)   x Aᵀ of both groups
    """

    h2: Tensor
    gate_up: Tensor | None
    gate_up_a: Tensor
    down_a: Tensor


@dataclass(slots=True)
class Saved:
    """What a layer's backward reads: its input h (T, H), and its two halves unless they are recomputed from it."""

    h: Tensor
    attention: SavedAttention | None = None
    mlp: SavedMlp | None = None


class Layer:
    """A decoder layer of a Qwen2, Qwen3 or Llama model under peft; reads its weights, changes none."""

    def __init__(self, module: Any, scratch: Scratch, dtype: torch.dtype) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.qkv = LoraGroup([attention.q_proj, attention.k_proj, attention.v_proj], scratch, dtype)
        self.o = LoraGroup([attention.o_proj], scratch, dtype)
        self.gate_up = LoraGroup([mlp.gate_proj, mlp.up_proj], scratch, dtype)
        self.down = LoraGroup([mlp.down_proj], scratch, dtype)
        self.groups = (self.qkv, self.o, self.gate_up, self.down)
        self.norm, self.norm2 = module.input_layernorm.weight.data, module.post_attention_layernorm.weight.data
        self.eps = float(module.input_layernorm.variance_epsilon)
        self.head_dim, self.scale = int(attention.head_dim), float(attention.scaling)
        self.heads = self.o.width // self.head_dim
        self.keys = (self.qkv.height // self.head_dim - self.heads) // 2
        has_norms = hasattr(attention, "q_norm")
        self.q_norm = attention.q_norm.weight.data if has_norms else None
        self.k_norm = attention.k_norm.weight.data if has_norms else None

    @property
    def is_trained(self) -> bool:
        """Whether any adapter is in this layer."""
        return any(group.adapters for group in self.groups)

    @property
    def shape(self) -> Shape:
        """Columns of what is saved."""
        projected = sum(group.used for group in self.groups)
        return Shape(
            hidden=self.o.height,
            inner=self.down.width,
            qkv=self.qkv.height,
            attended=self.o.width,
            heads=self.heads,
            o_rank=self.o.rank,
            inner_rank=self.gate_up.rank,
            projected=projected,
            itemsize=self.qkv.dtype.itemsize,
        )

    def forward(self, stream: Tensor, delta: Tensor | None, pack: Pack, level: int) -> tuple[Tensor, Tensor, Saved]:
        """Run the layer on stream + delta (T, H); returns the new stream, what is still to be added to it, and what backward reads."""
        h, x = ops.add_norm(stream, delta, self.norm, self.eps, self.qkv.rank)
        delta, attention = self._attention(x, pack)
        del x
        delta, mlp = self._mlp(h, delta)
        if level != KEEP_ALL:
            mlp.gate_up = None
        return mlp.h2, delta, Saved(h) if level == KEEP_INPUT else Saved(h, attention, mlp)

    def _attention(self, x: Tensor, pack: Pack) -> tuple[Tensor, SavedAttention]:
        qkv, qkv_a = self.qkv.forward(x)
        output, log_sum = attend(*self._rotated(qkv, pack), pack, self.scale)
        attended = x.new_empty(len(x), self.o.width + self.o.rank)
        attended[:, : self.o.width] = output.flatten(1)
        delta, o_a = self.o.forward(attended)
        return delta, SavedAttention(qkv, qkv_a, attended, o_a, log_sum)

    def _mlp(self, h: Tensor, delta: Tensor) -> tuple[Tensor, SavedMlp]:
        h2, x = ops.add_norm(h, delta, self.norm2, self.eps, self.gate_up.rank)
        gate_up, gate_up_a = self._gate_up(x)
        del x
        delta, down_a = self.down.forward(ops.swiglu(gate_up[:, : self.gate_up.height], self.down.rank))
        return delta, SavedMlp(h2, gate_up, gate_up_a, down_a)

    def _gate_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        room = x.new_empty(len(x), self.gate_up.height + self.gate_up.rank)
        return room, self.gate_up.forward(x, room[:, : self.gate_up.height])[1]

    def _rotated(self, qkv: Tensor, pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
        return self._split(ops.rotate(qkv, pack.cos, pack.sin, self.heads, self.q_norm, self.k_norm, self.eps), qkv)

    def _split(self, turned: Tensor, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, rotated = self.heads * self.head_dim, (self.heads + self.keys) * self.head_dim
        parts = turned[:, :queries], turned[:, queries:rotated], qkv[:, rotated:]
        q, k, v = (part.view(len(part), -1, self.head_dim) for part in parts)
        return q, k, v

    def backward(self, grad: Tensor, saved: Saved, pack: Pack, *, needs_input: bool) -> None:
        """Turn the gradient of the layer's output into that of its input, in place, and accumulate the adapters'.

        grad  (T, H + R) with the larger R of o and down: the columns after H are working space
        """
        attention, mlp = self._restored(saved, pack)
        saved.attention = saved.mlp = None  # each half is freed as soon as it was used
        self._mlp_backward(grad, mlp)
        del mlp
        grad_qkv = self._attention_backward(grad, attention, pack)
        self.qkv.backward_b(grad_qkv, attention.qkv_a)
        del attention
        if needs_input:
            x = self.qkv.backward_x(grad_qkv)
            ops.norm_backward(x, saved.h, self.norm, self.eps, grad[:, : self.o.height])
        else:
            _, x = ops.add_norm(saved.h, None, self.norm, self.eps, 0)
        self.qkv.backward_a(grad_qkv, x)

    def _restored(self, saved: Saved, pack: Pack) -> tuple[SavedAttention, SavedMlp]:
        """What was saved, with what was not computed again."""
        if saved.attention is None or saved.mlp is None:
            _, x = ops.add_norm(saved.h, None, self.norm, self.eps, self.qkv.rank)
            delta, attention = self._attention(x, pack)
            h2, x = ops.add_norm(saved.h, delta, self.norm2, self.eps, self.gate_up.rank)
            gate_up, gate_up_a = self._gate_up(x)
            act = ops.swiglu(gate_up[:, : self.gate_up.height], 0)
            return attention, SavedMlp(h2, gate_up, gate_up_a, self.down.project(act))
        if saved.mlp.gate_up is None:
            _, x = ops.add_norm(saved.mlp.h2, None, self.norm2, self.eps, self.gate_up.rank)
            saved.mlp.gate_up, _ = self._gate_up(x)
        return saved.attention, saved.mlp

    def _mlp_backward(self, grad: Tensor, mlp: SavedMlp) -> None:
        assert mlp.gate_up is not None
        gate_up, grad_down = mlp.gate_up, grad[:, : self.down.height + self.down.rank]
        self.down.backward_b(grad_down, mlp.down_a)
        act = self.down.backward_x(grad_down)
        ops.swiglu_backward(gate_up[:, : self.gate_up.height], act)  # act is the activation now, gate_up its own gradient
        self.down.backward_a(grad_down, act)
        del act
        self.gate_up.backward_b(gate_up, mlp.gate_up_a)
        x = self.gate_up.backward_x(gate_up)
        ops.norm_backward(x, mlp.h2, self.norm2, self.eps, grad[:, : self.down.height])
        self.gate_up.backward_a(gate_up, x)

    def _attention_backward(self, grad: Tensor, saved: SavedAttention, pack: Pack) -> Tensor:
        """The gradient of q|k|v as projected, in a buffer with R more columns."""
        grad_o = grad[:, : self.o.height + self.o.rank]
        self.o.backward_b(grad_o, saved.o_a)
        self.o.backward_a(grad_o, saved.attended)
        grad_attended = self.o.backward_x(grad_o)
        q, k, v = self._split(saved.qkv, saved.qkv) if self.q_norm is None else self._rotated(saved.qkv, pack)
        output = saved.attended[:, : self.o.width].view(q.shape)
        grads = attend_backward(grad_attended.view(q.shape), q, k, v, output, saved.log_sum, pack, self.scale)
        out = grad.new_empty(len(grad), self.qkv.height + self.qkv.rank)
        raw = None if self.q_norm is None else saved.qkv
        ops.rotate_backward(out[:, : self.qkv.height], grads, raw, pack.cos, pack.sin, self.q_norm, self.k_norm, self.eps)
        return out
