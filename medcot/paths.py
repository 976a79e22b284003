"""The two ways to execute a pass, and which one a run takes.

plain  transformers and peft under autograd: any architecture, any kind of adapter, any device
fused  medcot/fused: forward and backward written out for the shapes of Qwen2, Qwen3 and Llama, on a GPU

Both add the gradients of sum(NLL) / tokens of the whole step, so a step is the same on either, up to rounding.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Protocol

import torch

from medcot.attention import packs, virtual_tokens
from medcot.errors import DataError, MachineError
from medcot.fused.model import FusedModel
from medcot.fused.support import why_not
from medcot.liger import apply_liger, why_no_liger
from medcot.lora_linear import LoraLinears
from medcot.model import Hardware
from medcot.train_params import TrainParams

TRAIN_PATH = "MEDCOT_TRAIN_PATH"
log = logging.getLogger("medcot")


class TrainPath(Protocol):
    """Executes passes, one after another, within a step.

    packed   whether it takes rows laid end to end, else padded ones; see medcot.train_rows.Collator
    in_part  whether a pass can recompute some of the layers, else all or none
    never_recompute  whether it must keep its activations
    """

    packed: bool
    in_part: bool
    never_recompute: bool

    def begin_step(self) -> None: ...

    def run_pass(self, batch: dict[str, Any], num_items: int, keep_tokens: int) -> torch.Tensor:
        """Add the gradients of the batch's sum of NLL / num_items and return that loss, 0-d on the device, without waiting for it.

        batch        what Collator makes, on the CPU
        num_items    supervised tokens of the whole step
        keep_tokens  a pass of more tokens computes activations again in its backward, as many as it takes
        """
        ...

    def end_step(self) -> None:
        """Leave the gradients of the passes in .grad of the parameters."""
        ...


class PlainPath:
    """The model as transformers runs it, with TRL's head, which never holds all logits at once; autograd does the backward pass."""

    in_part = False

    def __init__(self, trainer: Any, params: TrainParams) -> None:
        self.trainer, self.keeps = trainer, True
        # NEFTune scales its noise by the length of what is embedded at once, which must stay that of the rows.
        self.packed = packs(trainer.model) and not params.neftune_noise_alpha
        # transformers drops the cache in recomputed layers, and a prefix lies in the cache.
        self.never_recompute = bool(virtual_tokens(trainer.model))
        self.linears = LoraLinears(trainer.model)

    def begin_step(self) -> None:
        self.linears.begin_step()

    def run_pass(self, batch: dict[str, Any], num_items: int, keep_tokens: int) -> torch.Tensor:
        self._recompute(batch["input_ids"].numel() > keep_tokens and not self.never_recompute)
        with self.trainer.accelerator.autocast():
            loss = self._loss({key: _moved(value, self.trainer.args.device) for key, value in batch.items()}, num_items)
        self.trainer.accelerator.backward(loss)
        return torch.as_tensor(loss.detach())

    def end_step(self) -> None:
        self.linears.end_step()

    def _loss(self, batch: dict[str, Any], num_items: int) -> torch.Tensor:
        model, trainer = self.trainer.model, self.trainer
        if trainer.label_smoother is not None:
            outputs = model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False)
            smoothed: torch.Tensor = trainer.label_smoother(outputs, batch["labels"], shift_labels=True, num_items_in_batch=num_items)
            return smoothed
        outputs = model(**batch, fused_lm_head=True)
        loss: torch.Tensor = -outputs.log_probs.sum() / num_items
        if trainer.aux_loss_enabled:  # of a mixture of experts: a mean over the pass, so weighted by its share of the step
            loss = loss + trainer.router_aux_loss_coef * outputs.aux_loss * (outputs.label_mask.sum() / num_items)
        return loss

    def _recompute(self, wanted: bool) -> None:
        if wanted == self.keeps:
            model = self.trainer.model
            model.gradient_checkpointing_enable({"use_reentrant": False}) if wanted else model.gradient_checkpointing_disable()
            self.keeps = not wanted


class FusedPath:
    """The model's layers with their backward passes written out (medcot/fused/README.md)."""

    packed = in_part = True
    never_recompute = False

    def __init__(self, model: Any) -> None:
        self.engine = FusedModel(model)

    def begin_step(self) -> None:
        self.engine.refresh()

    def run_pass(self, batch: dict[str, Any], num_items: int, keep_tokens: int) -> torch.Tensor:
        self.engine.no_recompute_tokens = keep_tokens
        loss: torch.Tensor = self.engine.run_pass(batch, num_items)
        return loss

    def end_step(self) -> None:
        self.engine.finish()


def _moved(value: Any, device: torch.device) -> Any:
    """Copy a tensor to the device without waiting for the passes before."""
    if not isinstance(value, torch.Tensor) or device.type == "cpu":
        return value
    return value.pin_memory().to(device, non_blocking=True)


def name_path(model: Any, params: TrainParams, hardware: Hardware) -> tuple[str, str]:
    """The name of the path, plain, plain+liger or fused, and one clause that says why.

    Raises DataError when MEDCOT_TRAIN_PATH names no path, MachineError when it asks for the fused one and the model cannot take it.
    """
    wanted = os.environ.get(TRAIN_PATH) or "auto"
    if wanted not in ("auto", "plain", "fused"):
        raise DataError(f"environment: {TRAIN_PATH}", "not a path", "set it to auto, plain or fused", got=wanted)
    on_gpu = hardware.device == "cuda"
    if wanted == "plain":
        hindrance = f"{TRAIN_PATH}=plain"
    elif wanted == "auto" and not on_gpu:
        hindrance = hardware.reason
    else:
        hindrance = why_not(model, params) or ""
    if wanted == "fused" and hindrance:
        raise MachineError(f"environment: {TRAIN_PATH}", f"the fused path cannot train this: {hindrance}", "set it to auto", got=wanted)
    if not hindrance:
        return "fused", f"{TRAIN_PATH}=fused" if wanted == "fused" else hardware.reason
    no_liger = why_no_liger(model) if on_gpu else None
    return ("plain+liger" if on_gpu and not no_liger else "plain"), "; ".join(filter(None, (hindrance, no_liger)))


def choose_path(trainer: Any, params: TrainParams, hardware: Hardware) -> TrainPath:
    """Make the path of a run and say which in one line; see name_path for what it raises."""
    name, reason = name_path(trainer.model, params, hardware)
    log.info("train: %s path: %s", name, reason)
    if name == "fused":
        return FusedPath(trainer.model)
    if name == "plain+liger":
        apply_liger(trainer.model)
    return PlainPath(trainer, params)
