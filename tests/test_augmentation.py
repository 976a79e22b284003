"""Augmentation: what a synthetic row must keep, where it can never stand, and that every one of them is accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest

from medcot.augmentation import REFUSALS, Augmented, augment, get_hooks
from medcot.errors import DataError
from medcot.guard import compare
from medcot.hooks import HOOKS, Texts, question_punctuation
from medcot.ledger import Event
from medcot.matching import matching_key
from medcot.records import Record
from medcot.splits import Split

ZH = "患者男，57岁，无发热；服用阿司匹林0.5 mg，3天后左膝肿痛。首先考虑什么？"
EN = "A man of 57, without fever, has had a swollen left knee for 3 days after 0.5 mg of colchicine. What is likely?"


def record(i: int = 1, question: str = ZH, reasoning: str = "先想，再看。Think first.", answer: str = "痛风，先检查。Gout.") -> Record:
    return Record(f"{i:016x}", "test", question, reasoning, answer, category="内科")


def in_train(question: str) -> Split:
    return "train"


def audit(records: Sequence[Record]) -> tuple[Mapping[str, Event], Mapping[str, int]]:
    """Passes every row but those marked as bad."""
    stopped = {r.id: Event(r.id, "convert", "refused", "target_mismatch", num_tokens=9) for r in records if "【坏】" in r.answer}
    return stopped, {r.id: 9 for r in records}


def politely(question: str, reasoning: str, answer: str) -> Texts | None:
    return f"您好，请问医生：{question}", reasoning, answer


def made(train: list[Record], hook: object, held_out: Sequence[Record] = (), assign: object = in_train) -> Augmented:
    return augment(train, held_out, {"mine": hook}, assign, audit)  # type: ignore[dict-item, arg-type]


def test_a_synthetic_row_names_parent_and_hook_in_its_id_its_source_and_the_ledger() -> None:
    result = made([record()], politely)
    (row,) = result.rows
    parent = record().id
    assert (row.id, row.source, row.category) == (f"{parent}-aug-mine", "augment:mine", "内科")
    assert row.question == f"您好，请问医生：{ZH}"
    assert result.hooks == {row.id: "mine"}
    assert result.events == [
        Event(row.id, "convert", "read", "synthetic", "mine", parent, source="augment:mine"),
        Event(row.id, "convert", "kept", "kept", None, parent, split="train", num_tokens=9),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [("57岁", "75岁"), ("0.5 mg", "5 mg"), ("无发热", "有发热"), ("左膝", "右膝"), ("男，", "女，"), ("0.5 mg", "0.5 ml"), ("3天", "天")],
)
@pytest.mark.parametrize("field", [0, 1, 2])
def test_another_fact_in_any_of_the_three_texts_is_refused(old: str, new: str, field: int) -> None:
    def change(*texts: str) -> Texts:
        return tuple(text.replace(old, new) if i == field else text for i, text in enumerate(texts))  # type: ignore[return-value]

    result = made([record(question=ZH, reasoning=ZH + "想。", answer=ZH + "答。")], change)
    assert (result.rows, result.num_refused) == ([], 1)
    assert result.events[-1].rule == "synthetic_fact"


@pytest.mark.parametrize(("old", "new"), [("57", "75"), ("without", "with"), ("left", "right"), ("0.5 mg", "0.5 g")])
def test_another_fact_is_refused_in_english_too(old: str, new: str) -> None:
    result = made([record(question=EN)], lambda q, r, a: (q.replace(old, new), r, a))
    assert [event.rule for event in result.events] == ["synthetic", "synthetic_fact"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_question_that_the_hash_gives_to_val_or_test_never_joins(split: Split) -> None:
    result = made([record()], politely, assign=lambda question: split if question.startswith("您好") else "train")
    assert [event.rule for event in result.events] == ["synthetic", "synthetic_split"]
    assert result.rows == []


@pytest.mark.parametrize(
    "held_out",
    [
        record(7, question=ZH.replace("首先考虑什么", "该怎么办")),
        record(7, question="另一个完全不同的问题，讲的是别的事？"),
    ],
    ids=["near by question", "near by whole row"],
)
def test_a_row_near_one_of_val_or_test_never_joins(held_out: Record) -> None:
    long = "先想。" + " ".join(f"finding {chr(97 + i // 20)}{chr(97 + i % 20)}" for i in range(200))
    parent = Record("a" * 16, "test", ZH, long, "答案是痛风。")
    other = Record(held_out.id, "test", held_out.question, long, "答案是痛风。")
    assert made([parent], lambda q, r, a: (q, r, a + "请就医。"), [other]).events[-1].rule == "synthetic_near"
    assert made([parent], lambda q, r, a: (q, r, a + "请就医。"), []).events[-1].action == "kept"


def test_the_audit_stops_a_row_with_its_own_rule() -> None:
    result = made([record(answer="痛风。")], lambda q, r, a: (q, r, a + "【坏】"))
    assert [event.rule for event in result.events] == ["synthetic", "target_mismatch"]
    assert result.events[-1].related_id == record().id


def test_a_row_that_says_nothing_new_is_a_copy() -> None:
    hooks = {"one": politely, "two": politely, "same": lambda q, r, a: (q, r, a)}
    result = augment([record()], [], hooks, in_train, audit)  # type: ignore[arg-type]
    assert {event.id.rpartition("-")[2]: event.rule for event in result.events if event.action != "read"} == {
        "one": "kept",
        "two": "synthetic_copy",
        "same": "synthetic_copy",
    }


def test_every_row_that_is_made_is_read_once_and_ends_once() -> None:
    train = [record(i, f"第{i}问：{'胸痛' if i % 2 else 'chest pain'} {i} 天？") for i in range(1, 30)]
    result = made(train, lambda q, r, a: None if q.startswith("第7") else (q.replace("3", "4") if "3" in q else f"请问，{q}", r, a))
    reads = [event.id for event in result.events if event.action == "read"]
    ends = [event.id for event in result.events if event.action in ("kept", "refused", "removed")]
    assert sorted(reads) == sorted(ends) == sorted(set(reads))
    assert len(reads) == 28 == len(result.rows) + result.num_refused
    assert {event.rule for event in result.events} <= {"synthetic", "kept", *REFUSALS}


def test_no_hook_makes_no_row() -> None:
    assert augment([record()], [], {}, in_train, audit) == Augmented()


@pytest.mark.parametrize("texts", [("", "想", "答"), ("问", "想"), ("问", "想", None)])
def test_a_hook_that_gives_no_three_texts_is_named(texts: object) -> None:
    with pytest.raises(
        DataError, match=r"medcot/hooks.py: mine: the hook gave something other than three texts that are not empty, got 0{15}1"
    ):
        made([record()], lambda q, r, a: texts)


def test_hooks_are_found_by_name_in_the_order_given() -> None:
    assert list(get_hooks(["question_punctuation"])) == ["question_punctuation"]
    assert get_hooks([]) == {}
    with pytest.raises(DataError, match=r"convert.augment: no such hook, got back_translation; known are question_punctuation; add yours"):
        get_hooks(["back_translation"])
    with pytest.raises(DataError, match="a hook stands twice, got question_punctuation; name it once"):
        get_hooks(["question_punctuation"] * 2)


# --- the hook that is shipped ---


@pytest.mark.parametrize(
    ("question", "typed"),
    [
        ("胸痛，发热；怎么办？", "胸痛,发热;怎么办?"),
        ("剂量为3，5天后复查", None),
        ("服用0.5 mg，3天后肿痛", None),
        ("T细胞（CD4）减少，为什么？", "T细胞（CD4）减少,为什么?"),
        ("Is it gout, or not?", None),
        ("发热（低热），怎么办？", "发热（低热），怎么办?"),
    ],
)
def test_half_width_punctuation_is_typed_between_chinese_characters_only(question: str, typed: str | None) -> None:
    assert question_punctuation(question, "想，", "答，") == (None if typed is None else (typed, "想，", "答，"))


@pytest.mark.parametrize(
    "text", [ZH, "10⁹/L，血压（120/80 mmHg）；无发热，左侧，＞3天？", "每日3次，每次0.5 g；孕妇禁用，儿童减半。为什么？"]
)
def test_the_shipped_hook_changes_no_fact_and_not_even_the_matching_key(text: str) -> None:
    for function in HOOKS.values():
        texts = function(text, text, text)
        assert texts is not None
        for new in texts:
            assert matching_key(new) == matching_key(text)
            assert compare(matching_key(new), matching_key(text), 0).kinds == ()
            assert re.findall(r"[0-9⁰-⁹.％%]+", new) == re.findall(r"[0-9⁰-⁹.％%]+", text)
    again = question_punctuation(*texts)
    assert again is None
