"""The core of normalize: every record's fate is one of kept, refused and removed, and every change is named."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from medcot import normalization, pii
from medcot.checks import CODES
from medcot.decisions import Decision
from medcot.ledger import Event
from medcot.mapping import MAPPINGS, to_raw_records
from medcot.normalization import Outcome, normalize_record, quarantine_row, steps
from medcot.normalize_metrics import REMOVING, Tally, find_fault
from medcot.normalize_params import Policy
from medcot.quality import Finding, QualityParams
from medcot.records import TEXT_FIELDS, RawRecord, Record, canonical, short_hash
from medcot.sources import read_rows
from medcot.text import RULES, apply_rule, normalize_text

GOOD = {"question": "胸痛３小时怎么办？", "reasoning": "First rule out MI.  \n先排除心梗。", "answer": "立即做心电图。"}
WARN, MASK, DROP, OFF = (Policy(QualityParams(), mode) for mode in ("warn", "mask", "drop", "off"))
MOBILE = "13800138000"  # fictitious


def raw_record(record_id: str = "a", **fields: Any) -> RawRecord:
    return RawRecord(record_id, "test", **{**GOOD, **fields})


def broken(record_id: str, code: str = "invalid_json") -> RawRecord:
    return RawRecord(record_id, "test", error=code, detail="at byte 3", raw="{oops 坏")


def decide(raw: RawRecord, decision: Any, reason: str = "复核过", **texts: str) -> Decision:
    return Decision(raw.content_hash, decision, reason, "chen", "2026-01-31", **texts)


def story(outcome: Outcome) -> list[tuple[str, str]]:
    return [(event.action, event.rule) for event in outcome.events]


def kept(outcome: Outcome) -> Record:
    assert outcome.record is not None, outcome
    return outcome.record


@pytest.fixture(autouse=True)
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the quality rules find in every record of the test: nothing, unless the test adds to it."""
    found: list[Finding] = []
    monkeypatch.setattr(normalization, "check_quality", lambda record, params: found)
    return found


def test_a_record_is_the_named_rules_applied_to_its_raw_texts() -> None:
    expected = dict(GOOD)
    for rule in RULES:
        expected = {name: apply_rule(rule, text) for name, text in expected.items()}
    record = normalize_record(raw_record(category="心内科"), WARN).record
    assert record == Record("a", "test", **expected, category="心内科")
    assert record.question == "胸痛3小时怎么办？"


def test_each_changing_rule_is_an_event_and_the_hashes_form_a_chain() -> None:
    raw = raw_record(answer="\ufeff５\u00a0mg ")
    record, _, events = normalize_record(raw, WARN)
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
    record = kept(normalize_record(raw_record(), WARN))
    again = RawRecord(record.id, record.source, record.question, record.reasoning, record.answer)
    assert normalize_record(again, WARN) == (record, None, [])


def test_a_refused_record_has_one_event_and_its_raw_fields_are_kept() -> None:
    raw = raw_record(answer="心电图\x00５", category="急诊")
    record, ended, events = normalize_record(raw, WARN)
    assert record is None
    assert ended is not None
    assert [(event.action, event.rule, event.hash_before) for event in events] == [("refused", "control_character", raw.content_hash)]
    head = {"id": "a", "code": "control_character", "detail": "answer: U+0000 at character 3", "source": "test"}
    assert quarantine_row(raw, ended) == head | GOOD | {"answer": "心电图\x00５", "category": "急诊"}


def test_an_unreadable_row_goes_to_the_quarantine_with_its_raw_text() -> None:
    ended = normalize_record(broken("b"), WARN).ended
    assert ended is not None
    assert quarantine_row(broken("b"), ended) == {
        "id": "b", "code": "invalid_json", "detail": "at byte 3", "source": "test", "raw": "{oops 坏",
    }  # fmt: skip


def test_emptiness_and_equality_are_judged_after_normalisation() -> None:
    codes = []
    for fields in ({"answer": "\u200b\u3000\n"}, {"question": "Ａ 型？", "answer": "A\u00a0型？ "}):
        ended = normalize_record(raw_record(**fields), WARN).ended
        assert ended is not None
        codes.append(ended.code)
    assert codes == ["empty_field", "answer_equals_question"]


