"""How the rows of an optimiser step are executed: in passes of at most a budget of tokens, and how large the budget may be.

A step keeps its rows. How they are grouped changes memory and speed, and the result by rounding alone, because every pass adds the sum
of its losses over the number of tokens of the whole step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medcot.errors import DataError

CPU_TOKENS = 8192  # of a pass on a CPU, where it is not memory that one runs out of
MAX_TOKENS = 16384  # larger passes are no faster: the products of matrices are large enough long before
MIN_TOKENS = 2048  # where fewer fit with their activations kept, recomputing them in larger passes is faster
PROBE_TOKENS = 1024  # of the smaller of two attempts; the larger has twice as many
STEP_DOWN = 0.85  # of the budget, after an attempt that did not fit
TOKENS_PER_PASS = "MEDCOT_TOKENS_PER_PASS"

# Runs rows forward and backward, keeping the activations or computing them again; the peak of memory in bytes, None where they do not fit.
Attempt = Callable[[Sequence[int], bool], int | None]


@dataclass(frozen=True, slots=True)
class Budget:
    """How a run executes its steps.

    tokens       most tokens of a pass; a longer row is a pass of its own
    keep_tokens  a pass of at most so many keeps its activations; a larger one computes them again in its backward pass
    """

    tokens: int
    keep_tokens: int

    def describe(self) -> str:
        """Say it in one clause."""
        kept = "activations kept" if self.keep_tokens >= self.tokens else "activations recomputed"
        return f"passes of up to {self.tokens:,} tokens, {kept}"


def plan_passes(lengths: Sequence[int], budget: int, *, padded: bool = False) -> list[list[int]]:
    """Group positions into few passes of about equal size, each of at most `budget` tokens; a longer row is a pass of its own.

    lengths  tokens of each row; every row is in exactly one pass, whole
    padded   whether a pass takes as many tokens as rows × the longest of them
    Returns the passes in the order of their first positions, which rise in each. Equal arguments give equal passes.
    """
    falling = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    passes = _by_length(falling, lengths, budget) if padded else _even(falling, lengths, budget)
    return sorted(sorted(one) for one in passes)


def _by_length(falling: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows of similar length share a pass, so that little of it is padding."""
    passes: list[list[int]] = []
    for i in falling:
        if not passes or (len(passes[-1]) + 1) * lengths[passes[-1][0]] > budget:
            passes.append([])
        passes[-1].append(i)
    return passes


