"""Signatures agree with datasketch bit for bit, and bands keep the recall they promise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHash

from medcot import minhash
from medcot.matching import matching_key, shingles
from medcot.minhash import bands_and_rows, candidate_pairs, candidate_recall, hash32, reliable_from, signatures

TEXTS = ["患者女，44岁，三年来经常夜间上腹不适", "A 45-year-old man with severe pain", "头痛"]


@pytest.mark.parametrize(("num_perm", "seed"), [(128, 1), (256, 7)])
def test_signatures_are_bit_identical_to_datasketch(num_perm: int, seed: int) -> None:
    sets = [shingles(matching_key(text), 3) for text in TEXTS]
    for ours, shingle_set in zip(signatures(sets, num_perm, seed), sets, strict=True):
        oracle = MinHash(num_perm=num_perm, seed=seed, hashfunc=int, scheme="affine32")
        oracle.update_batch(hash32(shingle_set).tolist())
        assert ours.tolist() == oracle.hashvalues.tolist()


def test_a_set_without_shingles_has_datasketch_s_empty_signature() -> None:
    empty = signatures([np.zeros(0, dtype=np.uint64)], 16, 1)[0]
    assert empty.tolist() == MinHash(num_perm=16, scheme="affine32").hashvalues.tolist()


def test_the_share_of_equal_positions_estimates_the_jaccard() -> None:
    numbers = np.arange(3000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    one, other = signatures([numbers[:2000], numbers[500:2500]], 2048, 3)
    assert abs(float((one == other).mean()) - 1500 / 2500) < 0.04


@pytest.mark.parametrize(
    ("threshold", "num_perm", "expected"), [(0.9, 128, (16, 8)), (0.85, 128, (18, 7)), (0.8, 128, (25, 5)), (0.5, 512, (128, 4))]
)
def test_bands_have_the_most_rows_that_keep_the_recall(threshold: float, num_perm: int, expected: tuple[int, int]) -> None:
    bands, rows = bands_and_rows(threshold, num_perm)
    assert (bands, rows) == expected
    assert candidate_recall(threshold, bands, rows) >= 0.999
    assert candidate_recall(threshold, num_perm // (rows + 1), rows + 1) < 0.999


@pytest.mark.parametrize(("threshold", "num_perm", "expected"), [(0.8, 128, 0.65), (0.5, 512, 0.4), (0.9, 128, 0.8), (1.0, 128, 1.0)])
def test_pairs_below_the_threshold_are_reliable_where_nine_in_ten_are_found(threshold: float, num_perm: int, expected: float) -> None:
    assert reliable_from(threshold, num_perm) == expected
    bands, rows = bands_and_rows(threshold, num_perm)
    assert candidate_recall(expected, bands, rows) >= 0.9
    assert candidate_recall(expected - 0.05, bands, rows) < 0.9


def test_too_few_permutations_fall_back_to_single_rows() -> None:
    assert bands_and_rows(0.05, 16) == (16, 1)


def test_candidates_are_exactly_the_pairs_that_share_a_band() -> None:
    generator = np.random.default_rng(0)
    signature = generator.integers(0, 4, (60, 6)).astype(np.uint32)
    expected = {
        (a, b) for a, b in combinations(range(60), 2) if any((signature[a, i : i + 2] == signature[b, i : i + 2]).all() for i in (0, 2, 4))
    }
    found = [tuple(pair) for chunk in candidate_pairs(signature, 3, 2) for pair in chunk.tolist()]
    assert sorted(found) == sorted(expected)


def test_a_giant_bucket_comes_in_chunks_and_loses_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash, "PAIRS_AT_ONCE", 50)
    signature = np.zeros((40, 4), dtype=np.uint32)
    chunks = list(candidate_pairs(signature, 2, 2))
    assert len(chunks) > 2
    assert max(map(len, chunks)) < 200
    assert {tuple(pair) for chunk in chunks for pair in chunk.tolist()} == set(combinations(range(40), 2))


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_without_two_rows(count: int) -> None:
    assert [pair for chunk in candidate_pairs(np.zeros((count, 4), dtype=np.uint32), 2, 2) for pair in chunk.tolist()] == []