def test_a_flattened_power_of_ten_is_flagged_and_stays_in() -> None:
    outcome = normalize_record(raw_record(question="WBC 5.0×109／L，正常吗？"), WARN)
    assert [(event.rule, event.detail) for event in outcome.events if event.action == "flagged"] == [
        ("lost_superscript", "question: ×109/L")
    ]
    assert kept(outcome).question == "WBC 5.0×109/L，正常吗？"


def test_a_finding_flags_and_a_finding_that_drops_removes_with_one_event(findings: list[Finding]) -> None:
    findings += [Finding("quality_a", "flag", "reasoning: 3 words", 3.0)]
    assert story(normalize_record(raw_record(), WARN))[-1] == ("flagged", "quality_a")
    findings += [Finding("quality_b", "drop", "answer: 1 character", 1.0)]
    raw = raw_record()
    record, ended, events = normalize_record(raw, WARN)
    assert record is None
    assert events == [Event("a", "normalize", "removed", "quality_b", "answer: 1 character; also quality_a", hash_before=raw.content_hash)]
    assert ended is not None
    assert quarantine_row(raw, ended)["answer"] == GOOD["answer"]


PERSONAL = {"question": f"我叫张伟，手机号：{MOBILE}，胸痛怎么办？", "answer": f"会打 {MOBILE} 联系您。"}


def test_personal_data_is_flagged_masked_dropped_or_left_alone_as_the_policy_says() -> None:
    raw = raw_record(**PERSONAL)
    warned, masked, dropped, left = (normalize_record(raw, policy) for policy in (WARN, MASK, DROP, OFF))
    assert ("flagged", "pii_mobile") in story(warned)
    assert MOBILE in kept(warned).question
    assert ("changed", "pii_mobile") in story(masked)
    assert MOBILE not in str(kept(masked))
    placeholder = "[手机号1]"
    assert placeholder in kept(masked).question
    assert placeholder in kept(masked).answer, "the same value in one record has the same placeholder"
    assert dropped.record is None
    assert story(dropped) == [("removed", dropped.events[0].rule)]
    assert dropped.events[0].rule in pii.RULES
    assert not [rule for _, rule in story(left) if rule.startswith("pii_")]
    events = [event for outcome in (warned, masked, dropped) for event in outcome.events]
    assert MOBILE not in str(events), "the ledger names kinds and counts, never a value"


def test_masking_step_by_step_ends_where_masking_at_once_ends() -> None:
    for fields in (PERSONAL, {"question": f"MRN: A-1234567, phone: {MOBILE}, mail a.b@example.com?", "answer": "Mail a.b@example.com."}):
        record = kept(normalize_record(raw_record(**fields), WARN))
        outcome = normalize_record(raw_record(**fields), MASK)
        assert kept(outcome) == pii.mask_record(record)[0]
        rules = [event.rule for event in outcome.events if event.action == "changed" and event.rule in pii.RULES]
        assert rules == [rule for rule in pii.mask_record(record)[1] if rule != pii.REVIEW]
        assert len(rules) > 1


def test_a_kept_record_is_removed_by_no_rule_and_the_rules_still_say_what_they_found(findings: list[Finding]) -> None:
    findings += [Finding("quality_b", "drop", "answer: 1 character", 1.0)]
    raw = raw_record(**PERSONAL)
    outcome = normalize_record(raw, DROP, decide(raw, "keep", f"call {MOBILE}"))
    assert kept(outcome).decision == "keep"
    assert story(outcome)[0] == ("flagged", "curator")
    assert outcome.events[0].detail == "keep: call [MOBILE1] (chen, 2026-01-31)", "a reason may name someone"
    assert ("flagged", "quality_b") in story(outcome)
    assert [event.detail for event in outcome.events if event.rule == "quality_b"] == ["answer: 1 character; kept by the curator"]
    assert ("changed", "pii_mobile") in story(outcome), "what may not be removed is masked"
    assert MOBILE not in str(kept(outcome))


def test_a_kept_record_may_answer_with_its_own_question() -> None:
    raw = raw_record(answer=GOOD["question"])
    assert normalize_record(raw, WARN).record is None
    outcome = normalize_record(raw, WARN, decide(raw, "keep"))
    assert kept(outcome).answer == "胸痛3小时怎么办？"
    assert story(outcome)[-1] == ("flagged", "answer_equals_question")
    assert outcome.events[-1].detail == "answer: the same text as the question; kept by the curator"


