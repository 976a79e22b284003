"""SIGTERM, as a scheduler sends it before it takes a machine away: finish the step, write a checkpoint, end.

Ctrl-C ends at once, as a second SIGTERM does; then the last checkpoint that was written is the one to go on from.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from medcot.distributed import world
from medcot.stage import Terminated

log = logging.getLogger("medcot")


class SaveWhenTerminated(TrainerCallback):  # type: ignore[misc]
    """Write a checkpoint after the step in which SIGTERM came, then end; outside a step end at once."""

    def __init__(self) -> None:
        self.in_step = self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM inside this block; not in one of several processes, which must not wait for each other then, nor in a thread."""
        if world().size > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.asked or not self.in_step:
            raise Terminated
        self.asked = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.in_step = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.in_step = False
        if self.asked:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked:
            log.info("train: SIGTERM: checkpoint-%d is written", state.global_step)
            raise Terminated
