"""The inverted index: the shared runs of every pair, counted one by one, however the texts are cut into blocks."""

from __future__ import annotations

import random

import pytest

from medcot import overlap
from medcot.matching import shingles
from medcot.overlap import MARK, shared_runs

WORDS = ("胸", "痛", "发", "热", "fever", "5", "mg", "无")


@pytest.mark.parametrize("block", [1, 50, 1_000_000])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_counts_are_those_of_comparing_every_pair(block: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "BLOCK", block)
    dice = random.Random(3)
    rows, others = ([" ".join(dice.choices(WORDS, k=dice.randint(size, 14))) for _ in range(count)] for count in (40, 25))
    sets = [[set(shingles(text, size).tolist()) for text in side] for side in (rows, others)]
    expected = {(i, j, n) for i, row in enumerate(sets[0]) for j, other in enumerate(sets[1]) if (n := len(row & other))}
    found = list(shared_runs(iter(rows), others, size))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_runs_do_not_reach_from_one_text_into_the_next() -> None:
    assert list(shared_runs(["一二", "三四"], ["二三"], 2)) == []
    assert list(shared_runs(["一二"], ["一二", "三四", "二三"], 2)) == [(0, 0, 1)]


def test_a_text_that_holds_the_mark_does_not_shift_the_others() -> None:
    assert list(shared_runs([f"a{MARK}b c", "一二三"], [f"{MARK}x y", "一二三"], 3)) == [(1, 1, 1)]


def test_short_and_empty_texts_share_no_run() -> None:
    assert list(shared_runs(["", "一", "一二三"], ["一", "", "一二三"], 3)) == [(2, 2, 1)]
    assert list(shared_runs([], ["一"], 1)) == list(shared_runs(["一"], [], 1)) == list(shared_runs(["一"], ["一"], 9)) == []
