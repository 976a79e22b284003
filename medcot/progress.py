"""What a training run shows while it runs: a bar with the loss on a terminal, else a log line after every tenth of the steps."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

log = logging.getLogger("medcot")


class Progress(TrainerCallback):  # type: ignore[misc]
    """Report steps, loss and val loss on stderr; stands in for transformers' own bar and its prints on stdout."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.shown = {"loss": "", "val": ""}
        self.every = max(1, state.max_steps // 10)
        shown = sys.stderr.isatty()
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=not shown)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        for name, key in (("loss", "loss"), ("val", "eval_loss")):
            if logs and key in logs:
                self.shown[name] = f"{name} {logs[key]:.4f}"
        if not logs or "loss" not in logs:
            return
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix_str(" ".join(filter(None, self.shown.values())))
        if self.bar.disable and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            log.info("train: step %d of %d, %s", state.global_step, state.max_steps, ", ".join(filter(None, self.shown.values())))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()
