"""The output layer and its loss on the positions that are supervised, a chunk of logits at a time, forward and backward at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medcot.fused import ops
from medcot.fused.linear import Scratch

CHUNK = 1024  # positions whose logits the scratch buffer has room for at least


class Head:
    """Final norm, frozen output layer and cross-entropy."""

    def __init__(self, norm: Any, output: Any, scratch: Scratch) -> None:
        self.norm, self.eps, self.weight, self.scratch = norm.weight.data, float(norm.variance_epsilon), output.weight.data, scratch

    @property
    def numel(self) -> int:
        """Elements of the scratch buffer for a chunk of logits."""
        return CHUNK * len(self.weight)

    def run(self, stream: Tensor, delta: Tensor, positions: Tensor, targets: Tensor, scale: float, pad: int) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the supervised positions of stream + delta (T, H).

        positions  (n,) tokens whose next one is supervised;  targets  (n,) those next tokens
        scale      1 / supervised tokens of the whole step
        Returns scale times the sum of the NLL, float32, and the gradient of the stream in a (T, H + pad) buffer.
        """
        hidden, x = ops.add_norm(stream[positions], delta[positions], self.norm, self.eps, 0)
        losses = []
        # Even chunks of whole tiles of rows, as many as the buffer takes.
        most = self.scratch.flat.numel() // len(self.weight)
        chunks = -(-len(targets) // most)
        size = min(most, -(-len(targets) // chunks // 128) * 128)
        for begin in range(0, len(targets), size):
            part = x[begin : begin + size]
            logits = torch.mm(part, self.weight.t(), out=self.scratch.view(len(part), len(self.weight)))
            losses.append(ops.cross_entropy(logits, targets[begin : begin + size], scale))
            torch.mm(logits, self.weight, out=part)
        grad = stream.new_zeros(len(stream), stream.shape[1] + pad)
        grad_hidden = torch.zeros_like(hidden)
        ops.norm_backward(x, hidden, self.norm, self.eps, grad_hidden)
        grad[:, : stream.shape[1]].index_copy_(0, positions, grad_hidden)
        return torch.cat(losses).sum() * scale, grad
