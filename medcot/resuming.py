"""How the trainer saves and resumes: checkpoints that are whole or absent, and one line for each way in which it can fail."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer_utils import align_special_tokens

from medcot.checkpoints import STATE, checkpoint_steps, mark_complete, remove, remove_older
from medcot.distributed import from_main, world
from medcot.errors import DataError, MachineError
from medcot.preflight import is_out_of_memory


class Resumable:
    """A mixin before transformers' Trainer: marks, removes and reads checkpoints as medcot/checkpoints.py has it."""

    args: Any
    state: Any
    model: Any
    processing_class: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        directory = Path(self.args.output_dir)
        checkpoint = directory / f"checkpoint-{self.state.global_step}"
        if world().is_main:
            with _writing(checkpoint):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                mark_complete(checkpoint)
            best = self.state.best_model_checkpoint
            remove_older(directory, Path(best) if best else None)
        # transformers notes the best one while it saves; every process must end with it.
        self.state.best_model_checkpoint = from_main(lambda: self.state.best_model_checkpoint)

    def resume(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint, or from the beginning; where the checkpoint is of the end, only load what was trained."""
        if checkpoint and self._is_end(checkpoint):
            self._load_from_checkpoint(str(checkpoint))
            self.state = TrainerState.load_from_json(str(checkpoint / STATE))
            align_special_tokens(self.model, self.processing_class)  # train() does so first, and a full fine-tune saves them
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
                self._load_best_model()  # type: ignore[attr-defined]
        else:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)  # type: ignore[attr-defined]

    def _is_end(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is of the last step: transformers would resume it with one step more."""
        with _reading(str(checkpoint)):
            state = TrainerState.load_from_json(str(checkpoint / STATE))
            stopped = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
            return bool(stopped or state.global_step >= state.max_steps)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        with _reading(checkpoint):
            super()._load_from_checkpoint(checkpoint, model)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_scaler(checkpoint)  # type: ignore[misc]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]


@contextmanager
def _writing(checkpoint: Path) -> Iterator[None]:
    """Remove a checkpoint that could not be written, and say which one is left. Raises MachineError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error) and "Parent directory" not in str(error):
            raise  # not of torch's writer of files
        remove(checkpoint)
        left = list(checkpoint_steps(checkpoint.parent).values())
        remedy = f"free space there, then run the same command again: it goes on from {left[-1].name if left else 'the beginning'}"
        raise MachineError(str(checkpoint), "the checkpoint could not be written", remedy, got=str(error)) from None


@contextmanager
def _reading(checkpoint: str | None) -> Iterator[None]:
    """Give a checkpoint that is not of this model its line: its hashes agree, so it was put there. Raises DataError."""
    try:
        yield
    except (pickle.UnpicklingError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise DataError(str(checkpoint), "the checkpoint does not fit this run", "remove it, then run again", got=str(error)) from None
