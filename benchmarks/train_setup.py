"""What the processes of benchmarks/train.py agree on: settings, what a child is to run, and the line that comes back.

Imports neither torch nor transformers: unsloth wants to be imported before them, and the table is made without them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

GIB = 2**30
RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LEARNING_RATE = 1e-4
ROWS_PER_STEP = 48
MEAN_TOKENS, LONGEST = 700, 2048
WARM_UP_TOKENS = 24_000
READY = "imported, waiting for its turn"
TINY = 16  # how many times shorter rows are in the tiny mode


@dataclass(frozen=True, slots=True)
class Setting:
    """A shape of benchmarks/random_model.py on a card of so many GiB; a larger card is capped to that."""

    shape: str
    title: str
    card: str
    cap_gib: float


SETTINGS = {"7b": Setting("7b", "7B", "24 GB", 22.5), "1.7b": Setting("1.7b", "1.7B", "16 GB", 14.8)}


@dataclass(slots=True)
class Job:
    """What one child process is to run."""

    contender: str
    setting: str
    shape: str
    cap_gib: float | None
    result: str
    """File that the child appends its line to."""
    tokens: int = 0
    """Real tokens to time, about: whole optimiser steps are timed."""
    batches: list[int] = field(default_factory=list)
    """Rows (or packs) of a micro-batch to try, falling: the first that fits is timed."""
    options: dict[str, Any] = field(default_factory=dict)
    tiny: bool = False
    warm_up: int = 2
    """Optimiser steps before the clock counts, at least."""
    repeat: int = 0
    waits: bool = False
    """Import the libraries, then wait for a line on standard input before the GPU is touched."""

    @property
    def longest(self) -> int:
        return LONGEST // TINY if self.tiny else LONGEST

    @property
    def mean(self) -> int:
        return MEAN_TOKENS // TINY if self.tiny else MEAN_TOKENS

    def schedule(self, tokens_per_step: int) -> int:
        """Optimiser steps to run; small ones warm up longer. Sets warm_up."""
        self.warm_up = max(self.warm_up, -(-(WARM_UP_TOKENS // (TINY**2 if self.tiny else 1)) // tokens_per_step))
        return self.warm_up + max(3, -(-self.tokens // tokens_per_step))

    def wait_for_turn(self) -> None:
        """Say that the libraries are imported, and touch the GPU only when told to."""
        print(READY, flush=True)
        if self.waits and not sys.stdin.readline():
            raise SystemExit("the benchmark has ended")

    def write(self, **fields: Any) -> None:
        """Append what was measured to the result file."""
        line = {"contender": self.contender, "setting": self.setting, "cap_gib": self.cap_gib, "repeat": self.repeat, **fields}
        with Path(self.result).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def dump(self) -> str:
        return json.dumps(asdict(self))


def read_job(text: str) -> Job:
    return Job(**json.loads(text))


def timed(tokens: Sequence[int], marks: Sequence[float], warm_up: int) -> tuple[list[int], list[float]]:
    """Tokens and seconds of each step after the warm-up; marks are the times at the start and after every step.

    Raises ValueError when no step is left to time.
    """
    seconds = [after - before for before, after in pairwise(marks)]
    if len(seconds) <= warm_up:
        raise ValueError(f"{len(seconds)} steps, of which {warm_up} warm up: none to time")
    return list(tokens[warm_up : len(seconds)]), seconds[warm_up:]
