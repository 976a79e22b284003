"""Canaries: planted at the similarity they claim, the same in any order, found as often as the bands promise."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from scipy.stats import binomtest

from medcot.canaries import ENOUGH, Canary, levels, plant, summarise, warning
from medcot.key_index import QUESTION, ROW, KeyIndex, KeyParams, near_pairs
from medcot.matching import matching_key, tokens
from medcot.neardup import deduplicate, rank
from medcot.statistics import lower_bound

HAN = [chr(point) for point in range(0x5000, 0x5400)]
WORDS = ["fever", "cough", "renal", "hepatic", "dose", "left", "right", "acute", "5 mg", "40 mmHg", "pain", "rash", "chronic", "oral"]


def corpus(count: int, length: int = 160) -> list[str]:
    """Chinese and English keys, sorted and distinct."""
    generator = random.Random(5)
    chinese = ["".join(generator.choices(HAN, k=length)) for _ in range(count // 2)]
    english = [
        " ".join(f"{word}{generator.randrange(200)}" for word in generator.choices(WORDS, k=length)) for _ in range(count - count // 2)
    ]
    return sorted({matching_key(text) for text in (*chinese, *english)})


def plain_shingles(key: str, size: int) -> set[tuple[str, ...]]:
    parts = tokens(key)
    size = min(size, len(parts))
    return {tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)}


@pytest.mark.parametrize("params", [ROW, QUESTION], ids=["row", "question"])
def test_every_canary_has_the_similarity_it_claims_and_reaches_the_threshold(params: KeyParams) -> None:
    keys = corpus(60)
    planted = plant(keys, params.shingle_size, params.threshold, 50, 1)
    assert len(planted) == 50
    assert len({canary.original for canary in planted}) == 50
    for canary in planted:
        one, other = (plain_shingles(key, params.shingle_size) for key in (keys[canary.original], canary.key))
        assert canary.jaccard == len(one & other) / len(one | other)
        assert params.threshold <= canary.jaccard < 1


def test_both_styles_aim_at_every_level() -> None:
    aims = levels(ROW.threshold)
    planted = plant(corpus(120, 400), 5, ROW.threshold, 80, 1)
    by_level = Counter((canary.style, max(aim for aim in aims if aim <= canary.jaccard)) for canary in planted)
    assert by_level == {(style, aim): 10 for style in ("scattered", "block") for aim in aims}


def test_a_block_is_one_place_and_scattered_edits_are_many() -> None:
    keys = corpus(40, 400)
    for canary in plant(keys, 5, 0.8, 40, 1):
        changed = [one != other for one, other in zip(tokens(keys[canary.original]), tokens(canary.key), strict=True)]
        runs = "".join("x" if place else " " for place in changed).split()
        if canary.style == "block":
            assert changed.count(True) <= len("".join(runs)) + 3  # a token that was overwritten by itself parts a run
            assert "".join("x" if p else " " for p in changed).strip().count(" ") <= 3
        elif canary.jaccard < 0.9:
            assert len(runs) > 3


def test_edits_are_drawn_from_the_corpus_itself() -> None:
    keys = corpus(40)
    known = {token for key in keys for token in tokens(key)}
    assert all(set(tokens(canary.key)) <= known for canary in plant(keys, 5, 0.8, 40, 1))


def test_the_same_seed_plants_the_same_and_another_seed_others() -> None:
    keys = corpus(40)
    assert plant(keys, 5, 0.8, 20, 1) == plant(keys, 5, 0.8, 20, 1)
    assert plant(keys, 5, 0.8, 20, 1) != plant(keys, 5, 0.8, 20, 2)


@pytest.mark.parametrize(
    ("keys", "threshold", "count"),
    [([], 0.8, 10), (["头痛"], 0.8, 10), (["？"], 0.8, 10), (["fever"], 0.5, 10), (corpus(4), 1.0, 10), (corpus(4), 0.8, 0)],
)
def test_where_no_edit_can_stay_near_nothing_is_planted(keys: list[str], threshold: float, count: int) -> None:
    planted = plant(keys, 5, threshold, count, 1)
    assert planted == []
    metrics = summarise(planted, set(), threshold)
    assert metrics == {"num_planted": 0}
    assert warning("row", metrics) is None


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.8, [0.8, 0.85, 0.9, 0.95]), (0.5, [0.5, 0.6, 0.7, 0.8, 0.9]), (0.83, [0.83, 0.85, 0.9, 0.95]), (0.99, [0.99]), (1.0, [])],
)
def test_levels_start_at_the_threshold(threshold: float, expected: list[float]) -> None:
    assert levels(threshold) == expected


def test_recall_is_counted_by_similarity() -> None:
    planted = [Canary(i, "", jaccard, "block") for i, jaccard in enumerate((0.8, 0.84, 0.85, 0.97))]
    assert summarise(planted, {0, 2, 3}, 0.8) == {
        "num_planted": 4,
        "recall": 0.75,
        "recall_lower": pytest.approx(0.2486, abs=1e-4),
        "recall_080": 0.5,
        "recall_085": 1.0,
        "recall_095": 1.0,
    }


@pytest.mark.parametrize(("hits", "total"), [(0, 7), (3, 7), (7, 7), (199, 200), (2000, 2000)])
def test_the_lower_bound_is_that_of_clopper_and_pearson(hits: int, total: int) -> None:
    oracle = binomtest(hits, total, alternative="greater").proportion_ci(0.95, "exact").low
    assert lower_bound(hits, total, 0.95) == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize(("hits", "total"), [(-1, 7), (8, 7), (0, 0)])
def test_a_bound_of_nothing_is_refused(hits: int, total: int) -> None:
    with pytest.raises(ValueError, match="a proportion needs trials"):
        lower_bound(hits, total, 0.95)


@pytest.mark.parametrize(
    ("found", "planted", "warns"),
    [(200, 200, False), (199, 200, False), (198, 200, True), (ENOUGH, ENOUGH, False), (ENOUGH - 10, ENOUGH, False), (1988, ENOUGH, True)],
)
def test_a_warning_says_what_was_missed(found: int, planted: int, warns: bool) -> None:
    metrics = {"num_planted": planted, "recall": found / planted, "recall_lower": lower_bound(found, planted, 0.95)}
    line = warning("row", metrics)
    assert (line is not None) == warns
    if line:
        assert f"found only {found / planted:.4f} of {planted} planted pairs" in line
        assert "\n" not in line


@pytest.mark.parametrize("params", [ROW, QUESTION], ids=["row", "question"])
def test_the_search_finds_them_and_the_real_pairs_are_those_without_them(params: KeyParams) -> None:
    texts = corpus(80)
    texts += [text[:-1] for text in texts[::8]]
    bare = KeyIndex("row", texts, params, 1)
    index = KeyIndex("row", texts, params, 1, canaries=80)
    assert index.near == bare.near
    assert index.near
    assert index.search.below == bare.search.below
    assert index.search.canaries["num_planted"] == 80
    assert index.search.canaries["recall"] >= 79 / 80
    assert bare.search.canaries == {"num_planted": 0}


@pytest.mark.parametrize("params", [ROW, QUESTION], ids=["row", "question"])
def test_the_search_measures_the_similarity_that_a_canary_claims(params: KeyParams) -> None:
    """Also for long texts, which are searched as they were typed, and for questions that list their choices."""
    choices = " A. 心绞痛 B. 心肌梗死 C. 肺栓塞 D. 主动脉夹层"
    keys = [
        *corpus(20),
        *(matching_key(text + choices) for text in corpus(20, 40)),
        *(f"{text}，<br>（{text}）。Yes!" for text in corpus(20, 400)),
    ]
    planted = plant(keys, params.shingle_size, params.threshold, len(keys), 1)
    assert {canary.original // 20 for canary in planted} == {0, 1, 2}
    found = near_pairs([*keys, *(canary.key for canary in planted)], params, 1)
    measured = {b - len(keys): value for a, b, value in found if b >= len(keys) and a == planted[b - len(keys)].original}
    assert len(measured) >= 0.98 * len(planted)
    assert all(value == pytest.approx(planted[i].jaccard, abs=1e-12) for i, value in measured.items())


def test_a_search_with_too_few_permutations_is_seen_to_miss_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcot.similarity.bands_and_rows", lambda threshold, num_perm: (5, 25))  # as others choose them for 0.9
    metrics = KeyIndex("row", corpus(120, 300), ROW, 1, canaries=120).search.canaries
    assert metrics["recall"] < 0.6
    assert metrics["recall_080"] < metrics["recall_095"]
    assert warning("row", metrics)


def test_any_row_order_plants_the_same() -> None:
    texts = corpus(50)
    for seed in (1, 2):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        result = deduplicate(
            [f"r{i:02d}" for i in order],
            {"row": ([texts[i] for i in order], ROW)},
            [rank([texts[i]], f"r{i:02d}") for i in order],
            1,
            canaries=30,
        )
        plain = deduplicate(
            [f"r{i:02d}" for i in range(50)], {"row": (texts, ROW)}, [rank([t], f"r{i:02d}") for i, t in enumerate(texts)], 1, 30
        )
        assert result == plain
        assert result.searches["row"].canaries["num_planted"] == 30
