"""The labelled pairs of real questions: the fixture is well-formed, and what dedup says of the half that nothing was tuned on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.pairs import (
    LABELS,
    QUESTIONS,
    REWORDED,
    STEMS,
    WITH_OPTIONS,
    Judged,
    LabelledPair,
    half_of,
    judge,
    precision_and_recall,
    read_pairs,
    read_texts,
    report,
    verdict,
    with_choices,
)
from medcot.neardup import QUESTION

KINDS = {
    "same": {"ocr", "punctuation", "variant", "options_listed", "paraphrase", "shortened"},
    "other_fact": {
        "other_number", "other_sex", "other_question", "other_word", "other_options", "shared_options", "negation", "opposite",
    },
    "unrelated": {"frame"},
}  # fmt: skip


def test_the_fixture_holds_labels_and_ids_and_no_text() -> None:
    pairs = read_pairs()
    assert len(pairs) >= 150
    assert len({(p.dataset_a, p.id_a, p.dataset_b, p.id_b) for p in pairs}) == len(pairs)
    for pair in pairs:
        assert {pair.dataset_a, pair.dataset_b} <= {QUESTIONS, STEMS, WITH_OPTIONS}
        assert (pair.dataset_a, pair.id_a) != (pair.dataset_b, pair.id_b)
        assert pair.kind in KINDS[pair.label]
        assert all(field.isascii() for field in pair)
    assert all(Counter(pair.label for pair in pairs if pair.half == half)[label] >= 50 for half in ("tune", "report") for label in LABELS)


def test_the_half_of_a_pair_is_a_hash_of_its_first_id() -> None:
    assert all(pair.half == half_of(pair.dataset_a, pair.id_a) for pair in read_pairs())
    assert half_of(STEMS, "1006") == half_of(WITH_OPTIONS, "1006") == "tune"


def test_precision_and_recall_count_duplicates_and_same_pairs() -> None:
    def judged(label: str, said: str) -> Judged:
        return Judged(LabelledPair(STEMS, "1", STEMS, "2", label, "ocr", "report"), said, "", 1.0, 1.0)

    rows = [judged("same", "duplicate"), judged("same", "conflict"), judged("other_fact", "duplicate"), judged("unrelated", "not found")]
    assert precision_and_recall(rows) == (1, 2, 2)
    printed = "\n".join(report(rows))
    assert "report: precision 1/2 = 0.500 [0.095, 0.905], recall 1/2 = 0.500 [0.095, 0.905]" in printed
    assert "tune" not in printed


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("瞳孔缩小见于哪种中毒？", "瞳孔缩小见于哪一种中毒", "duplicate"),
        ("44岁男性胸痛三小时，首选检查是什么", "45岁男性胸痛三小时，首选检查是什么", "conflict"),
        ("胸痛的首选检查", "妊娠期如何补铁", "not found"),
    ],
)
def test_a_verdict_is_that_of_the_question_key(one: str, other: str, expected: str) -> None:
    assert verdict(one, other, QUESTION)[0] == expected
    assert verdict(one, other, QUESTION) == verdict(other, one, QUESTION)


def test_choices_are_listed_as_a_question_lists_them() -> None:
    assert with_choices("诊断是", ["甲", "乙"]) == "诊断是\nA. 甲\nB. 乙"


@pytest.mark.real_data
def test_on_the_report_half_no_other_case_goes_and_most_copies_typed_twice_do(real_data: Path) -> None:
    rows = [row for row in judge(read_pairs(), read_texts(real_data)) if row.pair.half == "report"]
    right, found, _ = precision_and_recall(rows)
    assert found == right >= 18
    near = [row for row in rows if row.pair.label == "same" and row.pair.kind not in REWORDED and row.jaccard >= QUESTION.threshold]
    assert sum(row.verdict == "duplicate" for row in near) / len(near) >= 0.5