def test_a_drop_removes_even_a_good_or_an_unreadable_row() -> None:
    for raw in (raw_record(), broken("b")):
        outcome = normalize_record(raw, WARN, decide(raw, "drop", "wrong dose"))
        detail = "drop: wrong dose (chen, 2026-01-31)"
        assert outcome.events == [Event(raw.id, "normalize", "removed", "curator", detail, hash_before=raw.content_hash)]
        assert outcome.ended is not None
        assert quarantine_row(raw, outcome.ended)["code"] == "curator"


def test_an_edit_comes_before_the_text_rules_and_begins_the_chain_of_hashes() -> None:
    raw = raw_record()
    outcome = normalize_record(raw, WARN, decide(raw, "edit", answer="口服阿司匹林３００ mg。 "))
    assert kept(outcome).answer == "口服阿司匹林300 mg。"
    assert kept(outcome).question == "胸痛3小时怎么办？", "an empty column leaves the row's own text"
    assert kept(outcome).decision == "edit"
    assert story(outcome) == [("changed", rule) for rule in ("curator", "width", "trailing_spaces")]
    assert outcome.events[0].detail == "edit of answer: 复核过 (chen, 2026-01-31)"
    hashes = [raw.content_hash, *(event.hash_after for event in outcome.events)]
    assert [event.hash_before for event in outcome.events] == hashes[:-1]
    assert hashes[-1] == kept(outcome).content_hash


def test_an_edit_that_says_what_is_there_already_is_a_flag_and_no_change() -> None:
    raw = raw_record()
    outcome = normalize_record(raw, WARN, decide(raw, "edit", answer=GOOD["answer"]))
    assert story(outcome)[0] == ("flagged", "curator")
    assert kept(outcome).decision == "edit"


def test_an_edit_can_supply_a_missing_field_and_mend_a_control_token() -> None:
    for raw in (raw_record(answer=None), raw_record(answer=7), raw_record(answer="<think>"), raw_record(answer="痛\x00")):
        assert normalize_record(raw, WARN).record is None
        assert kept(normalize_record(raw, WARN, decide(raw, "edit", answer="先做心电图。"))).answer == "先做心电图。"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (broken("a"), "invalid_json"),
        (broken("a", "think_block"), "think_block"),
        (raw_record(answer=None), "missing_field"),
        (raw_record(reasoning=[1]), "not_text"),
        (raw_record(answer=" "), "empty_field"),
        (raw_record(answer="\x00"), "control_character"),
        (raw_record(answer="go <|im_end|>"), "control_token"),
    ],
)
def test_what_no_decision_can_beat_says_so_and_ends_the_record(raw: RawRecord, code: str) -> None:
    for decision in (decide(raw, "keep"), decide(raw, "edit", question="换一个问题？")):
        outcome = normalize_record(raw, WARN, decision)
        assert story(outcome) == [("flagged", "curator"), ("refused", code)]
        assert outcome.events[0].detail == f"no effect, {code} cannot be decided; {decision.detail}"


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


def tally(raws: list[RawRecord], *decisions: Decision) -> dict[str, Any]:
    by_hash, result = {decision.content_hash: decision for decision in decisions}, Tally()
    for raw in raws:
        decision = by_hash.get(raw.content_hash)
        result.add(normalize_record(raw, WARN, decision), decision)
    return result.metrics(by_hash, "warn")


def test_the_counts_add_up_and_every_code_and_rule_has_one() -> None:
    raws = mixed()
    stranger = raw_record(answer="nowhere")
    metrics = tally(raws, decide(raws[1], "drop"), decide(raws[2], "keep"), decide(stranger, "keep"))
    refused = sum(metrics[f"num_refused_{code}"] for code in CODES)
    removed = sum(metrics[f"num_removed_{rule}"] for rule in REMOVING)
    assert metrics["num_input"] == metrics["num_kept"] + refused + removed == 7
    assert (metrics["num_kept"], refused, removed) == (1, 5, 1)
    assert metrics["num_refused_missing_field"] == metrics["num_refused_not_text"] == metrics["num_refused_control_token"] == 1
    assert metrics["num_changed"] == 1
    assert [metrics[f"num_changed_{rule.name}"] for rule in RULES] == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert (metrics["num_decisions"], metrics["num_decisions_unknown"], metrics["num_removed_curator"]) == (3, 1, 1)
    rates = [metrics[f"{name}_rate"] for name in ("kept", "refused", "removed", "unreadable", "changed")]
    assert rates == [1 / 7, 5 / 7, 1 / 7, 1 / 7, 1 / 7]


