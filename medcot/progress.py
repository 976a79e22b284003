"""What a training run shows while it runs: a bar on a terminal, else a log line after every tenth of the steps; last, speed and memory.

Speed and memory belong to a machine and an hour, so they are shown and kept out of every file that DVC or Git sees.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from medcot.model import peak_memory

log = logging.getLogger("medcot")


class Progress(TrainerCallback):  # type: ignore[misc]
    """Report steps, loss, val loss, tokens per second and time left on stderr, in place of transformers' own bar and prints.

    A token is one of a row, prompt and response, padding not counted. The clock runs inside optimiser steps alone, so evaluation and
    checkpoints are not in the speed, and the first step, in which kernels are chosen and memory is found, is not either.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.shown = {"loss": "", "val": ""}
        self.seconds = self.tokens = 0.0
        self.counted = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first, self.begin, self.seen = state.global_step, self.clock(), 0.0
        self.every = max(1, state.max_steps // 10)
        shown = sys.stderr.isatty()
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=not shown)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer has read the loss to see whether it is finite, so the device has done the step's work.
        self.last_seconds = self.clock() - self.started

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        for name, key in (("loss", "loss"), ("val", "eval_loss")):
            if logs and key in logs:
                self.shown[name] = f"{name} {logs[key]:.4f}"
        if not logs or "loss" not in logs:
            return
        self._count(logs.get("num_tokens", 0.0), state.global_step)
        facts = [*filter(None, self.shown.values()), *([self.speed()] if self.seconds else [])]
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix_str(" ".join(facts))
        if self.bar.disable and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            left = (self.clock() - self.begin) / (state.global_step - self.first) * (state.max_steps - state.global_step)
            facts += [f"{tqdm.format_interval(left)} left"] if left else []
            log.info("train: step %d of %d, %s", state.global_step, state.max_steps, ", ".join(facts))

    def _count(self, total_tokens: float, step: int) -> None:
        tokens, self.seen = total_tokens - self.seen, total_tokens
        if step > self.first + 1:
            self.tokens, self.seconds, self.counted = self.tokens + tokens, self.seconds + self.last_seconds, self.counted + 1

    def speed(self) -> str:
        """Tokens per second since the second step of this process."""
        return f"{self.tokens / self.seconds:,.0f} tokens/s"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()
        facts = [*([f"{self.speed()} over {self.counted} steps"] if self.seconds else []), *peak_memory()]
        if facts:
            log.info("train: %s", ", ".join(facts))
