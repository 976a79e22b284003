"""How the rows of an optimiser step are executed: in passes of at most a budget of tokens, and how large the budget may be.

A step keeps its rows. How they are grouped changes memory and speed, and the result by rounding alone, because every pass adds the sum
of its losses over the number of tokens of the whole step.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medcot.errors import DataError

CPU_TOKENS = 8192  # of a pass on a CPU, where it is not memory that one runs out of
MAX_TOKENS = 16384  # larger passes are no faster: the products of matrices are large enough long before
MIN_TOKENS = 2048  # where fewer fit with all activations kept, passes of so many that recompute some are faster
PROBE_TOKENS = 1024  # of the smaller of two attempts; the larger has twice as many
STEP_DOWN = 0.85  # of the budget, after an attempt that did not fit
TOKENS_PER_PASS = "MEDCOT_TOKENS_PER_PASS"

KEEP_ALL = sys.maxsize  # tokens of a pass up to which activations are kept


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pass took: bytes of memory at its peak, seconds (0 where they were not measured)."""

    peak: int
    seconds: float = 0.0


# Runs the rows at these positions forward and backward in one pass, keeping its activations if it has at most so many tokens; None where
# they do not fit.
Attempt = Callable[[Sequence[int], int], Cost | None]


@dataclass(frozen=True, slots=True)
class Budget:
    """How a run executes its steps.

    tokens       most tokens of a pass; a longer row is a pass of its own
    keep_tokens  a pass of at most so many keeps its activations; a larger one computes them again in its backward pass, all or in part
    """

    tokens: int
    keep_tokens: int

    def describe(self) -> str:
        """Say it in one clause."""
        kept = "kept" if self.keep_tokens >= self.tokens else "recomputed in part" if self.keep_tokens else "recomputed"
        return f"passes of up to {self.tokens:,} tokens, activations {kept}"


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
            if self.size([*chosen, i]) <= budget:
                chosen.append(i)
            if len(chosen) == self.rows:
                break
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


@dataclass(frozen=True, slots=True)
class Search:
    """What a search for a budget goes by.

    attempt           see Attempt
    limit             bytes that an attempt may take, with what a step needs besides already subtracted
    always_recompute  keep no activations, whether they fit or not
    in_part           whether a pass can recompute as many layers as it needs to fit, and not only all of them
    never_recompute   whether activations must be kept
    """

    work: Workload
    attempt: Attempt
    limit: float
    always_recompute: bool = False
    in_part: bool = False
    never_recompute: bool = False

    def fits(self, positions: Sequence[int], keep_tokens: int) -> bool:
        """Whether an attempt succeeds within the limit."""
        cost = self.attempt(positions, keep_tokens)
        return cost is not None and cost.peak <= self.limit

    def largest_that_fits(self, keep_tokens: int, start: int | None = None) -> tuple[int, float]:
        """Tokens of the largest pass that an attempt has shown to fit, 0 for none, and its seconds a token.

        start  tokens to begin with, else what two attempts say
        """
        tokens = start or _extrapolate(self, keep_tokens)
        while positions := self.work.largest(tokens):
            size, cost = self.work.size(positions), self.attempt(positions, keep_tokens)
            if cost is not None and cost.peak <= self.limit:
                return tokens if tokens == start else size, cost.seconds / size  # other rows could make a larger pass than was tried
            tokens = min(int(STEP_DOWN * tokens), size - 1)
        return 0, 0.0

    def with_longest(self, tokens: int, keep_tokens: int) -> Budget | None:
        """The budget, if a row that is longer than it fits as a pass of its own."""
        if self.work.size(self.work.longest) <= tokens:
            return Budget(tokens, keep_tokens)
        if keep_tokens and self.fits(self.work.longest, KEEP_ALL):
            return Budget(tokens, self.work.size(self.work.longest))
        return Budget(tokens, keep_tokens) if self.fits(self.work.longest, keep_tokens) else None


def choose_budget(search: Search, start: int | None = None) -> Budget | None:
    """Find the largest passes that fit with their activations kept, or larger ones that compute them again where those are faster.

    Where few tokens fit, a pass is over before the processor has prepared the next; then recomputing costs less than it saves.
    start  tokens to begin with, where there is no memory to measure; None measures two attempts
    Returns None where the longest row does not fit by itself.
    """
    kept, kept_seconds = (0, 0.0) if search.always_recompute else search.largest_that_fits(KEEP_ALL, start)
    most = search.work.size(search.work.largest(MAX_TOKENS))
    if kept and search.in_part and kept < min(MIN_TOKENS, most):
        some = search.fits(search.work.largest(MIN_TOKENS) or search.work.longest, kept)
        if some and (budget := search.with_longest(MIN_TOKENS, kept)):
            return budget
    budget = search.with_longest(kept, kept) if kept else None
    if search.never_recompute or (budget and (search.in_part or start or kept >= most)):
        return budget
    tokens, seconds = search.largest_that_fits(0, start)
    if budget and (not tokens or kept_seconds <= seconds):
        return budget
    return search.with_longest(tokens, 0) if tokens else None


def fix_budget(search: Search, tokens: int) -> Budget | None:
    """Check a budget set by hand, with activations kept if they fit, else computed again; None where it does not fit."""
    positions = search.work.largest(tokens) or search.work.longest
    for keep_tokens in (0,) if search.always_recompute else (tokens, 0):
        if search.fits(positions, keep_tokens) and (budget := search.with_longest(tokens, keep_tokens)):
            return budget
    return None


def _extrapolate(search: Search, keep_tokens: int) -> int:
    """Tokens that should fit, since memory is affine in them: from two attempts, after one in which libraries take what they keep."""
    work = search.work
    most = min(MAX_TOKENS, work.size(work.largest(sys.maxsize)))  # more than this no step needs
    small = work.smallest(PROBE_TOKENS)
    large = work.smallest(2 * work.size(small))
    below, above = work.size(small), work.size(large)
    if above >= most:
        return most
    if search.attempt(small, keep_tokens) is None:
        return below
    low, high = search.attempt(small, keep_tokens), search.attempt(large, keep_tokens)
    if low is None or high is None:
        return below
    slope = max(1.0, (high.peak - low.peak) / (above - below))
    return max(below, min(most, above + int((search.limit - high.peak) / slope)))


def tokens_by_hand() -> int | None:
    """Tokens of a pass that MEDCOT_TOKENS_PER_PASS asks for, or None. Raises DataError when it is not a positive number."""
    value = os.environ.get(TOKENS_PER_PASS, "")
    if not value:
        return None
    if not re.fullmatch("0*[1-9][0-9]{0,17}", value):  # Python reads no number of thousands of digits
        raise DataError(f"environment: {TOKENS_PER_PASS}", "not a number of tokens", "set it to one such as 4096, or unset it", got=value)
    return int(value)
