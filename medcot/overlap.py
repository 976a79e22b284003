"""Which texts share shingles with which others, and how many: an inverted index, exact, for rows against a smaller set of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

HASHES_AT_ONCE = 2_000_000  # of the rows looked up in one step: it bounds the memory


def shared_counts(rows: Iterable[npt.NDArray[np.uint64]], sets: Sequence[npt.NDArray[np.uint64]]) -> Iterator[tuple[int, int, int]]:
    """Yield (row, set, number of shared hashes) for every pair that shares one; an inverted index over the sets."""
    if not sets:
        return
    hashes = np.concatenate(sets)
    order = np.argsort(hashes, kind="stable")
    vocabulary, starts = np.unique(hashes[order], return_index=True)
    owners = np.repeat(np.arange(len(sets)), [len(values) for values in sets])[order]
    ends = np.append(starts[1:], len(owners))
    for first, block in _blocks(rows):
        row_of = np.repeat(np.arange(first, first + len(block)), [len(values) for values in block])
        needles = np.concatenate(block)
        place = np.minimum(np.searchsorted(vocabulary, needles), len(vocabulary) - 1)
        known = vocabulary[place] == needles
        counts = (ends - starts)[place[known]]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = np.repeat(row_of[known], counts) * len(sets) + owners[np.repeat(starts[place[known]], counts) + offsets]
        for pair, shared in zip(*(values.tolist() for values in np.unique(pairs, return_counts=True)), strict=True):
            yield pair // len(sets), pair % len(sets), shared


def _blocks(rows: Iterable[npt.NDArray[np.uint64]]) -> Iterator[tuple[int, list[npt.NDArray[np.uint64]]]]:
    """Group rows into blocks of at most about HASHES_AT_ONCE hashes, each with the number of its first row."""
    first, block, size = 0, [], 0
    for values in rows:
        block.append(values)
        size += len(values)
        if size >= HASHES_AT_ONCE:
            yield first, block
            first, block, size = first + len(block), [], 0
    if block:
        yield first, block
