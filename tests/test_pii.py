"""Personal data: what is found, what only looks like it, and masks that keep every other character."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pii import evaluate, read_cases, table
from medcot.pii import (
    KINDS,
    MANY_VALUES,
    REVIEW,
    RULES,
    Hit,
    Numbering,
    PiiParams,
    effective_mode,
    find,
    find_all,
    find_record,
    mask,
    mask_record,
    masked,
)
from medcot.pii_rules import is_identity_number, is_luhn
from medcot.records import Record
from medcot.text import normalize_text

CASES = read_cases()
# Floors over all cases; the measured values stand in docs/curation.md.
MIN_PRECISION, MIN_RECALL = 0.97, 0.97


def found(text: str) -> list[tuple[str, str]]:
    return [(hit.kind, text[hit.start : hit.end]) for hit in find(text)]


def record(question: str, reasoning: str = "先想一想。", answer: str = "答。") -> Record:
    return Record("id", "test", question, reasoning, answer)


def test_the_cases_are_many_split_in_two_and_mostly_look_alikes() -> None:
    assert len(CASES) >= 360
    assert sum(not case["spans"] for case in CASES) >= len(CASES) / 2
    assert {case["half"] for case in CASES} == {"dev", "held"}
    assert {case["lang"] for case in CASES} == {"zh", "en"}
    assert {kind for case in CASES for kind, *_ in case["spans"]} == set(KINDS)
    assert len({case["text"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("half", ["dev", "held"])
def test_precision_and_recall_stay_above_their_floors(half: str) -> None:
    scores = evaluate(read_cases(half))
    total_found = sum(score.found for score in scores.values())
    assert total_found / (total_found + sum(score.wrong for score in scores.values())) >= MIN_PRECISION, table(scores)
    assert total_found / (total_found + sum(score.missed for score in scores.values())) >= MIN_RECALL, table(scores)
    assert all(score.found for score in scores.values()), table(scores)


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("身份证号99999919010203004X。", [("id_number", "99999919010203004X")]),
        ("患者张三，男，45岁，因咳嗽入院。", [("name", "张三")]),
        ("Patient name: John Smith, MRN 00123456.", [("name", "John Smith"), ("record_number", "00123456")]),
        ("手机１５４００００００１２。", [("mobile", "１５４００００００１２")]),
        ("请发 a.b@example.com，或电话010-00001234转801。", [("email", "a.b@example.com"), ("phone", "010-00001234转801")]),
        ("住院号：00001234，床号：12。", [("record_number", "00001234"), ("record_number", "12")]),
    ],
)
def test_personal_data_is_found_with_its_exact_place(text: str, hits: list[tuple[str, str]]) -> None:
    assert found(text) == hits


@pytest.mark.parametrize(
    "text",
    [
        "张力性气胸、王不留行、周围神经、白细胞、高血压。",
        "患者高热3天，白细胞12.5×10^9/L。",
        "国药准字H20013413，每次5-10 mg，血压138/86 mmHg。",
        "急救120，火警119，卫生热线12320。",
        "DOI: 10.1000/xyz123456789012，PMID: 15400000123。",
        "A condition called Wolff Parkinson White syndrome; the MRN complex (MRE11-RAD50-NBS1).",
    ],
)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert found(text) == []
    assert masked(text) == text


def test_check_digits_have_their_closed_forms() -> None:
    assert is_identity_number("11010519491231002X")  # the example of GB 11643-1999
    assert sum(is_identity_number("11010519491231002" + c) for c in "0123456789X") == 1
    assert is_luhn("79927398713")  # the example of the algorithm's patent
    assert [is_luhn(f"7992739871{digit}") for digit in range(10)].count(True) == 1


def test_an_identity_number_with_a_wrong_check_digit_or_an_unknown_region_goes_to_review() -> None:
    numbers = ["320102204501012" + f"{i:02d}" for i in range(100)]
    checked = [number + digit for number in numbers for digit in "0123456789X" if is_identity_number(number + digit)]
    assert len(checked) == 100
    assert find(f"病人{checked[0]}。") == [Hit("id_number", 2, 20, True)]
    wrong = checked[0][:-1] + ("1" if checked[0][-1] != "1" else "2")
    assert find(f"病人{wrong}。") == [Hit("id_number", 2, 20, False)]
    assert find("病人99999919010203004X。") == [Hit("id_number", 2, 20, False)]
    assert find("编号为202311050000123456的样本") == []
    assert find(f"身份证{wrong}。") == [Hit("id_number", 3, 21, True)]  # its label makes up for the check digit


def test_a_bare_card_number_needs_its_check_digit_and_a_labelled_one_without_goes_to_review() -> None:
    numbers = [f"622200000000123{i:03d}0" for i in range(10)]
    cards = [number[:-1] + digit for number in numbers for digit in "0123456789"]
    assert [bool(find(f"付款{card}。")) for card in cards] == [is_luhn(card) for card in cards]
    assert {hit.certain for card in cards if is_luhn(card) for hit in find(f"付款{card}。")} == {True}
    assert [find(f"银行卡号{card}。")[0].certain for card in cards] == [is_luhn(card) for card in cards]


def test_a_bare_number_of_a_mobile_is_uncertain_and_a_labelled_or_grouped_one_is_certain() -> None:
    assert [hit.certain for hit in find("咳嗽，15400000012，谢谢")] == [False]
    assert [hit.certain for hit in find("咳嗽，154-0000-0012，谢谢")] == [True]
    assert [hit.certain for hit in find("手机15400000012，谢谢")] == [True]
    assert [hit.certain for hit in find("see 15400000012 today")] == [False]
    assert find("细胞15400000012个") == find("批号15400000012") == find("0.15400000012") == []


def test_a_value_known_from_one_text_is_found_in_the_others_without_its_label() -> None:
    question, reasoning, answer = "姓名：赵丽华，住院号00451267。", "赵丽华的住院号是多少？00451267。", "00451267x 与 赵丽华"
    hits = find_all([question, reasoning, answer])
    assert [hit.kind for hit in hits[1]] == ["name", "record_number"]
    assert [answer[hit.start : hit.end] for hit in hits[2]] == ["赵丽华"]  # 00451267x is another code
    assert find(answer) == []


def test_a_record_is_masked_with_the_same_placeholder_for_the_same_value() -> None:
    row = record("患者张三，男，45岁，手机154-0000-0012。", "张三的电话是+86 15400000012，还有15400000034。", "请拨15400000034。")
    result, counts = mask_record(row)
    assert result.question == "患者[姓名1]，男，45岁，手机[手机号1]。"
    assert result.reasoning == "[姓名1]的电话是[手机号1]，还有[手机号2]。"
    assert result.answer == "请拨[手机号2]。"
    assert counts == {"pii_mobile": 4, "pii_name": 2}
    assert list(counts) == [rule for rule in (*RULES, REVIEW) if rule in counts]


def test_english_records_have_english_placeholders() -> None:
    row = record("Patient name: Mary Jones. Call her mobile 15400000012.", "Mary Jones has a cough.", "Rest.")
    result, counts = mask_record(row)
    assert result.question == "Patient name: [NAME1]. Call her mobile [MOBILE1]."
    assert result.reasoning == "[NAME1] has a cough."
    assert counts == {"pii_mobile": 1, "pii_name": 2}


def test_a_placeholder_that_is_already_there_is_not_given_out_again() -> None:
    text = "旧：[手机号1]，新：手机15400000012。"
    assert masked(text) == "旧：[手机号1]，新：手机[手机号2]。"
    numbering = Numbering(text)
    assert mask(text, numbering) == mask(text, numbering) == masked(text)


def test_raw_texts_are_masked_as_well_with_what_is_invisible_or_oddly_wide_inside() -> None:
    assert masked("手机154\u200b0000\u00ad0012\u200b。") == "手机[手机号1]\u200b。"
    assert masked("手机\u3000１５４－００００－００１２") == "手机\u3000[手机号1]"
    assert masked("姓\u200b名：赵\ufeff丽华。") == "姓\u200b名：[姓名1]。"
    assert masked("Call 𝟏𝟓𝟒\u2009𝟎𝟎𝟎𝟎\u2009𝟎𝟎𝟏𝟐 now") == "Call [MOBILE1] now"
    assert masked("手机154\u200b0000 0012，15400000012") == "手机[手机号1]，[手机号1]"


def test_overlapping_hits_become_one_of_the_first_kind() -> None:
    text = "微信同号：手机 154 0000 0012"
    hits = find(text)
    assert [hit.kind for hit in hits] == ["mobile"]
    assert all(a.end <= b.start for a, b in pairwise(hits))


def test_what_the_ledger_gets_names_rules_fields_and_counts_only() -> None:
    row = record("手机15400000012，另有15400000099。", "无。", "住院号：00001234")
    assert [(f.rule, f.certain, f.detail) for f in find_record(row)] == [
        ("pii_mobile", True, "question × 1"),
        ("pii_record_number", True, "answer × 1"),
        (REVIEW, False, "pii_mobile: question × 1"),
    ]
    assert not re.search(r"\d{3}", " ".join(found.detail for found in find_record(row)))
    assert mask_record(row)[1] == {"pii_mobile": 2, "pii_record_number": 1, REVIEW: 1}
    clean = record("高血压患者首选哪类药物？")
    assert (find_record(clean), mask_record(clean)) == ([], (clean, {}))


@pytest.mark.parametrize(
    ("mode", "source", "result"), [("auto", "file", "mask"), ("auto", "hub", "warn"), ("auto", "sample", "warn"), ("drop", "hub", "drop")]
)
def test_auto_masks_files_and_warns_for_what_is_public(mode: str, source: str, result: str) -> None:
    assert effective_mode(PiiParams.model_validate({"mode": mode}), source) == result


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case["text"][:12])
def test_masking_keeps_all_other_characters_and_masking_again_changes_nothing(case: dict) -> None:  # type: ignore[type-arg]
    text = case["text"]
    once = masked(text)
    assert masked(once) == once
    parts, end = [], 0
    for hit in find(text):
        parts.append(text[end : hit.start])
        end = hit.end
    parts.append(text[end:])
    assert re.fullmatch(r"\[[^\[\]\d]+\d+\]".join(re.escape(part) for part in parts), once, re.DOTALL)


PIECES = (
    "患者|张三|，男|手机|15400000012|138 0000 0012|住院号：|00001234|010-00001234|转8|a@b.cn| |-|1|x|号|微信|：|[手机号1]|身份证"
    "|320102204501012142|62|家住|和平路3号|5室|医生|QQ|MRN |Name: John Smith|（|.|床号|3|我叫|王静|主治医师|阳光小区8栋"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES.split("|")), max_size=14))
def test_masking_is_idempotent_and_ordered_whatever_stands_together(pieces: list[str]) -> None:
    text = "".join(pieces)
    hits = find(text)
    assert all(0 <= hit.start < hit.end <= len(text) and hit.kind in KINDS for hit in hits)
    assert all(a.end <= b.start for a, b in pairwise(hits))
    once = masked(text)
    assert masked(once) == once


def test_every_planted_item_of_the_sample_is_found_and_nothing_else() -> None:
    root = Path(__file__).resolve().parent.parent / "data/sample"
    planted = {
        int(line.split(",")[0]) for line in (root / "manifest.csv").read_text(encoding="utf-8").splitlines() if ",personal_data," in line
    }
    hit = set()
    for number, line in enumerate((root / "records.jsonl").read_text(encoding="utf-8").splitlines(), start=1):
        if find(line):
            hit.add(number)
    assert hit == planted


@pytest.mark.real_data
def test_published_questions_hold_next_to_nothing(real_data: Path) -> None:
    rows = json.loads((real_data / "medical_o1_zh.json").read_text(encoding="utf-8"))
    rows += json.loads((real_data / "medical_o1_en.json").read_text(encoding="utf-8"))
    hits = [hit for row in rows for value in row.values() for hit in find(normalize_text(value))]
    assert hits == []


@pytest.mark.parametrize("digits", ["٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "０１２３４５６７８９"])
def test_numbers_in_the_digits_of_another_script_are_numbers(digits: str) -> None:
    table = {ord("0") + i: digit for i, digit in enumerate(digits)}
    assert masked("手机" + "13812345678".translate(table)) == "手机[手机号1]"
    assert masked("患者 11010519491231" + "002".translate(table) + "X 复诊") == "患者 [身份证号1] 复诊"  # also where only some are


@pytest.mark.parametrize("label", ["id ", "ID: ", "ID number ", "ID no. ", "His ID is ", "患者ID："])
def test_an_identity_number_is_found_after_the_word_id(label: str) -> None:
    assert masked(f"{label}11010519491231002X") == label + ("[ID1]" if label.isascii() else "[身份证号1]")


def test_another_number_after_the_word_id_is_left_alone() -> None:
    assert masked("Probe ID: 110105194912310021") == "Probe ID: 110105194912310021"  # its last digit is not the check digit


def test_a_list_of_many_numbers_is_masked_like_a_few() -> None:
    assert MANY_VALUES < 200
    text = "，".join(f"手机1381{number:07d}" for number in range(200))
    known = "1381" + "0000007 又见 13810000007x"
    assert masked(text) == "，".join(f"手机[手机号{number + 1}]" for number in range(200))
    few, many = (masked(f"{some}。{known}") for some in (text[: 16 * 10], text))
    assert few.endswith("。[手机号8] 又见 13810000007x")
    assert many.endswith("。[手机号8] 又见 13810000007x")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("手机：197.0849.1796", "mobile", "197.0849.1796"),
        ("mobile 197.0849.1796", "mobile", "197.0849.1796"),
        ("病历号:87-33412，主诉：腹痛", "record_number", "87-33412"),
        ("军官证号军字第2001988号", "passport", "军字第2001988"),
        ("户籍地址河南省信阳市固始县李庄村6组", "address", "河南省信阳市固始县李庄村6组"),
        ("住院医师韩雪/值班护士", "name", "韩雪"),
        ("请罗永平主任会诊", "name", "罗永平"),
        ("家属宋国强签字同意手术", "name", "宋国强"),
    ],
)
def test_values_in_less_usual_forms_are_found(text: str, kind: str, value: str) -> None:
    assert (kind, value) in found(text)


@pytest.mark.parametrize(
    "text", ["比重1.0201.0304", "请科主任会诊", "由主任查房", "家属陪同签字", "病历号待补", "137.5000.25 mg", "dose 13.5000.2500"]
)
def test_what_is_near_such_forms_is_left_alone(text: str) -> None:
    assert found(text) == []
