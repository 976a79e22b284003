"""Splits: stateless, so no row ever moves; variants of a case stay together; no near-duplicate straddles."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcot.splits import SPLITS, Bridge, Pair, Split, find_bridges, skeleton, split_of

VARIANTS = [
    ("男，45岁，左侧胸痛2小时，否认高血压，首选什么？", "女，54岁，右侧胸痛3天，高血压，首选什么？"),
    ("地高辛每日0.125mg是否过量？", "地高辛每日 0.25 mg 是否过量?"),
    ("患者有发热，伴咳嗽", "患者无发热，不伴咳嗽"),
    ("血钾＜3.5 mmol/L 的十岁男孩", "血钾>5.5mmol/L的8岁女孩"),
    ("A 45-year-old man with left flank pain: which drug?", "A 54 year old woman without right flank pain: which drug?"),
    ("He denies fever; give 5 mg of it?", "She has fever. Give 50 mg of it?"),
]


@pytest.mark.parametrize(("one", "other"), VARIANTS)
def test_variants_of_a_case_share_their_skeleton_and_so_their_split(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)
    assert all(split_of(skeleton(one), seed, 0.3, 0.3) == split_of(skeleton(other), seed, 0.3, 0.3) for seed in range(20))


@pytest.mark.parametrize(
    ("one", "other"), [("急性阑尾炎的首选检查？", "急性胰腺炎的首选检查？"), ("What treats asthma?", "What treats gout?"), ("42", "43")]
)
def test_other_questions_have_other_skeletons(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


def test_the_splits_of_these_questions_are_for_ever() -> None:
    """Whoever changes a word list or the key on the way to the hash moves rows between train and test: say so in the CHANGELOG."""
    questions = (
        "急性阑尾炎的首选检查？",
        "女，36岁，血糖7.8 mmol/L，无多饮，首选什么药？",
        "What treats asthma?",
        "What is the first test in gout, 5 mg?",
    )
    points = "".join(split_of(skeleton(question), seed, 0.3, 0.3)[1] for question in questions for seed in range(6))
    assert points == "aaeeaaereerrrereraraaaea"


@pytest.mark.parametrize("question", ["", "？！", "5 mg", "无", "no", "😀"])
def test_a_question_of_nothing_but_variants_still_has_a_split(question: str) -> None:
    assert split_of(skeleton(question), 1, 0.1, 0.1) in SPLITS


def test_ratios_are_met_on_average_and_seeds_are_independent() -> None:
    names = [f"题{i}" for i in range(20_000)]
    counts = Counter(split_of(name, 42, 0.1, 0.2) for name in names)
    # 20,000 draws: the standard error of a share is at most 0.0029
    assert counts["val"] / 20_000 == pytest.approx(0.1, abs=0.012)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.012)
    both = sum(split_of(name, 42, 0, 0.2) == split_of(name, 43, 0, 0.2) == "test" for name in names)
    assert both / 20_000 == pytest.approx(0.04, abs=0.008)


def test_ratios_of_zero_give_no_rows() -> None:
    assert {split_of(f"q{i}", 7, 0.0, 0.0) for i in range(500)} == {"train"}


def test_another_val_ratio_moves_no_row_into_or_out_of_test() -> None:
    for name in (f"题 {i}" for i in range(2_000)):
        one, other = split_of(name, 1, 0.05, 0.1), split_of(name, 1, 0.3, 0.1)
        assert (one == "test") == (other == "test")
        assert one != "val" or other == "val"


def bridges(splits: dict[str, Split], *pairs: tuple[str, str]) -> list[Bridge]:
    return find_bridges(splits, [Pair(a, b, 0.9) for a, b in pairs])


def test_pairs_inside_a_split_and_pairs_with_a_row_that_is_gone_refuse_nothing() -> None:
    assert bridges({"a": "train", "b": "train", "c": "test"}, ("a", "b"), ("c", "gone"), ("gone", "lost"), ("c", "c")) == []


def test_the_row_that_ties_two_splits_is_refused_and_both_sides_stay() -> None:
    for split in SPLITS:
        splits: dict[str, Split] = {"old_train": "train", "new": split, "old_test": "test"}
        found = bridges(splits, ("new", "old_train"), ("old_test", "new"))
        assert [bridge.id for bridge in found] == ["new"]
    assert bridges({"old_train": "train", "new": "train", "old_test": "test"}, ("new", "old_train"), ("old_test", "new")) == [
        Bridge("new", "old_test", 0.9)
    ]


@pytest.mark.parametrize(
    ("one", "other", "refused"), [("train", "test", "a"), ("test", "train", "b"), ("val", "test", "a"), ("val", "train", "b")]
)
def test_of_a_lone_pair_the_evaluation_row_stays(one: Split, other: Split, refused: str) -> None:
    assert [bridge.id for bridge in bridges({"a": one, "b": other}, ("a", "b"))] == [refused]


def test_the_reason_names_the_lowest_neighbour_across_and_its_similarity() -> None:
    pairs = [Pair("r", "z", 0.7), Pair("r", "y", 0.8), Pair("y", "r", 0.6), Pair("r", "a", 0.99)]
    assert find_bridges({"r": "train", "z": "test", "y": "test", "a": "train"}, pairs) == [Bridge("r", "y", 0.8)]


GRAPHS = st.tuples(
    st.lists(st.sampled_from(SPLITS), min_size=2, max_size=12),
    st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)), max_size=30),
)


@settings(max_examples=300, deadline=None)
@given(GRAPHS, st.randoms(use_true_random=False))
def test_no_pair_straddles_afterwards_in_any_order_and_nothing_is_refused_in_vain(
    graph: tuple[list[Split], list[tuple[int, int]]], shuffler: random.Random
) -> None:
    splits = {f"r{i:02}": split for i, split in enumerate(graph[0])}
    pairs = [Pair(f"r{a:02}", f"r{b:02}", 0.5 + ((a + b) % 10) / 20) for a, b in graph[1]]
    found = find_bridges(splits, pairs)
    refused = {bridge.id for bridge in found}
    left = {row: split for row, split in splits.items() if row not in refused}
    assert not [p for p in pairs if p.a in left and p.b in left and left[p.a] != left[p.b]]
    straddling = {frozenset((p.a, p.b)): p.similarity for p in pairs if splits.get(p.a, "?") != splits.get(p.b, "?")}
    for bridge in found:
        assert splits[bridge.id] != splits[bridge.related_id]
        assert frozenset((bridge.id, bridge.related_id)) in straddling
    again = [Pair(p.b, p.a, p.similarity) if shuffler.random() < 0.5 else p for p in pairs]
    shuffler.shuffle(again)
    names = list(splits)
    shuffler.shuffle(names)
    assert find_bridges({name: splits[name] for name in names}, again) == found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("胸痛发热咳嗽fever 0123无", min_size=1, max_size=8), min_size=2, max_size=20, unique=True), st.integers(1, 19))
def test_adding_rows_never_changes_the_split_of_a_row(questions: list[str], cut: int) -> None:
    def assign(rows: list[str]) -> dict[str, Split]:
        return {row: split_of(skeleton(row), 42, 0.2, 0.2) for row in rows}

    before, after = assign(questions[:cut]), assign(questions)
    assert all(after[row] == split for row, split in before.items())
