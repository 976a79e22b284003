"""Which of many texts are near each other: signatures, candidate pairs and exact similarities, by the kernels, on all processors.

What comes out depends on the texts and the seed alone: threads share the rows out among themselves, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from math import exp, lgamma, log, log1p
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medcot.compiled import call
from medcot.errors import MachineError
from medcot.kernels import agree, jaccard_pairs, place, sign, take
from medcot.matching import fold_table
from medcot.minhash import Hashes, Pairs, Signatures, bands_and_rows, pairs_in_bands, permutations

MAX_WORKERS = 1024
MISSED = 1e-6  # of the pairs at the threshold, the share that may be lost by comparing signatures before texts


class Texts(NamedTuple):
    """Texts as Arrow has them: their UTF-8 bytes in a row, and where each begins; one offset more than texts."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Encode strings; a lone surrogate becomes its three bytes."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded) or bytes(1), dtype=np.uint8), offsets)

    @classmethod
    def joined(cls, columns: Sequence[Texts]) -> Texts:
        """Rows of several columns, each row's texts with line breaks between them."""
        if len(columns) == 1:
            return columns[0]
        lengths = sum(np.diff(column.offsets) for column in columns) + len(columns) - 1
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        data = np.full(offsets[-1] + 1, ord("\n"), dtype=np.uint8)
        at = offsets[:-1].copy()
        for column in columns:
            call(place, *column, column.number, at, data)
            at += np.diff(column.offsets) + 1
        return cls(data, offsets)

    def take(self, rows: npt.NDArray[np.int64]) -> Texts:
        """The texts of these rows, in their order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        data = np.empty(offsets[-1] + 1, dtype=np.uint8)
        call(take, *self, np.ascontiguousarray(rows), len(rows), offsets, data)
        return Texts(data, offsets)

    @property
    def number(self) -> int:
        """How many texts there are."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Signed:
    """What the search keeps of n texts.

    signatures  (n, num_perm), as `minhash.signatures` has them
    keys        (bands, n) hashes of the bands
    prints      n sums of shingle hashes: equal for texts with equal shingles
    """

    signatures: Signatures
    keys: Hashes
    prints: Hashes


def workers() -> int:
    """How many threads or processes to use: `MEDCOT_WORKERS`, else one a processor."""
    given = os.environ.get("MEDCOT_WORKERS", "")
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given.isdecimal() or not 1 <= int(given) <= MAX_WORKERS:
        raise MachineError("MEDCOT_WORKERS", "not a number of workers", f"set it to 1 to {MAX_WORKERS}, or leave it out", got=given)
    return int(given)


def signed(texts: Texts, shingle_size: int, threshold: float, num_perm: int, seed: int, threads: int | None = None) -> Signed:
    """Sign all texts, and cut bands that find pairs at the threshold."""
    bands, rows = bands_and_rows(threshold, num_perm)
    factors, addends = permutations(num_perm, seed)
    count = texts.number
    result = Signed(
        np.empty((count, num_perm), dtype=np.uint32), np.empty((bands, count), dtype=np.uint64), np.empty(count, dtype=np.uint64)
    )

    def work(first: int, last: int) -> None:
        room = int(np.diff(texts.offsets[first : last + 1]).max()) + 1
        scratch = [np.empty(room, dtype=kind) for kind in (np.uint64, np.uint64, np.uint32)]
        whole = (factors, addends, num_perm, bands, rows, count)
        call(sign, *texts, first, last, fold_table(), shingle_size, *whole, *scratch, result.signatures, result.keys, result.prints)

    _share_out(work, texts.offsets, threads or workers())
    return result


def similarities(texts: Texts, pairs: Pairs, shingle_size: int, threads: int | None = None) -> npt.NDArray[np.float64]:
    """The exact Jaccard similarity, in [0, 1], of each pair (n, 2) of texts by their sets of shingles."""
    if not len(pairs):
        return np.zeros(0)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    ordered = np.ascontiguousarray(pairs[order])
    lengths = np.diff(texts.offsets)
    found, result = np.empty(len(pairs), dtype=np.float64), np.empty(len(pairs), dtype=np.float64)

    def work(first: int, last: int) -> None:
        room = int(lengths[ordered[first:last]].max()) + 1
        scratch = [np.empty(size, dtype=np.uint64) for size in (room, room, 4 * room + 16, 4 * room + 16)]
        call(jaccard_pairs, *texts, ordered, first, last, fold_table(), shingle_size, *scratch, found)

    _share_out(work, np.concatenate(([0], np.cumsum(lengths[ordered].sum(axis=1)))), threads or workers())
    result[order] = found
    return result


def _share_out(work: Callable[[int, int], None], ends: npt.NDArray[np.int64], number: int) -> None:
    """Call work(first, last) for runs of items that are about equally long, on so many threads; ends are the items' cumulated lengths."""
    if len(ends) < 2:
        return
    cuts = np.searchsorted(ends, np.linspace(0, ends[-1], 4 * number + 1)[1:-1])
    edges = np.unique(np.concatenate(([0], cuts, [len(ends) - 1]))).tolist()
    runs = list(pairwise(edges))
    if number == 1 or len(runs) < 2:
        for first, last in runs:
            work(first, last)
    else:
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(work, edges[:-1], edges[1:]))


