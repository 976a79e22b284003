"""Numbers that are not finite: weights are looked at before they are kept, and the first wrong one is told from what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from medcot.errors import DataError, TrainingError


def first_not_finite(tensors: Iterable[tuple[str, Any]]) -> str | None:
    """The name of the first tensor of floats with a NaN or an infinity in it, or None; one wait for the device."""
    named = [(name, value) for name, value in tensors if torch.is_tensor(value) and value.is_floating_point()]
    if not named:
        return None
    device = named[0][1].device
    flags = torch.stack([torch.isfinite(value).all().to(device) for _, value in named]).tolist()
    return next((name for (name, _), finite in zip(named, flags, strict=True) if not finite), None)


def frozen(model: Any) -> Iterator[tuple[str, Any]]:
    """What training leaves alone: frozen parameters, buffers, and the scales of 4-bit weights."""
    for name, p in model.named_parameters():
        if not p.requires_grad:
            state = getattr(p, "quant_state", None)
            yield name, p
            if state is not None:
                # A NaN in a weight is one in the scale of its block, and with double quantisation in the mean of the scales.
                scales = (state.absmax, state.offset, getattr(state.state2, "absmax", None))
                yield from ((name, scale) for scale in scales)
    yield from model.named_buffers()


def trained(model: Any, optimizer: Any = None) -> Iterator[tuple[str, Any]]:
    """What training moves: the parameters, and the optimiser's moments of them."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            yield name, p
            moments = optimizer.state.get(p, {}) if optimizer is not None else {}
            yield from ((f"{key} of {name}", value) for key, value in moments.items())


def blame(model: Any, step: int, records: Sequence[str]) -> None:
    """Raise for what was wrong before this step's rows were seen; return where the rows, or the step itself, are to blame.

    step, records   the step that gave a number that is not finite, from 1, and the records of the step before it
    Raises DataError where the base's own weights are not finite, TrainingError where the update of the step before broke the trained ones.
    """
    if name := first_not_finite(frozen(model)):
        remedy = "get the model again, then `dvc repro -f base`"
        raise DataError("models/base/model", "weights of the base are not finite", remedy, got=name)
    if name := first_not_finite(trained(model)):
        raise _broken_update(step - 1, records, name)


def _broken_update(step: int, records: Sequence[str], name: str) -> TrainingError:
    place = f"train: step {step}" + (f", records {', '.join(records)}" if records else "")
    return TrainingError(place, "the optimiser's update is not finite", "lower train.learning_rate, or raise train.adam_epsilon", got=name)


class CheckWeights(TrainerCallback):  # type: ignore[misc]
    """Stop before weights that are not finite are measured, saved or handed over: the loss would show them only a step later."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        kept = control.should_save or control.should_evaluate or state.global_step >= state.max_steps
        if kept and (name := first_not_finite(trained(model, optimizer))):
            raise _broken_update(state.global_step, (), name)
