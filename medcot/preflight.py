"""Checks before the first step: rows that can be learnt from, on a model that can learn, in memory that suffices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from medcot.attention import virtual_tokens
from medcot.errors import DataError, MachineError
from medcot.passes import CPU_TOKENS, STEP_DOWN, TOKENS_PER_PASS, Budget, Search, Workload, choose_budget, fix_budget, tokens_by_hand
from medcot.template import MASK

# State of an element, and what an update needs on top: two moments of 4 bytes, or of 1, and temporary copies of all elements.
OPTIMIZER_BYTES = {"adamw_torch": 16, "adamw_8bit": 4, "paged_adamw_8bit": 4, "paged_adamw_32bit": 12, "adafactor": 8, "sgd": 4}


class Tokens(Protocol):
    """A tokenised row with labels; MASK is on what is not learnt."""

    @property
    def id(self) -> str: ...
    @property
    def input_ids(self) -> list[int]: ...
    @property
    def labels(self) -> list[int]: ...


def check_rows(rows: Sequence[Tokens], model: Any) -> None:
    """Refuse a run that could learn nothing, or nothing right.

    No rows, a row with every label masked, no trainable parameter, a row longer than the model's context, or an id outside its vocabulary.
    Raises DataError.
    """
    if not rows:
        raise DataError("data/llamafactory/train.json", "no training rows", "look at metrics/convert.json for where they went")
    # The first label is never predicted: nothing stands before it.
    if empty := [row.id for row in rows if all(label == MASK for label in row.labels[1:])]:
        raise DataError("train", f"{len(empty)} rows have every label masked", "run `dvc repro -f convert`", got=empty[0])
    if not any(p.requires_grad for p in model.parameters()):
        raise DataError("params.yaml: train", "no parameter would be trained", "see train.lora_target")
    longest = max(rows, key=lambda row: len(row.input_ids))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    prefix = virtual_tokens(model)
    if context and prefix and context - prefix < 2:  # a row of one token teaches nothing
        cause = f"the prefix leaves no room in the model's context of {context} tokens"
        raise DataError("params.yaml: train.num_virtual_tokens", cause, "lower it", got=prefix)
    context = context and context - prefix
    if context and len(longest.input_ids) > context:
        cause = f"row {longest.id} is longer than the model's context of {context} tokens"
        raise DataError("params.yaml: model.cutoff_len", cause, f"set it to {context} at most", got=len(longest.input_ids))
    largest, size = max(max(row.input_ids) for row in rows), model.get_input_embeddings().weight.shape[0]
    if largest >= size:
        raise DataError(
            "models/base/tokenizer", f"an id outside the model's {size} embeddings", "use the model's own tokenizer", got=largest
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU (where torch raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def kept_bytes(num_trainable: int, optim: str) -> int:
    """Bytes that a step holds besides its passes, and that the first attempt does not show: float32 gradients and the optimiser's state."""
    return num_trainable * (4 + OPTIMIZER_BYTES[optim])


def settle_budget(search: Search, *, on_gpu: bool) -> Budget:
    """Choose how a run executes its steps, by attempts on its own rows; MEDCOT_TOKENS_PER_PASS goes before.

    Raises MachineError when the longest row does not fit, or what was set by hand does not.
    """
    by_hand = tokens_by_hand()
    if by_hand and (fixed := fix_budget(search, by_hand)):
        return fixed
    budget = choose_budget(search, start=None if on_gpu else CPU_TOKENS)
    if budget is None:
        raise _too_long(search.work)
    if by_hand:
        remedy = f"set it to {budget.tokens}, which fits, or unset it"
        raise MachineError(f"environment: {TOKENS_PER_PASS}", "out of memory in passes of so many tokens", remedy, got=by_hand)
    return budget


def _too_long(work: Workload) -> MachineError:
    cause = f"out of memory on a single row of {work.size(work.longest)} tokens"
    return MachineError("train", cause, "lower model.cutoff_len, or free the GPU")


def out_of_memory(place: str, search: Search, tokens: int, kept: Path | None) -> MachineError:
    """The error of a step that ran out of memory, naming the tokens per pass that its rows fit in, found by attempts on them.

    tokens  the budget that did not do; kept  the last checkpoint
    """
    work = search.work
    largest = work.size(work.largest(tokens) or work.longest)
    budget = choose_budget(search, start=max(1, int(STEP_DOWN * largest)))
    if budget is None:
        return _too_long(work)
    remedy = f"set {TOKENS_PER_PASS}={budget.tokens}, which fits these rows and changes no result, and run again"
    return MachineError(
        place, f"out of memory in passes of up to {largest:,} tokens", remedy + (f": it resumes from {kept}" if kept else "")
    )
