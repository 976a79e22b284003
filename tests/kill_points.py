"""SIGKILL at a chosen place of a training run: no cleanup runs, as in a power cut. A process of its own dies, forked from this one.

A fork starts with the libraries already imported, which is where most of the time of so small a run would go.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import CallbackHandler

from medcot import checkpoints, resuming
from medcot.stage import run_stage
from medcot.trainer import CotTrainer, trainable
from stages import train


def die() -> None:
    """End this process as nothing can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def fork_train(prepare: Callable[[], None] = lambda: None) -> int:
    """Run stage train in a forked child, after `prepare` in it; its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        gc.freeze()  # what the libraries hold: accelerate collects garbage at the start of each run
        prepare()
        code = run_stage("train", train.main)
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def after_event(event: str, step: int, act: Callable[[], None] = die) -> None:
    """Act once the callbacks of an event, such as on_step_end, have run at a step."""
    original = CallbackHandler.call_event

    def call_event(self: Any, name: str, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        result = original(self, name, args, state, control, **kwargs)
        if name == event and state.global_step == step:
            act()
        return result

    CallbackHandler.call_event = call_event  # a child's own copy


def in_file(count: int) -> None:
    """Die in the middle of the file that torch writes as the count-th: of a checkpoint settings, optimiser, schedule and random numbers."""
    original, seen = torch.save, [0]

    def save(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        original(value, path, *args, **kwargs)
        seen[0] += 1
        if seen[0] == count:
            os.truncate(path, Path(path).stat().st_size // 2)
            die()

    torch.save = save


def before_call(module: Any, name: str, count: int) -> None:
    """Die at the count-th call of a module's function, before it does anything."""
    original, seen = getattr(module, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] == count:
            die()
        return original(*args, **kwargs)

    setattr(module, name, call)


def while_removing(count: int) -> None:
    """Die when the count-th old checkpoint is half removed: one of its files is gone, the directory stands."""
    original, seen = checkpoints.shutil.rmtree, [0]

    def rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
        seen[0] += "checkpoint-" in str(path)
        if seen[0] == count:
            next(file for file in sorted(Path(path).iterdir()) if file.is_file()).unlink()
            die()
        original(path, *args, **kwargs)

    checkpoints.shutil.rmtree = rmtree  # type: ignore[assignment]


def plant(row: int, what: str) -> None:
    """Let the loss of a training row be nan or inf, or its gradient infinite, whichever path runs it."""
    original = CotTrainer.run_rows

    def run_rows(self: Any, rows: Any, num_items: int) -> Any:
        loss = original(self, rows, num_items)
        if self.rows[row] in rows and self.is_in_train:
            if what != "gradient":
                return loss * float(what)
            next(p for _, p in trainable(self.model)).grad.view(-1)[0] = float("inf")
        return loss

    CotTrainer.run_rows = run_rows  # type: ignore[method-assign]


def install(place: str) -> None:
    """Arrange for a death at a place.

    step:K after step K, file:N within the N-th file that torch writes (four a checkpoint), marker:N before the N-th checkpoint is
    marked, remove:N within the removal of the N-th old one, end:K when the last step K is done and kept, adapter:1 when the adapter is
    all but written. nan:K is no death: the loss of the training row at place K is not a number.
    """
    name, number = place.split(":")
    {
        "step": lambda count: after_event("on_step_end", count),
        "file": in_file,
        "marker": lambda count: before_call(resuming, "mark_complete", count),
        "remove": while_removing,
        "end": lambda count: after_event("on_train_end", count),
        "adapter": lambda count: before_call(train, "write_settings", count),
        "nan": lambda row: plant(row, "nan"),
    }[name](int(number))


if __name__ == "__main__":  # python tests/kill_points.py [place]: stage train in the working directory, in a process that nothing shares
    if len(sys.argv) > 1:
        install(sys.argv[1])
    raise SystemExit(run_stage("train", train.main))
