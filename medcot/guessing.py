"""Whether an arm does better than guessing: the interval of its score beside the score of whoever knows nothing.

Two arms that both guess are EQUIVALENT, and rightly so; but it says nothing of what they know. The verdict tells it and decides as before.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import ArrayLike

from medcot.clusters import by_cluster, cluster_bounds
from medcot.statistics import wilson
from medcot.tasks import Prompt


@dataclass(frozen=True, slots=True)
class Guessing:
    """What guessing would score on an endpoint's items, and the interval of each arm's score on them: low, high."""

    chance: float
    base: tuple[float, float]
    tuned: tuple[float, float]

    @property
    def neither(self) -> bool:
        """Whether neither arm is shown to do better: both intervals hold the chance, or lie below it."""
        return max(self.base[0], self.tuned[0]) <= self.chance


def chance_level(prompts: Sequence[Prompt]) -> float | None:
    """The mean score of guessing over the clean prompts; None where there are none, or one has no choices to guess among."""
    clean = [prompt for prompt in prompts if not prompt.contaminated]
    if not clean or not all(prompt.choices for prompt in clean):
        return None
    return fsum(1 / _num_guesses(prompt) for prompt in clean) / len(clean)


def _num_guesses(prompt: Prompt) -> int:
    """The answers that a prompt leaves open: one of its letters, or where several are right, and it says so, any two or more of them."""
    num = len(prompt.choices)
    return num if len(prompt.reference) == 1 else 2**num - num - 1


def score_interval(
    scores: ArrayLike, chance: float, clusters: Sequence[Hashable], confidence: float, num_resamples: int, seed: int
) -> tuple[float, float]:
    """The two-sided interval of a mean score, within 0 and 1.

    Wilson's for scores of 0 and 1 that share no case; else cases are resampled, as differences from chance.

    scores    one in [0, 1] for each item, shape (n,), n ≥ 1
    clusters  what each item shares with others, such as its case
    """
    values = np.asarray(scores, dtype=np.float64)
    sums, sizes = by_cluster(values - chance, clusters)
    if len(sums) == len(values) and np.isin(values, (0.0, 1.0)).all():
        return wilson(int(values.sum()), len(values), confidence)
    bounds = cluster_bounds(sums, sizes, confidence, num_resamples, seed)
    return max(0.0, chance + bounds.low), min(1.0, chance + bounds.high)
