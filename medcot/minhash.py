"""MinHash signatures, the bands cut from them, and the candidate pairs that share a band.

The signatures are bit-identical to datasketch's `affine32` scheme (version 2.0 on) on the same hashed shingles, so that datasketch
is the tests' oracle and can go on from them. Bands are chosen for the recall of candidates; precision comes from exact
verification of every candidate afterwards (Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medcot.matching import mix

CANDIDATE_RECALL = 0.999
RELIABLE = 0.9  # the recall down to which pairs below the threshold are worth a look
PAIRS_AT_ONCE = 4_000_000  # candidate pairs in memory; a giant bucket comes in several chunks, none is dropped

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.int64]


def permutations(num_perm: int, seed: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The factors (odd) and offsets of num_perm permutations h → a·h + b mod 2³², as datasketch draws them."""
    generator = np.random.RandomState(seed)
    factors = generator.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, generator.randint(0, 1 << 32, num_perm, dtype=np.uint32)


def hash32(shingles: Hashes) -> npt.NDArray[np.uint32]:
    """The 32-bit hashes that MinHash works on: the upper half of each 64-bit shingle hash."""
    return (shingles >> np.uint64(32)).astype(np.uint32)


def signatures(shingle_sets: Sequence[Hashes], num_perm: int, seed: int) -> Signatures:
    """One signature a row: the minimum of every permutation over the row's 32-bit shingle hashes."""
    factors, offsets = permutations(num_perm, seed)
    result = np.full((len(shingle_sets), num_perm), np.iinfo(np.uint32).max, dtype=np.uint32)
    for row, shingles in enumerate(shingle_sets):
        if len(shingles):
            result[row] = (factors[:, None] * _premix(hash32(shingles)) + offsets[:, None]).min(axis=1)
    return result


def _premix(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser, which datasketch applies before the permutations."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def candidate_recall(similarity: float, bands: int, rows: int) -> float:
    """The probability that a pair at this Jaccard similarity shares at least one band: 1 - (1 - s^rows)^bands."""
    return float(1 - (1 - similarity**rows) ** bands)


def bands_and_rows(threshold: float, num_perm: int) -> tuple[int, int]:
    """The most rows a band may have while pairs at exactly the threshold become candidates with CANDIDATE_RECALL.

    More rows mean fewer useless candidates. One row a band is the last resort when num_perm is too small for the threshold.
    """
    for rows in range(num_perm, 1, -1):
        if candidate_recall(threshold, num_perm // rows, rows) >= CANDIDATE_RECALL:
            return num_perm // rows, rows
    return num_perm, 1


def reliable_from(threshold: float, num_perm: int) -> float:
    """The lowest multiple of 0.05, not above the threshold, at which RELIABLE of the pairs still become candidates; else the threshold."""
    bands, rows = bands_and_rows(threshold, num_perm)
    below = (k / 20 for k in range(21) if k / 20 <= threshold)
    return next((floor for floor in below if candidate_recall(floor, bands, rows) >= RELIABLE), threshold)


def candidate_pairs(signature: Signatures, bands: int, rows: int) -> Iterator[Pairs]:
    """Yield every pair of rows that shares a band; see pairs_in_bands."""
    return pairs_in_bands(band_keys(signature, bands, rows))


def band_keys(signature: Signatures, bands: int, rows: int) -> Hashes:
    """One 64-bit hash a band and row, (bands, n); a collision only adds a candidate, which verification rejects."""
    keys = np.zeros((bands, len(signature)), dtype=np.uint64)
    for band in range(bands):
        for column in signature[:, band * rows : (band + 1) * rows].T:
            keys[band] = mix(keys[band] ^ column)
    return keys


def pairs_in_bands(keys: Iterable[Hashes]) -> Iterator[Pairs]:
    """Yield every pair of rows with equal keys in one band or more, as arrays of shape (n, 2) with first < second.

    keys  one array a band, a key for each row; a pair that shares several bands comes once per chunk, so perhaps more than once in all
    """
    waiting: list[npt.NDArray[np.int64]] = []
    total, count = 0, 1
    for band in keys:
        count = max(1, len(band))
        for first, second in _bucket_pairs(band):
            waiting.append(np.minimum(first, second) * count + np.maximum(first, second))
            total += len(first)
            if total > PAIRS_AT_ONCE:
                waiting = [np.unique(np.concatenate(waiting))]
                total = len(waiting[0])
                if total > PAIRS_AT_ONCE // 2:
                    yield np.stack(np.divmod(waiting.pop(), count), axis=1)
                    total = 0
    if waiting:
        yield np.stack(np.divmod(np.unique(np.concatenate(waiting)), count), axis=1)


def _bucket_pairs(keys: Hashes) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """All pairs of positions with equal keys, at most about PAIRS_AT_ONCE of them at a time."""
    # One sort of whole numbers: the position takes the place of a key's lowest bits, whose loss only adds a few candidates.
    low = np.uint64((1 << max(1, len(keys) - 1).bit_length()) - 1)
    packed = np.sort((keys & ~low) | np.arange(len(keys), dtype=np.uint64))
    same = (packed[1:] | low) == (packed[:-1] | low)
    packed = packed[np.concatenate((same, [False])) | np.concatenate(([False], same))] if len(keys) else packed
    order, bucket = (packed & low).astype(np.int64), packed | low
    ends = np.searchsorted(bucket, bucket, side="right")
    partners = ends - np.arange(len(order)) - 1  # of each position: those behind it in its bucket
    chunk = np.cumsum(partners) // PAIRS_AT_ONCE
    for number in np.unique(chunk[partners > 0]):
        positions = np.flatnonzero((chunk == number) & (partners > 0))
        counts = partners[positions]
        left = np.repeat(positions, counts)
        within = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield order[left], order[left + 1 + within]
