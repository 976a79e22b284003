"""Attention inside the rows of a pack, written out forward and backward."""

from __future__ import annotations

import pytest
import torch
from fused_factory import pack_of

from medcot.attention import reference
from medcot.fused import attention
from medcot.fused.attention import attend, attend_backward, has_operators


@pytest.mark.parametrize("keys", [1, 2, 4])
@pytest.mark.parametrize("lengths", [[9], [1, 6, 2, 11]])
def test_it_is_scaled_dot_product_attention_of_each_row_and_its_gradient(keys: int, lengths: list[int]) -> None:
    torch.manual_seed(0)
    pack = pack_of(lengths, 8)
    q, k, v = (torch.randn(sum(lengths), heads, 8, requires_grad=True) for heads in (4, keys, keys))
    wanted = reference(q, k, v, pack.bounds.tolist(), 0.3, None)
    grad = torch.randn_like(wanted)
    with torch.no_grad():
        found, log_sum = attend(q, k, v, pack, 0.3)
        grads = attend_backward(grad, q, k, v, found, log_sum, pack, 0.3)
    torch.testing.assert_close(found, wanted)
    assert log_sum.shape == (4, sum(lengths))
    for ours, theirs in zip(grads, torch.autograd.grad(wanted, (q, k, v), grad), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_this_torch_has_the_operators_of_the_gpu() -> None:
    assert has_operators()


def test_a_torch_whose_operator_has_other_arguments_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_BACKWARD", {"logsumexp", "an_argument_of_tomorrow"})
    assert not has_operators()
