"""Canaries: synthetic edited copies planted in every candidate search, which measure how many near pairs it finds.

A seeded sample of the run's own keys is copied and edited – scattered substitutions, or one rewritten block – with tokens of the
corpus itself, so that each copy stands just above a wanted similarity; its exact similarity is then counted from the same shingles
as that of the data. The copies go through the same search as the data. A pair's fate there depends on its two texts alone, so they
change no verdict on a real row, and they exist in memory only: nothing of them is written but counts.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from zlib import crc32

import numpy as np

from medcot.matching import shingles, stem, tokens
from medcot.statistics import lower_bound

MIN_RECALL, MIN_LOWER_BOUND = 0.995, 0.99
ENOUGH = 2000  # canaries from which the lower bound is asked for too; fewer cannot prove it
CONFIDENCE = 0.95  # of the one-sided lower bound
Style = Literal["scattered", "block"]


@dataclass(frozen=True, slots=True)
class Canary:
    """An edited copy of a key: its tokens joined by spaces, which part tokens and count for nothing.

    original  position of the key it is a copy of
    jaccard   exact similarity of the two, at or above the threshold
    """

    original: int
    key: str
    jaccard: float
    style: Style


def levels(threshold: float) -> list[float]:
    """The similarities that copies aim at, and the lower edges of the bins of recall: the threshold, then steps up to 1."""
    step = 5 if threshold >= 0.75 else 10
    first = math.floor(round(threshold * 100, 6)) // step * step + step
    return [threshold, *(edge / 100 for edge in range(first, 100, step))] if threshold < 1 else []


def plant(keys: Sequence[str], shingle_size: int, threshold: float, count: int, seed: int) -> list[Canary]:
    """Make up to `count` canaries of as many keys, drawn at random; a key too short for an edit above the threshold gives none.

    keys  distinct texts as they are searched; their order changes nothing but the numbers of the originals
    """
    aims = levels(threshold)
    drawn = heapq.nsmallest(count if aims else 0, range(len(keys)), key=lambda position: _draw(keys[position], seed))
    words = {position: tokens(stem(keys[position])) for position in drawn}
    pool = [token for some in words.values() for token in some]
    generator = random.Random(seed)
    planted = []
    for number, position in enumerate(drawn):
        style: Style = "block" if number // len(aims) % 2 else "scattered"
        # A single token may be too much for a high aim: then the next lower one.
        lower = reversed(aims[: number % len(aims) + 1])
        copies = (_edit(stem(keys[position]), words[position], pool, shingle_size, aim, style, generator) for aim in lower)
        if copy := next((copy for copy in copies if copy), None):
            planted.append(Canary(position, *copy, style))
    return planted


def _draw(key: str, seed: int) -> tuple[int, str]:
    """A number that shuffles by the seed and depends on the text alone; of its two ends, which is enough and costs little."""
    return crc32(f"{key[:32]}{len(key)}{key[-32:]}".encode("utf-8", "surrogatepass"), seed), key


def _edit(
    text: str, words: list[str], pool: Sequence[str], shingle_size: int, aim: float, style: Style, generator: random.Random
) -> tuple[str, float] | None:
    """A copy that is at least this similar, and not much more, with its similarity; None when one token is too many."""
    source = shingles(text, shingle_size)
    spoilt = int(len(source) * (1 - aim) / (1 + aim))  # of n shingles x are replaced: the Jaccard is (n - x) / (n + x)
    number = min(len(words), max(1, spoilt - shingle_size + 1 if style == "block" else spoilt // shingle_size))
    others = generator.choices(pool, k=number)
    places: Sequence[int]
    if style == "block":
        start = generator.randrange(len(words) - number + 1)
        places = range(start, start + number)
    else:
        places = generator.sample(range(len(words)), number)
    while number:
        changed = words.copy()
        for place, other in zip(places[:number], others[:number], strict=True):
            changed[place] = other
        edited = " ".join(changed)
        copy = shingles(edited, shingle_size)
        shared = len(np.intersect1d(source, copy, assume_unique=True))
        similarity = shared / (len(source) + len(copy) - shared)
        if similarity >= aim:
            return (edited, similarity) if similarity < 1 else None
        number = number * 3 // 4
    return None


def summarise(planted: Sequence[Canary], found: Collection[int], threshold: float) -> dict[str, float | int]:
    """How many canaries the search found: num_planted, recall, its lower bound, and recall_<hundredths> by similarity from that on.

    found  the positions in `planted` of those that were found; a recall without canaries is left out
    """
    metrics: dict[str, float | int] = {"num_planted": len(planted)}
    if planted:
        metrics |= {"recall": len(found) / len(planted), "recall_lower": lower_bound(len(found), len(planted), CONFIDENCE)}
    edges = [*levels(threshold), 1.0]
    for low, high in pairwise(edges):
        inside = [i for i, canary in enumerate(planted) if low <= canary.jaccard < high]
        if inside:
            metrics[f"recall_{round(low * 100):03d}"] = sum(i in found for i in inside) / len(inside)
    return metrics


def warning(name: str, metrics: dict[str, float | int]) -> str | None:
    """One line when the recall is below what the bands promise, else None."""
    if not metrics["num_planted"]:
        return None
    recall, lower, planted = metrics["recall"], metrics["recall_lower"], metrics["num_planted"]
    if recall >= MIN_RECALL and (lower >= MIN_LOWER_BOUND or planted < ENOUGH):
        return None
    return (
        f"dedup: by {name} the search found only {recall:.4f} of {planted} planted pairs (95 % sure of {lower:.4f}), less than "
        f"{MIN_RECALL:g}: it misses near-duplicates; raise dedup.{name}.num_perm or try another dedup.seed"
    )
