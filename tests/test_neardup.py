"""Near-duplicates: every removal has a kept witness, the result does not depend on row order, facts are never merged."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcot.key_index import QUESTION, ROW, KeyParams, near_pairs
from medcot.matching import jaccards, matching_key, shingles
from medcot.minhash import bands_and_rows
from medcot.neardup import Rank, Result, deduplicate, rank

HAN = [chr(point) for point in range(0x5000, 0x5B00)]
WORDS = [
    a + b
    for a in ("car", "neu", "hep", "gas", "ren", "pul", "ost", "der", "oto", "hem")
    for b in ("dia", "rol", "ati", "tri", "alo", "mon", "eom")
]


def run(texts: Sequence[str], params: KeyParams = ROW, ids: Sequence[str] | None = None) -> Result:
    ids = ids or [f"r{i:03d}" for i in range(len(texts))]
    return deduplicate(ids, {"row": (texts, params)}, [rank([t], i) for t, i in zip(texts, ids, strict=True)], 1)


def jaccard(one: str, other: str, size: int) -> float:
    return float(jaccards([shingles(matching_key(text), size) for text in (one, other)], np.array([[0, 1]]))[0])


def chinese(seed: int, length: int = 400) -> str:
    return "".join(random.Random(seed).choices(HAN, k=length))


def english(seed: int, length: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(text: str, count: int, seed: int) -> str:
    """A copy with `count` characters overwritten by ones that occur nowhere else, far enough apart."""
    generator, characters = random.Random(seed), list(text)
    for position in generator.sample(range(0, len(text), 8), count):
        characters[position] = chr(0x6000 + generator.randrange(0x2000))
    return "".join(characters)


@pytest.mark.parametrize("text", [chinese(1), english(1)], ids=["zh", "en"])
def test_a_copy_typed_otherwise_is_an_exact_copy(text: str) -> None:
    result = run([text, f" {text}！ "])
    assert [(r.rule, r.similarity) for r in result.removals] == [("exact_copy", 1.0)]
    assert len(result.kept) == 1


def test_a_damaged_copy_is_removed_with_its_witness_and_similarity() -> None:
    text = chinese(2)
    copy = changed(text, 5, 3)
    result = run([text + "。", copy])
    assert [(r.id, r.rule, r.key, r.related_id) for r in result.removals] == [("r001", "near_duplicate", "row", "r000")]
    assert result.removals[0].similarity == pytest.approx(jaccard(text, copy, 5))
    assert result.removals[0].similarity == pytest.approx(371 / 421)
    assert [pair.verdict for pair in result.pairs] == ["duplicate"]


def test_complete_text_outranks_longer_text_outranks_shorter() -> None:
    text = chinese(4)
    assert run([text + "多出一些字", text + "。", text]).kept == ["r001"]
    assert rank(["完整。"], "b") < rank(["更长但是没有写完"], "a")
    assert rank(["Longer text."], "b") < rank(["Text."], "a")


def test_equal_texts_are_told_apart_by_id_alone() -> None:
    assert run(["头痛。"] * 4, ids=["d", "b", "a", "c"]).kept == ["a"]


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_without_two_rows(count: int) -> None:
    result = run(["头痛怎么办？"] * count)
    assert (result.kept, result.removals, result.pairs, result.largest_cluster) == (["r000"][:count], [], [], count)


def test_when_all_rows_are_equal_one_is_kept() -> None:
    result = run(["何为高血压？"] * 50)
    assert len(result.kept) == 1
    assert {r.related_id for r in result.removals} == set(result.kept)
    assert result.largest_cluster == 50


def mixed_corpus(seed: int) -> list[str]:
    """Copies, damaged copies, chains and other facts, in Chinese and English."""
    texts = []
    for number in range(6):
        base = (chinese if number % 2 else english)(seed * 100 + number, 120) + "。"
        texts += [base, base, base.replace("。", "！"), changed(base, 2, number), changed(changed(base, 2, number), 2, number + 50)]
        texts += [base + f"口服{dose}mg。" for dose in (5, 50)]
    return texts


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 3), st.randoms(use_true_random=False))
def test_any_row_order_gives_the_same_result(seed: int, generator: random.Random) -> None:
    texts = mixed_corpus(seed)
    ids = [f"r{i:03d}" for i in range(len(texts))]
    order = generator.sample(range(len(texts)), len(texts))
    assert run([texts[i] for i in order], ids=[ids[i] for i in order]) == run(texts)


@pytest.mark.parametrize("seed", range(3))
def test_every_removal_has_a_kept_witness_at_the_threshold_and_a_second_run_removes_nothing(seed: int) -> None:
    texts = mixed_corpus(seed)
    by_id = {f"r{i:03d}": text for i, text in enumerate(texts)}
    result = run(texts)
    assert sorted([*result.kept, *(r.id for r in result.removals)]) == sorted(by_id)
    assert result.removals
    for removal in result.removals:
        assert removal.related_id in result.kept
        assert removal.similarity >= ROW.threshold
        assert removal.similarity == pytest.approx(jaccard(by_id[removal.id], by_id[removal.related_id], ROW.shingle_size))
    again = run([by_id[i] for i in result.kept], ids=result.kept)
    assert again.removals == []
    assert again.kept == result.kept


def test_a_copy_of_a_removed_row_has_that_row_s_witness() -> None:
    text = chinese(5)
    near = changed(text, 3, 6)
    result = run([text + "。", near, near + " "])
    assert {(r.rule, r.related_id) for r in result.removals} == {("near_duplicate", "r000"), ("exact_copy", "r000")}
    assert len({r.similarity for r in result.removals}) == 1


def test_a_chain_of_small_steps_does_not_swallow_its_far_end() -> None:
    chain = [chinese(7) + "。"]
    for step in range(9):
        chain.append(changed(chain[-1], 3, step))
    near = [jaccard(a, b, 5) for a, b in pairwise(chain)]
    assert min(near) > 0.9
    assert jaccard(chain[0], chain[-1], 5) < 0.6
    params = ROW.model_copy(update={"threshold": 0.9})
    result = run(chain, params)
    assert len(result.kept) >= 4
    by_id = {f"r{i:03d}": text for i, text in enumerate(chain)}
    assert all(jaccard(by_id[r.id], by_id[r.related_id], 5) >= 0.9 for r in result.removals)


FACTS = [
    ("患者男，44岁，反复胸痛两年，心电图正常，最可能的诊断是什么？", "44", "45", "number"),
    ("对该患者应口服阿司匹林100mg每日一次，此方案是否合适？", "100mg", "300mg", "number"),
    ("患者无发热，咳嗽三天，双肺呼吸音清，首先考虑什么？", "无发热", "有发热", "negation"),
    ("患者左侧肢体无力两小时，头颅影像未见出血，如何处理？", "左侧", "右侧", "laterality"),
    ("体重50公斤的烧伤患者，第一个二十四小时应补充的液体量是多少？", "液体", "胶体", "wording"),
    ("A 44-year-old man has chest pain at rest; what is the diagnosis?", "44", "54", "number"),
    ("A man takes 5 mg of warfarin daily; is this dose appropriate?", "5 mg", "50 mg", "number"),
    ("A child presents with fever and a rash; which test comes first?", "with", "without", "negation"),
    ("Pain in the left lower abdomen for two days; what comes next?", "left", "right", "laterality"),
]


@pytest.mark.parametrize(("text", "old", "new", "kind"), FACTS)
def test_questions_that_differ_in_one_fact_conflict_and_are_both_kept(text: str, old: str, new: str, kind: str) -> None:
    params = QUESTION.model_copy(update={"threshold": 0.4})
    result = run([text, text.replace(old, new)], params)
    assert result.kept == ["r000", "r001"]
    assert [(p.verdict, p.detail) for p in result.conflicts] == [("conflict", kind)]
    assert result.conflicts[0].places


def test_places_follow_the_order_of_the_ids() -> None:
    texts = ["患者男，44岁，反复胸痛两年，最可能的诊断是什么？", "患者男，45岁，反复胸痛两年，最可能的诊断是什么？"]
    assert run(texts, QUESTION).conflicts[0].places == (("4", "5"),)
    assert run(texts[::-1], QUESTION).conflicts[0].places == (("5", "4"),)


def test_a_question_with_other_function_words_is_a_near_duplicate() -> None:
    result = run(
        ["二期梅毒的主要皮肤表现是？", "二期梅毒的主要皮肤表现为？", "What are the causes of a low sodium?", "What is the cause?"], QUESTION
    )
    assert [(r.id, r.rule) for r in result.removals] in ([("r000", "near_duplicate")], [("r001", "near_duplicate")])


def test_texts_that_share_their_words_in_another_order_are_similar_and_kept() -> None:
    halves = [chinese(8, 300), chinese(9, 300)]
    params = ROW.model_copy(update={"min_alignment": 0.8})
    result = run(["".join(halves), "".join(halves[::-1])], params)
    assert len(result.kept) == 2
    assert [(p.verdict, p.detail) for p in result.pairs] == [("similar", "alignment")]
    assert run(["".join(halves), "".join(halves[::-1])], ROW).kept != result.kept


def test_unrelated_chinese_questions_never_merge() -> None:
    texts = ["高热三天伴咳嗽，首先考虑什么？", "妊娠期糖尿病如何控制血糖？", "小儿腹泻如何补液？", "肺", "肝", "？", "！"]
    for params in (QUESTION, ROW):
        assert len(run(texts, params).kept) == len(texts)


@pytest.mark.parametrize(
    "questions",
    [
        ["款冬花的功效有", "白附子的功效有"],
        ["何为高血压？", "何为心绞痛？"],
        ["What is a stroke?", "What is an abscess?"],
    ],
    ids=["zh", "zh short", "en"],
)
def test_rows_that_share_a_long_reasoning_and_ask_different_things_both_stay(questions: list[str]) -> None:
    rows = [f"{question}\n{chinese(10)}" for question in questions]
    assert jaccard(*rows, ROW.shingle_size) > ROW.threshold
    result = deduplicate(["a", "b"], {"row": (rows, ROW), "question": (questions, QUESTION)}, [(False, 0, "", i) for i in "ab"], 1)
    assert result.kept == ["a", "b"]


def test_two_keys_remove_by_either_and_name_the_rule() -> None:
    long = chinese(10)
    ids = ["a", "b", "c", "d"]
    questions = ["何为高血压？", "何为高血压", "何为高血压危象？", "请问何为心绞痛？"]
    rows = [long + "。", chinese(11), long[:-3] + "。", chinese(12)]
    keys = {"row": (rows, ROW), "question": (questions, QUESTION)}
    result = deduplicate(ids, keys, [(False, 0, "", i) for i in ids], 1)
    assert {r.id: (r.rule, r.key, r.related_id) for r in result.removals} == {
        "b": ("exact_question", "question", "a"),
        "c": ("near_duplicate", "row", "a"),
    }
    assert result.kept == ["a", "d"]


def test_conflicts_with_a_removed_row_are_no_matter_for_review() -> None:
    long = chinese(13)
    texts = [long + "口服5mg。", long + "口服50mg。", changed(long, 2, 1) + "口服50mg。"]
    result = run(texts)
    assert len(result.kept) == 2
    assert len(result.conflicts) == 1
    assert {result.conflicts[0].a, result.conflicts[0].b} == set(result.kept)


@pytest.mark.parametrize("threshold", [0.8, 0.9])
def test_planted_pairs_at_or_above_the_threshold_are_found(threshold: float) -> None:
    params = ROW.model_copy(update={"threshold": threshold})
    bases = [chinese(1000 + i, 200) for i in range(80)]
    keys = sorted({matching_key(text) for i, base in enumerate(bases) for text in (base, changed(base, 1 + i % 4, i))})
    found = {(a, b) for a, b, _ in near_pairs(keys, params, 1)}
    sets = [shingles(key, params.shingle_size) for key in keys]
    close = [(a, b) for a in range(len(keys)) for b in range(a + 1, len(keys)) if len(np.intersect1d(sets[a], sets[b])) > 50]
    true = {pair for pair, value in zip(close, jaccards(sets, np.array(close)), strict=True) if value >= threshold}
    assert len(true) > 30
    assert found == true  # every band choice promises .999 of them, and nothing below the threshold passes
    assert bands_and_rows(threshold, params.num_perm)[1] > 4


@pytest.mark.real_data
def test_the_real_questions_hold_289_copies_and_conflicts_but_no_merge_of_other_facts(real_data) -> None:  # type: ignore[no-untyped-def]
    from medcot.records import read_jsonl

    rows = read_jsonl(real_data / "medical_o1_zh_questions.jsonl")
    result = run([row["Question"] for row in rows], QUESTION, [row["id"] for row in rows])
    assert sum(r.rule == "exact_copy" for r in result.removals) == 289
    assert len(result.kept) == 2710  # and one near-duplicate, which is one case typed twice
    assert len(result.conflicts) == 10


def test_ranks_are_plain_tuples() -> None:
    order: list[Rank] = sorted([rank(["b"], "2"), rank(["b"], "1"), rank(["完。"], "0")])
    assert [row_id for *_, row_id in order] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("口服5mg，每日一次。", "口服50mg，每日一次。"), ("可以使用该药。", "不可以使用该药。"), ("Give 5 mg daily.", "Give 50 mg daily.")],
)
def test_the_same_question_with_another_dose_or_a_negation_in_the_answer_is_a_conflict(one: str, other: str) -> None:
    """Equal questions alone would merge them, and one of two contradicting doses would be gone without a word."""
    question, reasoning = "某药的首选剂量是多少？", chinese(20)
    rows = [f"{question}\n{reasoning}\n{answer}" for answer in (one, other)]
    keys = {"row": (rows, ROW), "question": ([question, question], QUESTION)}
    result = deduplicate(["a", "b"], keys, [rank([r], i) for r, i in zip(rows, "ab", strict=True)], 1)
    assert result.kept == ["a", "b"]
    assert [(pair.key, pair.verdict) for pair in result.conflicts] == [("row", "conflict")]


def test_kept_rows_with_one_question_are_all_compared_with_later_copies() -> None:
    question, reasoning = "某药的首选剂量是多少？", chinese(21)
    rows = [f"{question}\n{reasoning}\n口服{dose}mg。" for dose in (5, 50, 500)]
    rows += [changed(rows[0], 3, 1), changed(rows[1], 3, 2)]
    ids = ["a", "b", "c", "d", "e"]
    keys = {"row": (rows, ROW), "question": ([question] * 5, QUESTION)}
    result = deduplicate(ids, keys, [(False, 0, "", i) for i in ids], 1)
    assert result.kept == ["a", "b", "c"]
    assert {r.id: r.related_id for r in result.removals} == {"d": "a", "e": "b"}


@pytest.mark.parametrize(
    ("text", "slip"),
    [
        ("一名六十岁男性患者因反复咳嗽咳痰伴活动后气促多年入院，近日受凉后症状加重并出现发热，应首先完善哪项检查？", ("咳痰", "喀痰")),
        (
            "A retired teacher reports progressive breathlessness on exertion with a productive cough over several winters, and now "
            "fever and purulent sputum after catching a cold at home last week; which investigation should be arranged first?",
            ("progressive", "progresive"),
        ),
    ],
    ids=["zh", "en"],
)
def test_a_slip_of_one_character_in_a_long_question_is_a_near_duplicate(text: str, slip: tuple[str, str]) -> None:
    result = run([text, text.replace(*slip)], QUESTION)
    assert [r.rule for r in result.removals] == ["near_duplicate"]


def test_rows_whose_question_names_no_subject_are_told_by_the_whole_row_alone() -> None:
    """该患者最可能的诊断是 points to a case that the question does not tell: rows of other cases share it word for word."""
    question = "该患者最可能的诊断是什么？"
    rows = [f"{question}\n{chinese(seed)}。" for seed in (30, 31, 30)]
    keys = {"row": (rows, ROW), "question": ([question] * 3, QUESTION)}
    result = deduplicate(["a", "b", "c"], keys, [(False, 0, "", i) for i in "abc"], 1)
    assert (result.kept, result.conflicts) == (["a", "b"], [])
    assert [(removal.id, removal.rule) for removal in result.removals] == [("c", "exact_copy")]


def test_another_question_about_the_same_case_is_not_a_slip() -> None:
    case = "一名六十岁男性患者因反复咳嗽咳痰伴活动后气促多年入院，近日受凉后症状加重并出现发热"
    result = run([f"{case}，最可能的诊断是什么？", f"{case}，首选的治疗是什么？"], QUESTION)
    assert len(result.kept) == 2
    assert [pair.detail for pair in result.conflicts] == ["wording"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("45岁", "54岁"), ("95g/L", "59g/L"), ("0.25mg", "0.52mg"), ("120/80", "210/80"), ("每12小时", "每21小时")],
)
def test_transposed_digits_are_another_number(old: str, new: str) -> None:
    text = f"患者，男，因反复上腹部疼痛三年入院，{old}，夜间加重，伴反酸、嗳气，曾自行服药后好转，首选的检查是什么？"
    result = run([text, text.replace(old, new)], QUESTION)
    assert len(result.kept) == 2
    assert "number" in result.conflicts[0].detail


@pytest.mark.parametrize(("old", "new"), [("40mg", "04mg"), ("每12小时", "每21小时")])
def test_transposed_digits_in_a_long_row_are_another_number(old: str, new: str) -> None:
    text = f"{chinese(30)}{old}{chinese(31)}"
    assert len(run([text, text.replace(old, new)], ROW).kept) == 2


def test_the_largest_cluster_is_the_one_with_most_rows() -> None:
    assert run([*[chinese(1)] * 3, *[english(2)] * 2, chinese(3)]).largest_cluster == 3


@pytest.mark.parametrize("make", [chinese, english])
def test_a_raw_text_that_brings_along_the_mark_of_choices_is_compared_as_a_whole(make: Callable[[int], str]) -> None:
    frame = make(1)[:400]
    assert run([f"{frame}\x1f{make(2)}", f"{frame}\x1f{make(3)}"]).pairs == []
    assert len(run([f"{frame}\x1f{make(2)}", f"{frame}\x1f{make(2)}!"]).removals) == 1
