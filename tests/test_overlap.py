"""The inverted index: the shared hashes of every pair, counted one by one, however the rows are cut into blocks."""

from __future__ import annotations

import random

import numpy as np
import pytest

from medcot import overlap
from medcot.overlap import shared_counts


@pytest.mark.parametrize("at_once", [1, 7, 1_000_000])
def test_counts_are_those_of_comparing_every_pair(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "HASHES_AT_ONCE", at_once)
    dice = random.Random(3)
    rows, sets = ([sorted(dice.sample(range(60), dice.randint(0, 12))) for _ in range(count)] for count in (40, 25))
    expected = {(i, j, n) for i, row in enumerate(rows) for j, other in enumerate(sets) if (n := len({*row} & {*other}))}
    found = list(shared_counts((np.array(row, dtype=np.uint64) for row in rows), [np.array(s, dtype=np.uint64) for s in sets]))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_nothing_is_shared_with_nothing() -> None:
    one = [np.array([1, 2], dtype=np.uint64)]
    assert list(shared_counts(one, [])) == list(shared_counts([], one)) == []
    assert list(shared_counts(one, [np.array([3], dtype=np.uint64)])) == []
