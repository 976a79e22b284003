"""The output layer on the supervised positions alone, in chunks."""

from __future__ import annotations

import pytest
import torch
from fused_factory import small_model
from torch.nn.functional import cross_entropy

from medcot.fused.head import Head
from medcot.fused.linear import Scratch


@pytest.mark.parametrize("rows_of_logits", [1, 3, 200])
def test_loss_and_gradient_are_those_of_autograd_whatever_the_chunk(rows_of_logits: int) -> None:
    base = small_model("llama").get_base_model()
    scratch = Scratch()
    head = Head(base.model.norm, base.lm_head, scratch)
    scratch.reserve(rows_of_logits * len(base.lm_head.weight), torch.empty(0))
    torch.manual_seed(0)
    stream, delta = torch.randn(20, 64), torch.randn(20, 64)
    positions, targets = torch.tensor([0, 3, 4, 7, 11, 18]), torch.tensor([5, 130, 0, 7, 7, 2])
    total = (stream + delta).requires_grad_()
    wanted = cross_entropy(base.lm_head(base.model.norm(total))[positions], targets, reduction="sum") / 9
    wanted.backward()
    with torch.no_grad():
        loss, grad = head.run(stream, delta, positions, targets, 1 / 9, pad=8)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert grad.shape == (20, 72)
    torch.testing.assert_close(grad[:, :64], total.grad)
    unsupervised = torch.ones(20, dtype=torch.bool).index_fill_(0, positions, value=False)
    assert not grad[unsupervised].any()


def test_a_chunk_of_a_thousand_logits_is_what_it_asks_room_for() -> None:
    base = small_model("qwen3").get_base_model()
    assert Head(base.model.norm, base.lm_head, Scratch()).numel == 1024 * 131
