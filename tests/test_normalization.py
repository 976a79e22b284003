"""The core of normalize: every record's fate is one of kept and refused, and every change is named."""

from __future__ import annotations

import random
from typing import Any

from medcot.checks import CODES
from medcot.normalization import find_fault, normalize, normalize_record, summarise
from medcot.records import RawRecord, Record
from medcot.text import RULES, apply_rule, normalize_text

GOOD = {"question": "胸痛３小时怎么办？", "reasoning": "First rule out MI.  \n先排除心梗。", "answer": "立即做心电图。"}


def raw_record(record_id: str = "a", **fields: Any) -> RawRecord:
    return RawRecord(record_id, "test", **{**GOOD, **fields})


def broken(record_id: str, code: str = "invalid_json") -> RawRecord:
    return RawRecord(record_id, "test", error=code, detail="at byte 3", raw="{oops 坏")


def test_a_record_is_the_named_rules_applied_to_its_raw_texts() -> None:
    record, _ = normalize_record(raw_record())
    expected = dict(GOOD)
    for rule in RULES:
        expected = {name: apply_rule(rule, text) for name, text in expected.items()}
    assert record == Record("a", "test", **expected)
    assert record.question == "胸痛3小时怎么办？"


def test_each_changing_rule_is_an_event_and_the_hashes_form_a_chain() -> None:
    raw = raw_record(answer="\ufeff５\u00a0mg ")
    record, events = normalize_record(raw)
    assert isinstance(record, Record)
    assert record.answer == "5 mg"
    assert [(event.action, event.rule, event.detail) for event in events] == [
        ("changed", "bom", "answer"),
        ("changed", "width", "question, answer"),
        ("changed", "spaces", "answer"),
        ("changed", "trailing_spaces", "reasoning, answer"),
    ]
    hashes = [raw.content_hash, *(event.hash_after for event in events)]
    assert [event.hash_before for event in events] == hashes[:-1]
    assert hashes[-1] == record.content_hash
    assert len(set(hashes)) == len(hashes)


def test_a_clean_record_passes_unchanged_and_without_an_event() -> None:
    record, _ = normalize_record(raw_record())
    assert isinstance(record, Record)
    again = RawRecord(record.id, record.source, record.question, record.reasoning, record.answer)
    assert normalize_record(again) == (record, [])


def test_a_refused_record_has_one_event_and_its_raw_fields_are_kept() -> None:
    raw = raw_record(answer="心电图\x00５")
    result = normalize([raw])
    assert result.kept == []
    assert [(event.action, event.rule, event.hash_before) for event in result.events] == [
        ("refused", "control_character", raw.content_hash)
    ]
    assert result.quarantine == [
        {
            "id": "a",
            "code": "control_character",
            "detail": "answer: U+0000 at character 3",
            "source": "test",
            **GOOD,
            "answer": "心电图\x00５",
        }
    ]


def test_an_unreadable_row_goes_to_the_quarantine_with_its_raw_text() -> None:
    result = normalize([broken("b")])
    assert result.quarantine == [{"id": "b", "code": "invalid_json", "detail": "at byte 3", "source": "test", "raw": "{oops 坏"}]


def test_emptiness_and_equality_are_judged_after_normalisation() -> None:
    codes = {}
    for name, fields in {"empty": {"answer": "\u200b\u3000\n"}, "equal": {"question": "Ａ 型？", "answer": "A\u00a0型？ "}}.items():
        codes[name] = normalize([raw_record(**fields)]).quarantine[0]["code"]
    assert codes == {"empty": "empty_field", "equal": "answer_equals_question"}


def test_a_flattened_power_of_ten_is_flagged_and_stays_in() -> None:
    result = normalize([raw_record(question="WBC 5.0×109／L，正常吗？")])
    assert [(event.action, event.rule, event.detail) for event in result.events if event.action == "flagged"] == [
        ("flagged", "lost_superscript", "question: ×109/L")
    ]
    assert result.kept[0].question == "WBC 5.0×109/L，正常吗？"


def mixed() -> list[RawRecord]:
    return [
        raw_record("a"),
        raw_record("b", question="Is it flu?", reasoning="Likely.", answer="Yes."),
        raw_record("c", answer=None),
        raw_record("d", question="<think>？"),
        broken("e"),
        broken("f", "think_block"),
        raw_record("g", answer=7),
    ]


def test_the_counts_add_up_and_every_code_and_rule_has_one() -> None:
    metrics = summarise(normalize(mixed()))
    refused = sum(metrics[f"num_refused_{code}"] for code in CODES)
    assert metrics["num_input"] == metrics["num_kept"] + refused == 7
    assert metrics["num_kept"] == 2
    assert metrics["num_refused_missing_field"] == metrics["num_refused_not_text"] == metrics["num_refused_control_token"] == 1
    assert metrics["num_changed"] == 1
    assert [metrics[f"num_changed_{rule.name}"] for rule in RULES] == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert (metrics["kept_rate"], metrics["refused_rate"], metrics["unreadable_rate"], metrics["changed_rate"]) == (
        2 / 7,
        5 / 7,
        1 / 7,
        1 / 7,
    )


def test_the_order_of_the_records_changes_no_count_and_no_record() -> None:
    shuffled = mixed()
    random.Random(3).shuffle(shuffled)
    first, second = normalize(mixed()), normalize(shuffled)
    assert summarise(first) == summarise(second)
    assert sorted(first.kept, key=lambda r: r.id) == sorted(second.kept, key=lambda r: r.id)


def test_only_unreadable_rows_count_towards_the_budget() -> None:
    metrics = summarise(normalize(mixed()))
    assert find_fault(metrics, 1 / 7) is None, "a share equal to the budget is within it"
    assert find_fault(metrics, 0.14) == (
        "5 of 7 records refused (invalid_json 1, think_block 1, missing_field 1, not_text 1, control_token 1), "
        "unreadable rows are 14.29%, above normalize.max_bad_ratio 14.00%"
    )


def test_no_record_left_is_a_fault_and_no_record_at_all_divides_by_nothing() -> None:
    metrics = summarise(normalize([raw_record("a", answer=None), raw_record("b", reasoning=None)]))
    assert find_fault(metrics, 0.01) == "2 of 2 records refused (missing_field 2), no record is left"
    assert find_fault(summarise(normalize([])), 0.01) == "0 of 0 records refused (), no record is left"


def test_normalising_the_output_again_changes_nothing() -> None:
    for record in normalize(mixed()).kept:
        assert [normalize_text(text) for text in (record.question, record.reasoning, record.answer)] == [
            record.question,
            record.reasoning,
            record.answer,
        ]