def sketch(signatures: Signatures) -> npt.NDArray[np.uint8]:
    """One byte a permutation: enough to tell pairs far below the threshold, in a quarter of the room (Li & König 2010)."""
    return signatures.astype(np.uint8)


def agreeing(sketches: npt.NDArray[np.uint8], pairs: Pairs, threshold: float) -> Pairs:
    """The pairs (n, 2) whose sketches agree as often as those at the threshold, all but MISSED of them."""
    kept = np.empty(len(pairs), dtype=np.uint8)
    pairs = np.ascontiguousarray(pairs)
    call(agree, sketches, sketches.shape[1], pairs, len(pairs), least_agreement(threshold, sketches.shape[1]), kept)
    return pairs[kept.astype(np.bool_)]


def least_agreement(threshold: float, num_perm: int) -> int:
    """The places in which all but MISSED of the pairs at this similarity agree: a quantile of the binomial distribution."""
    below = 0.0
    for places in range(num_perm if threshold < 1 else 0):
        ways = lgamma(num_perm + 1) - lgamma(places + 1) - lgamma(num_perm - places + 1)
        below += exp(ways + places * log(threshold) + (num_perm - places) * log1p(-threshold))
        if below > MISSED:
            return places
    return num_perm


def near(
    texts: Texts, shingle_size: int, threshold: float, num_perm: int, seed: int, floor: float
) -> Iterator[tuple[Pairs, npt.NDArray[np.float64]]]:
    """Yield chunks of (pairs (n, 2) with first < second, similarities): each pair at or above `floor` once, if a band found it.

    threshold  similarity for which the bands are chosen: those below it are found less surely
    """
    pairs, similarity, prints = distinct_pairs(texts, shingle_size, threshold, num_perm, seed, floor)
    same = Copies(prints)
    yield same.inside()
    yield same.between(pairs, similarity)


def distinct_pairs(
    texts: Texts, shingle_size: int, threshold: float, num_perm: int, seed: int, floor: float
) -> tuple[Pairs, npt.NDArray[np.float64], Hashes]:
    """The near pairs as `near` has them, their similarities, and all prints: of texts with equal prints only one is paired."""
    found = signed(texts, shingle_size, threshold, num_perm, seed)
    sketches, rows = sketch(found.signatures), np.unique(stand_ins(found.prints, np.diff(texts.offsets)))
    chunks = [(np.zeros((0, 2), dtype=np.int64), np.zeros(0))]
    seen = np.zeros(0, dtype=np.int64)
    for chunk in pairs_in_bands(found.keys[:, rows] if len(rows) < texts.number else found.keys):
        pairs = agreeing(sketches, rows[chunk], floor)
        pairs = pairs[~np.isin(pairs[:, 0] * texts.number + pairs[:, 1], seen)]
        similarity = similarities(texts, pairs, shingle_size)
        pairs, similarity = pairs[similarity >= floor], similarity[similarity >= floor]
        seen = np.concatenate((seen, pairs[:, 0] * texts.number + pairs[:, 1]))
        chunks.append((pairs, similarity))
    return np.concatenate([pairs for pairs, _ in chunks]), np.concatenate([values for _, values in chunks]), found.prints


def stand_ins(prints: Hashes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row the longest of those with equal prints, and the first given of equally long ones."""
    order = np.lexsort((-lengths, prints))
    _, first, group = np.unique(prints[order], return_index=True, return_inverse=True)
    result = np.empty(len(order), dtype=np.int64)
    result[order] = order[first[group]]
    return result


class Copies:
    """Texts with equal prints, of which one stood for all in the search, so that a thousand copies were not a million candidates."""

    def __init__(self, prints: Hashes) -> None:
        _, self._group, counts = np.unique(prints, return_inverse=True, return_counts=True)
        self._order = np.argsort(self._group, kind="stable")
        self._counts, self._starts = counts, np.cumsum(counts) - counts

    def inside(self) -> tuple[Pairs, npt.NDArray[np.float64]]:
        """All pairs of copies, whose similarity is 1."""
        pairs = [self._product(group, group) for group in np.flatnonzero(self._counts > 1).tolist()]
        joined = np.concatenate([*pairs, np.zeros((0, 2), dtype=np.int64)])
        joined = joined[joined[:, 0] < joined[:, 1]]
        return joined, np.ones(len(joined))

    def between(self, pairs: Pairs, similarity: npt.NDArray[np.float64]) -> tuple[Pairs, npt.NDArray[np.float64]]:
        """The pairs of those that stand for others, multiplied by those for whom they stand."""
        groups = self._group[pairs]
        numbers = self._counts[groups].prod(axis=1)
        if (numbers == 1).all():
            return pairs, similarity
        joined = np.concatenate([self._product(one, other) for one, other in groups.tolist()])
        return np.sort(joined, axis=1), np.repeat(similarity, numbers)

    def _product(self, one: int, other: int) -> Pairs:
        left, right = (self._order[self._starts[g] : self._starts[g] + self._counts[g]] for g in (one, other))
        return np.stack([np.repeat(left, len(right)), np.tile(right, len(left))], axis=1)
