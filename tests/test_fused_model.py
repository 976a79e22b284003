"""The whole step: what it leaves alone, where it stops, and what it recomputes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused_factory import batch_of, small_model
from parity_factory import VOCAB, forget, gradients

from medcot.fused.layer import Layer
from medcot.fused.memory import DROP_GATE_UP, KEEP_ALL, KEEP_INPUT
from medcot.fused.model import FusedModel
from medcot.template import MASK

BATCH = batch_of([11, 4, 30], VOCAB)


def step(fused: FusedModel, *batches: dict[str, Any], **options: Any) -> float:
    fused.refresh()
    loss = sum(float(fused.run_pass(batch, 20, **options)) for batch in batches)
    fused.finish()
    return loss


def levels_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each layer's forward is asked to keep, from here on."""
    seen: list[int] = []
    forward = Layer.forward

    def record(self: Layer, *args: Any) -> Any:
        seen.append(args[3])
        return forward(self, *args)

    monkeypatch.setattr(Layer, "forward", record)
    return seen


def test_a_pass_that_supervises_nothing_has_no_loss_and_no_gradient() -> None:
    model = small_model("qwen2")
    assert step(FusedModel(model), {**BATCH, "labels": torch.full_like(BATCH["labels"], MASK)}) == 0
    assert not any(grad.any() for grad in gradients(model).values())


def test_the_loss_may_leave_the_pass() -> None:
    """Trainers add losses up and reduce them in place, which a tensor of inference mode would refuse."""
    fused = FusedModel(small_model("qwen2"))
    fused.refresh()
    loss = fused.run_pass(BATCH, 20)
    loss += 1
    assert (loss.shape, loss.dtype, loss.is_inference()) == ((), torch.float32, False)


@pytest.mark.parametrize(("recompute", "expected"), [(0, [KEEP_ALL] * 2), (1, [DROP_GATE_UP] * 2), (2, [KEEP_INPUT] * 2)])
def test_recomputation_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, recompute: int, expected: list[int]) -> None:
    seen = levels_of(monkeypatch)
    step(FusedModel(small_model("llama")), BATCH, recompute=recompute)
    assert seen == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, [0, 0]), (45, [0, 0]), (44, [DROP_GATE_UP, KEEP_ALL]), (0, [KEEP_INPUT, KEEP_INPUT])]
)
def test_longer_passes_than_fit_recompute_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, expected: list[int]
) -> None:
    seen = levels_of(monkeypatch)
    fused = FusedModel(small_model("llama"))
    fused.no_recompute_tokens = limit
    step(fused, BATCH)
    assert seen == expected


def test_below_the_lowest_adapter_nothing_is_kept_and_the_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("qwen3", layers_to_transform=[1], layers_pattern="layers", target_modules=["q_proj", "down_proj"])
    fused = FusedModel(model)
    assert fused.lowest == 1
    seen = levels_of(monkeypatch)
    backwards: list[bool] = []
    backward = Layer.backward
    monkeypatch.setattr(
        Layer, "backward", lambda *args, needs_input: backwards.append(needs_input) or backward(*args, needs_input=needs_input)
    )
    step(fused, BATCH)
    assert (seen, backwards) == ([KEEP_INPUT, KEEP_ALL], [False])
    found = gradients(model)
    forget(model)
    logits = model(**{key: value for key, value in BATCH.items() if key != "labels"}, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, BATCH["labels"][0, 1:], ignore_index=MASK, reduction="sum") / 20
    loss.backward()
    wanted = gradients(model)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-4)


def test_the_models_own_forward_gives_the_same_bits_before_and_after_a_step() -> None:
    model = small_model("qwen2")
    with torch.no_grad():
        before = model(input_ids=BATCH["input_ids"]).logits
        step(FusedModel(model), BATCH)
        assert torch.equal(model(input_ids=BATCH["input_ids"]).logits, before)


def test_autocast_around_a_pass_changes_nothing() -> None:
    fused = FusedModel(small_model("llama"))
    plain = step(fused, BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert step(fused, BATCH) == plain
