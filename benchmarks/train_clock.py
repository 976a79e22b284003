"""How a child of benchmarks/train.py measures: its rows, the clock around optimiser steps, the cap and the peaks of GPU memory."""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.random_model import lengths
from benchmarks.train_setup import GIB, TINY, Job, timed

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "trl", "datasets", "liger-kernel", "unsloth", "unsloth_zoo")


def on_gpu() -> bool:
    return torch.cuda.is_available()


def versions() -> dict[str, str]:
    """Those of the libraries that this process finds."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def random_rows(job: Job, count: int, vocabulary: int, *, longest_first: bool = False) -> list[list[int]]:
    """Token ids of so many rows of realistic lengths, a sixteenth of them in the tiny mode; no id is that of a control token.

    longest_first  make the first row as long as a row can be, so that what runs out of memory does so in the first step
    """
    sizes = [max(8, length // TINY) if job.tiny else length for length in lengths(count)]
    if longest_first:
        sizes[0] = job.longest
    random = np.random.default_rng(0)
    return [random.integers(10, min(vocabulary, 150_000) - 10, size).tolist() for size in sizes]


def load_tokenizer(directory: Path) -> Any:
    """A small tokenizer whose ids lie in every vocabulary: trainers want one, the rows are ids already."""
    sys.path.append(str(ROOT / "tests"))
    from factories import write_qwen3_tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_qwen3_tokenizer(directory))


class Clock(TrainerCallback):  # type: ignore[misc]
    """The time at the start and after every optimiser step, taken when the device has done its work."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.logged: list[int] = []

    def _mark(self) -> None:
        if on_gpu():
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "num_tokens" in logs:
            self.logged.append(int(logs["num_tokens"]))  # since the beginning


class Counted:
    """A collator that notes the real tokens, and all positions, of every batch it makes."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.tokens: list[int] = []
        self.positions: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collator, name)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Any:
        batch = self.collator(rows)
        self.tokens.append(sum(len(row["input_ids"]) for row in rows))
        self.positions.append(batch["input_ids"].numel())
        return batch


def cap_memory(gib: float | None) -> None:
    """Let this process have no more GPU memory than a smaller card has; a card that is smaller itself is left as it is."""
    if on_gpu():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total) if gib else 1.0)


def fresh_peaks() -> None:
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, float]:
    """Most GPU memory in use and reserved since fresh_peaks, GiB."""
    if not on_gpu():
        return {"allocated_gib": 0.0, "reserved_gib": 0.0}
    return {"allocated_gib": torch.cuda.max_memory_allocated() / GIB, "reserved_gib": torch.cuda.max_memory_reserved() / GIB}


def measure(job: Job, attempt: Callable[[int], dict[str, Any]]) -> None:
    """Attempt each micro-batch of the job, the largest first, and write the line of the first that fits."""
    job.wait_for_turn()
    cap_memory(job.cap_gib)
    for batch in job.batches:
        fresh_peaks()
        try:
            fields = attempt(batch)
        except torch.OutOfMemoryError:
            print(f"{job.contender}: a micro-batch of {batch} does not fit", flush=True)
            continue
        job.write(batch=batch, versions=versions(), **fields)
        return
    raise SystemExit(f"out of memory at every micro-batch of {job.batches}")


def figures(job: Job, clock: Clock, counted: Counted) -> dict[str, Any]:
    """The timed steps of a trainer that makes a step of every batch."""
    tokens, seconds = timed(counted.tokens, clock.marks, job.warm_up)
    steps = len(clock.marks) - 1
    assert len(counted.tokens) <= steps + 2, "a batch is a step: nothing is accumulated, and the loader is two batches ahead at most"
    return {"tokens": tokens, "seconds": seconds, "filled": sum(counted.tokens[:steps]) / sum(counted.positions[:steps]), **peaks()}
