"""Which texts share runs of tokens with which others, and how many: an inverted index, exact, for many rows and fewer other texts.

Texts are hashed in blocks, parted by a mark that stands in no text, so that a whole block costs a few array operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medcot.matching import rolled_hashes, token_hashes

BLOCK = 400_000  # characters hashed in one step: it bounds the memory
MARK = "\U0003fffd"  # no character, now or ever, and a token of its own to the hash
_MARK_HASH = token_hashes(MARK)[0]

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


def shared_runs(rows: Iterable[str], others: Sequence[str], size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (row, other, number of distinct runs of `size` tokens that they share) for every pair that shares one.

    A text with fewer tokens has no run.
    """
    found = [*_runs(others, size)]
    if not found:
        return
    hashes, owners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    new = np.append(True, (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1]))  # each run once for each other text
    hashes, owners = hashes[new], owners[new]
    vocabulary, starts, counts = np.unique(hashes, return_index=True, return_counts=True)
    for needles, row_of in _runs(rows, size):
        place = np.minimum(np.searchsorted(vocabulary, needles), len(vocabulary) - 1)
        known = vocabulary[place] == needles
        hits = np.unique(np.stack((row_of[known], place[known])), axis=1)  # each run once for each row
        times = counts[hits[1]]
        offsets = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        pairs = np.repeat(hits[0], times) * len(others) + owners[np.repeat(starts[hits[1]], times) + offsets]
        for pair, shared in zip(*(values.tolist() for values in np.unique(pairs, return_counts=True)), strict=True):
            yield pair // len(others), pair % len(others), shared


def _runs(texts: Iterable[str], size: int) -> Iterator[tuple[Hashes, Numbers]]:
    """The hash of every run of tokens and the number of its text, in blocks of whole texts."""
    for first, block in _blocks(texts):
        hashes = token_hashes(MARK.join(text.replace(MARK, " ") for text in block))
        marks = hashes == _MARK_HASH
        text_of = np.cumsum(marks) + first
        if len(hashes) < size:
            continue
        last = len(hashes) - size + 1
        within = ~marks[:last] & (text_of[:last] == text_of[size - 1 :])
        yield rolled_hashes(hashes, size)[within], text_of[:last][within]


def _blocks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Group texts into blocks of about BLOCK characters, each with the number of its first text."""
    first, block, length = 0, list[str](), 0
    for text in texts:
        block.append(text)
        length += len(text)
        if length >= BLOCK:
            yield first, block
            first, block, length = first + len(block), [], 0
    if block:
        yield first, block
