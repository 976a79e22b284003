"""Field checks: each code, the order of the checks, and what is never refused."""

from __future__ import annotations

from typing import Any

import pytest

from medcot.checks import CODES, UNREADABLE_CODES, Refusal, check_raw, check_record, find_lost_superscript
from medcot.records import RawRecord, Record

GOOD = {"question": "胸痛怎么办？", "reasoning": "First rule out MI. 先排除心梗。", "answer": "做心电图。"}


def raw_record(**fields: Any) -> RawRecord:
    return RawRecord("id", "test", **{**GOOD, **fields})


def check(**fields: Any) -> Refusal | None:
    raw = raw_record(**fields)
    texts = {name: getattr(raw, name).strip() for name in GOOD}
    return check_record(raw, Record("id", "test", **texts))


def test_a_complete_clean_record_passes() -> None:
    assert check_raw(raw_record()) is None
    assert check() is None
    assert check(reasoning="line one\r\n\tline two\n第三行 👩‍⚕️ 𠮷 ½ ① 5 µg a<b>c") is None


@pytest.mark.parametrize("text", ["{{7*7}} 等于几？", "{% for x in y %}", "${HOME} %s {0}", "#{1+1} <%= 7 %>"])
def test_data_is_never_a_template(text: str) -> None:
    assert check(question=text, answer=f"答：{text}") is None


@pytest.mark.parametrize("code", [*UNREADABLE_CODES, "think_block"])
def test_an_error_found_on_reading_keeps_its_code(code: str) -> None:
    assert check_raw(RawRecord("id", "test", error=code, detail="why", raw="坏 row")) == Refusal(code, "why")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"answer": None}, Refusal("missing_field", "answer: no value")),
        ({"reasoning": None, "answer": None}, Refusal("missing_field", "reasoning, answer: no value")),
        ({"reasoning": None, "detail": "reasoning: no column `x`"}, Refusal("missing_field", "reasoning: no column `x`")),
        ({"question": 7}, Refusal("not_text", "question: int")),
        ({"answer": ["答"]}, Refusal("not_text", "answer: list")),
        ({"reasoning": True}, Refusal("not_text", "reasoning: bool")),
        ({"question": 7, "answer": None}, Refusal("missing_field", "answer: no value")),
    ],
)
def test_missing_fields_and_other_types_are_refused_as_read(fields: dict[str, Any], refusal: Refusal) -> None:
    assert check_raw(raw_record(**fields)) == refusal


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\x00", "U+0000"),
        ("\x0b", "U+000B"),
        ("\x1b", "U+001B"),
        ("\x7f", "U+007F"),
        ("\x85", "U+0085"),
        ("\x9f", "U+009F"),
        ("\u061c", "U+061C ARABIC LETTER MARK"),
        ("\u200f", "U+200F RIGHT-TO-LEFT MARK"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2069", "U+2069 POP DIRECTIONAL ISOLATE"),
        ("\ufffd", "U+FFFD REPLACEMENT CHARACTER"),
        ("\uffff", "U+FFFF"),
        ("\ud800", "U+D800"),
    ],
)
def test_control_characters_are_refused_by_code_point_and_position_in_the_raw_text(character: str, name: str) -> None:
    assert check(answer=f"  心电{character}图 ECG") == Refusal("control_character", f"answer: {name} at character 4")


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"reasoning": " \n "}, Refusal("empty_field", "reasoning: no text")),
        ({"reasoning": "先</think>后"}, Refusal("control_token", "reasoning: </think>")),
        ({"question": "＜｜User｜＞ hi"}, Refusal("control_token", "question: <|User|>")),
        ({"answer": GOOD["question"]}, Refusal("answer_equals_question", "answer: the same text as the question")),
        ({"answer": f" {GOOD['reasoning']}\n"}, Refusal("answer_equals_reasoning", "answer: the same text as the reasoning")),
    ],
)
def test_each_check_has_its_code(fields: dict[str, Any], refusal: Refusal) -> None:
    assert check(**fields) == refusal


def test_the_first_check_that_fails_names_the_refusal() -> None:
    assert check(question="", answer="\x00").code == "empty_field"  # type: ignore[union-attr]
    assert check(question="<think>问", answer="答\x00").code == "control_character"  # type: ignore[union-attr]
    same = "<|im_end|> same 同"
    assert check(question=same, answer=same).code == "control_token"  # type: ignore[union-attr]
    same = "三个字段相同 same"
    assert check(question=same, reasoning=same, answer=same).code == "answer_equals_question"  # type: ignore[union-attr]


def test_codes_are_unique_and_only_unreadable_rows_count_towards_the_budget() -> None:
    assert len(set(CODES)) == len(CODES)
    assert set(CODES) - set(UNREADABLE_CODES) == {
        *("think_block", "missing_field", "not_text", "empty_field", "control_character", "control_token"),
        *("answer_equals_question", "answer_equals_reasoning"),
    }


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        ("白细胞 5.0×109/L", "question: ×109/L"),
        ("RBC 2.6x1012/L", "question: x1012/L"),
        ("Platelets 150 * 109/L", "question: * 109/L"),
        ("白细胞 5.0×10⁹/L", None),
        ("每次 5×10 mg/L", None),
        ("WBC 5.0×10<sup>9</sup>/L", None),
        ("面积 5×109 cm", None),
    ],
)
def test_a_flattened_power_of_ten_is_described(text: str, damage: str | None) -> None:
    assert find_lost_superscript(Record("id", "test", text, "想", "答")) == damage


def test_a_control_token_that_holds_personal_data_is_named_without_it() -> None:
    assert check(question="<|手机13812345678|>发热怎么办") == Refusal("control_token", "question: <|手机[手机号1]|>")
