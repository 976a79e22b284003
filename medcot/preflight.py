"""Checks before the first step: rows that can be learnt from, on a model that can learn, in memory that suffices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from medcot.errors import DataError, MachineError
from medcot.template import MASK


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


def find_batch_that_fits(longest: Sequence[int], batch_size: int, rows_per_step: int, attempt: Callable[[Sequence[int]], None]) -> None:
    """Attempt a forward and backward pass over the longest rows.

    longest   token counts, falling; attempt takes positions in it and raises an out-of-memory where they do not fit
    Raises MachineError on an out-of-memory, naming the largest batch size that fits and divides rows_per_step.
    """
    sizes = [size for size in range(batch_size, 0, -1) if rows_per_step % size == 0]
    for size in sizes:
        try:
            attempt(range(min(size, len(longest))))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            continue
        if size == batch_size:
            return
        cause = f"out of memory on the longest {batch_size} rows (up to {longest[0]} tokens)"
        steps = rows_per_step // size
        remedy = f"set train.per_device_train_batch_size: {size} and train.gradient_accumulation_steps: {steps}"
        raise MachineError("train", cause, f"{remedy}: that fits, with the same rows in a step")
    remedy = "set train.gradient_checkpointing: true, or lower model.cutoff_len"
    raise MachineError("train", f"out of memory on a single row of {longest[0]} tokens", remedy)