def _even(falling: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The longest row left goes into the emptiest pass, of as few as do (Graham 1969, Bounds on multiprocessing timing anomalies)."""
    long = [[i] for i in falling if lengths[i] > budget]
    rest = falling[len(long) :]
    number = -(-sum(lengths[i] for i in rest) // max(1, budget))
    while True:
        passes: list[list[int]] = [[] for _ in range(number)]
        sizes = [0] * number
        for i in rest:
            emptiest = sizes.index(min(sizes))
            passes[emptiest].append(i)
            sizes[emptiest] += lengths[i]
        if max(sizes, default=0) <= budget:
            return long + [one for one in passes if one]
        number += 1


@dataclass(frozen=True, slots=True)
class Workload:
    """The rows of a run, as far as memory goes.

    lengths  tokens of each row
    rows     rows of an optimiser step
    padded   whether a pass takes as many tokens as rows × the longest of them
    """

    lengths: Sequence[int]
    rows: int
    padded: bool = False

    def size(self, positions: Sequence[int]) -> int:
        """Tokens that a pass over these rows takes, padding included."""
        chosen = [self.lengths[i] for i in positions]
        return len(chosen) * max(chosen, default=0) if self.padded else sum(chosen)

    def largest(self, budget: int) -> list[int]:
        """A pass as large as any that a step can make within the budget: the longest rows that fit together."""
        chosen: list[int] = []
        for i in sorted(range(len(self.lengths)), key=lambda i: (-self.lengths[i], i)):
            if len(chosen) < self.rows and self.size([*chosen, i]) <= budget:
                chosen.append(i)
        return chosen

    def smallest(self, tokens: int) -> list[int]:
        """A pass of at least so many tokens, of the shortest rows; of all rows where they have fewer."""
        chosen: list[int] = []
        for i in sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], i)):
            if self.size(chosen) >= tokens:
                break
            chosen.append(i)
        return chosen

    @property
    def longest(self) -> list[int]:
        """The position of the longest row."""
        return [max(range(len(self.lengths)), key=lambda i: self.lengths[i])]


def choose_budget(
    work: Workload, attempt: Attempt, limit: float, *, start: int | None = None, always_recompute: bool = False
) -> Budget | None:
    """Find the largest passes that fit, with their activations kept if MIN_TOKENS of them do, else computing them again.

    limit  bytes that an attempt may take, with what a step needs besides already subtracted
    start  tokens to begin with, where there is no memory to measure; None measures two attempts
    Returns None where the longest row does not fit by itself.
    """
    longest = work.size(work.longest)
    for keep in (False,) if always_recompute else (True, False):
        tokens = _largest_that_fits(work, attempt, keep, limit, start)
        enough = min(MIN_TOKENS, work.size(work.largest(MAX_TOKENS)), start or MIN_TOKENS) if keep else 1
        if tokens >= enough and (budget := _with_longest(work, attempt, tokens, longest, limit, keep=keep)):
            return budget
    return None


def fix_budget(work: Workload, attempt: Attempt, limit: float, tokens: int, *, always_recompute: bool = False) -> Budget | None:
    """Check a budget set by hand, with activations kept if they fit, else computed again; None where it does not fit."""
    longest = work.size(work.longest)
    for keep in (False,) if always_recompute else (True, False):
        if _fits(attempt(work.largest(tokens) or work.longest, keep), limit) and (
            budget := _with_longest(work, attempt, tokens, longest, limit, keep=keep)
        ):
            return budget
    return None


def _with_longest(work: Workload, attempt: Attempt, tokens: int, longest: int, limit: float, *, keep: bool) -> Budget | None:
    """The budget, if a row longer than it fits as a pass of its own."""
    if longest <= tokens:
        return Budget(tokens, tokens if keep else 0)
    if keep and _fits(attempt(work.longest, True), limit):
        return Budget(tokens, longest)
    return Budget(tokens, tokens if keep else 0) if _fits(attempt(work.longest, False), limit) else None


def _largest_that_fits(work: Workload, attempt: Attempt, keep: bool, limit: float, start: int | None) -> int:
    """Tokens of the largest pass that an attempt has shown to fit, 0 for none."""
    tokens = start or _extrapolate(work, attempt, keep, limit)
    while positions := work.largest(tokens):
        if _fits(attempt(positions, keep), limit):
            return tokens if tokens == start else work.size(positions)  # other rows could make a larger pass than was tried
        tokens = min(int(STEP_DOWN * tokens), work.size(positions) - 1)
    return 0


def _extrapolate(work: Workload, attempt: Attempt, keep: bool, limit: float) -> int:
    """Tokens that should fit, since memory is affine in them: from two attempts, after one in which libraries take what they keep."""
    most = min(MAX_TOKENS, work.size(work.largest(sum(work.lengths) * (len(work.lengths) if work.padded else 1))))
    small = work.smallest(PROBE_TOKENS)
    large = work.smallest(2 * work.size(small))
    sizes = work.size(small), work.size(large)
    if attempt(small, keep) is None or sizes[1] >= most:
        return min(most, sizes[0]) if sizes[1] < most else most
    low, high = attempt(small, keep), attempt(large, keep)
    if low is None or high is None:
        return sizes[0]
    slope = max(1.0, (high - low) / max(1, sizes[1] - sizes[0]))
    return max(sizes[0], min(most, sizes[1] + int((limit - high) / slope)))


def _fits(peak: int | None, limit: float) -> bool:
    return peak is not None and peak <= limit


def tokens_by_hand() -> int | None:
    """Tokens of a pass that MEDCOT_TOKENS_PER_PASS asks for, or None. Raises DataError when it is not a positive number."""
    value = os.environ.get(TOKENS_PER_PASS, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise DataError(f"environment: {TOKENS_PER_PASS}", "not a number of tokens", "set it to one such as 4096, or unset it", got=value)
    return int(value)