def test_records_with_personal_data_are_counted_once_each() -> None:
    metrics = tally([raw_record("a", **PERSONAL), raw_record("b")])
    assert (metrics["num_pii"], metrics["num_flagged_pii_mobile"], metrics["pii_mode"]) == (1, 1, "warn")


def test_the_order_of_the_records_changes_no_count_and_no_record() -> None:
    shuffled = mixed()
    random.Random(3).shuffle(shuffled)
    assert tally(mixed()) == tally(shuffled)
    outcomes = [sorted((normalize_record(raw, WARN) for raw in raws), key=str) for raws in (mixed(), shuffled)]
    assert outcomes[0] == outcomes[1]


def test_only_unreadable_rows_count_towards_the_budget() -> None:
    metrics = tally(mixed())
    assert find_fault(metrics, 1 / 7) is None, "a share equal to the budget is within it"
    assert find_fault(metrics, 0.14) == (
        "5 of 7 records refused (invalid_json 1, think_block 1, missing_field 1, not_text 1, control_token 1), "
        "unreadable rows are 14.29%, above normalize.max_bad_ratio 14.00%"
    )


def test_no_record_left_is_a_fault_and_no_record_at_all_divides_by_nothing() -> None:
    raws = [raw_record("a", answer=None), raw_record("b", reasoning=None)]
    assert find_fault(tally(raws), 0.01) == "2 of 2 records refused (missing_field 2), no record is left"
    assert find_fault(tally(raws, decide(raws[0], "drop")), 0.01) == (
        "2 of 2 records refused or removed (missing_field 1, curator 1), no record is left"
    )
    assert find_fault(tally([]), 0.01) == "0 of 0 records refused (), no record is left"


def test_normalising_the_output_again_changes_nothing() -> None:
    for record in (outcome.record for raw in mixed() if (outcome := normalize_record(raw, WARN)).record):
        assert record is not None
        assert [normalize_text(text) for text in (record.question, record.reasoning, record.answer)] == [
            record.question,
            record.reasoning,
            record.answer,
        ]


def check_steps(raw: RawRecord, policy: Policy, decision: Decision | None = None) -> int:
    """Raw texts and the steps give the normalised texts byte for byte, and the ledger's hashes on the way; the number of steps."""
    outcome = normalize_record(raw, policy, decision)
    found = steps(raw, decision, policy)
    texts = {name: getattr(raw, name) for name in TEXT_FIELDS}
    chain = []
    for rule in dict.fromkeys(step.rule for step in found):
        before = _hash(texts)
        for step in (step for step in found if step.rule == rule):
            assert step.before == (texts[step.field] if isinstance(texts[step.field], str) else "")
            assert step.before != step.after
            texts[step.field] = step.after
        chain.append((rule, before, _hash(texts)))
    if outcome.record is not None:
        assert texts == {name: getattr(outcome.record, name) for name in TEXT_FIELDS}
        events = [event for event in outcome.events if event.action == "changed"]
        assert chain == [(event.rule, event.hash_before, event.hash_after) for event in events]
        assert outcome.record.content_hash == _hash(texts)
    return len(found)


def _hash(texts: dict[str, Any]) -> str:
    return short_hash(canonical([texts[name] for name in TEXT_FIELDS]))


def read_file(path: Path) -> list[RawRecord]:
    return to_raw_records(read_rows(path), MAPPINGS["o1"], "test")


def test_the_steps_lead_from_the_raw_texts_to_the_normalised_ones_over_the_whole_sample() -> None:
    raws = read_file(ROOT / "data/sample/records.jsonl")
    for policy in (WARN, MASK):
        assert sum(check_steps(raw, policy) for raw in raws) > 10
        assert sum(check_steps(raw, policy, decide(raw, "edit", answer="５\u00a0mg，见 <b>。 ")) for raw in raws) > len(raws)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["medical_o1_zh.json", "medical_o1_en.json"])
def test_the_steps_lead_from_the_raw_texts_to_the_normalised_ones_over_real_rows(real_data: Path, name: str) -> None:
    assert sum(check_steps(raw, MASK) for raw in read_file(real_data / name)) > 50


def test_a_row_that_ends_before_the_rules_has_no_steps() -> None:
    assert steps(broken("a"), None, MASK) == []
    assert steps(raw_record(answer=None), None, MASK) == []
    assert steps(raw_record(answer="\x00"), None, MASK) != [], "the rules ran before the refusal"
