"""The GPU memory of this process: how much it may take, how much it took at once, and how to give back what a failed attempt holds.

Without a GPU there is nothing to measure: no limit, no peak.
"""

from __future__ import annotations

import gc
import os

import torch

from medcot.errors import DataError

GPU_MEMORY = "MEDCOT_GPU_MEMORY_GIB"
GIB = 2**30
MARGIN = 0.03  # of the memory, for what the allocator cannot use: gaps, and blocks larger than what is in them


def cap_memory() -> None:
    """Let this process take no more of the GPU than MEDCOT_GPU_MEMORY_GIB says, as if the card were smaller.

    Raises DataError when that is not a positive number.
    """
    value = os.environ.get(GPU_MEMORY, "")
    if not value:
        return
    try:
        size = float(value) * GIB
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise DataError(f"environment: {GPU_MEMORY}", "not a size in GiB", "set it to one such as 22.5, or unset it", got=value)
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))


def memory_limit(reserve: int = 0) -> float:
    """Bytes that this process may have in use at once, with a margin and `reserve` bytes subtracted; infinite without a GPU."""
    if not torch.cuda.is_available():
        return float("inf")
    available = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    if value := os.environ.get(GPU_MEMORY):
        available = min(available, int(float(value) * GIB))
    return available * (1 - MARGIN) - reserve


def reset_peak_memory() -> None:
    """Begin to measure anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most bytes in use at once since the measuring began; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def free_memory(*, failed: bool) -> None:
    """Give back what is no longer used, so that one attempt does not take from the next."""
    if failed:
        gc.collect()  # the frames of a failed attempt refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
