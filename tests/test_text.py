"""The normalisation rules: what they fold, what they must never touch, and that once is enough."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcot.text import OPENING, RULES, apply_rule, find_control_token, normalize_text

FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)}
NUMBER = re.compile(r"\d+(?:\.\d+)*")
UNIT = re.compile(r"[mμµ]?g|m[lL]|mmol/L|×10[⁹\d]+/L|%|°C|K")
NEGATION = re.compile(r"[不无未否没非]|\b(?:no|not|without|denies)\b")
FRAGMENTS = [
    *("5", "５", "0", "．", ".", "½", "①", "x²", "H₂O", "×10⁹/L", "％", "%", "／", "/", "mg", "ｍｇ", "μg", "µg", "°C", "\u212a"),
    *("不", "无", "未见", "no", "not", "denies", "患者", "pain", "，", "（", "）", "？"),
    *(" ", "\u00a0", "\u3000", "\u2000", "\u2009", "\u200b", "\u200d", "\u00ad", "\ufeff", "\n", "\r", "\r\n", "\t", "\u2028"),
    *("e", "\u0301", "ａ", "＝", "\u0338", "👩", "\U00020000", "<", ">", "|", "＜", "＞", "｜", "think", "ｔhink", "<｜", "/", "im_start"),
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.characters(), max_size=30).map("".join)


def facts(text: str) -> Counter[str]:
    """Count numbers, units and negations as a reader sees them: whatever their width, invisible characters aside."""
    seen = unicodedata.normalize("NFC", re.sub("[\u200b\u2060\ufeff\u00ad]", "", text).translate(FULL_WIDTH))
    return Counter(match for pattern in (NUMBER, UNIT, NEGATION) for match in pattern.findall(seen))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("\ufeff体温３８．５℃，血氧９５％", "体温38.5℃，血氧95%"),
        ("服用Ａｓｐｉｒｉｎ １００ｍｇ／日", "服用Aspirin 100mg/日"),
        ("WBC 5.0×109／L", "WBC 5.0×109/L"),
        ("Ｄ－二聚体＋，pH＝7．35", "D-二聚体+，pH=7.35"),
        ("主诉：\u3000胸痛\u00a03天", "主诉： 胸痛 3天"),
        ("Dose:\u00a05\u2009mg\u202fdaily", "Dose: 5 mg daily"),
        ("no\u200b fe\u00adver\u2060", "no fever"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("诊断  \n\t\n治疗 ", "诊断\n\n治疗"),
        ("one\n\n\n\n\n\ntwo", "one\n\n\ntwo"),
        ("one\n \n\t\n \ntwo", "one\n\n\ntwo"),
        ("\n \t答案\n\n", "答案"),
        ("Sjo\u0308gren 综合征", "Sj\u00f6gren 综合征"),
        ("ａ\u0301", "\u00e1"),
        ("血钾５．\u200b５，a\u200b\u0301", "血钾5.5，\u00e1"),
    ],
)
def test_widths_spaces_lines_and_composition_are_folded(raw: str, expected: str) -> None:
    assert normalize_text(raw) == expected


@pytest.mark.parametrize(
    "text",
    [
        "白细胞 12.3×10⁹/L，面积 x² cm²，①胸痛 ②发热，½ 片，H₂O，Ca²⁺",
        "Platelets 150×10⁹/L; area x²; step ①; ½ tablet; H₂O; SpO₂",
        "剂量 5 µg 与 5 μg 不同码位",
        "5 µg (micro sign) and 5 μg (Greek mu)",
        "𠮷田综合征，𬌗关节，👩‍⚕️ 🩺",
        "emoji 👨‍👩‍👧 and ZWNJ می‌خواهم stay",
        "若 P＜0.05 且 a＞b，｜x｜",
        "全角标点：（）“”，。；？！～【】《》",
        "1．克雷伯杆菌；pH．7",
        "mild {{7*7}} {% raw %} ${HOME} %s {0} 保持原样",
        "one\n\n\ntwo，中间两个空行",
        "行首\n  缩进 and  double spaces",
    ],
)
def test_meaning_bearing_characters_stay_as_they_are(text: str) -> None:
    assert normalize_text(text) == text


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("先 <think> 再答", "<think>"),
        ("end </think> here", "</think>"),
        ("<THINK>", "<THINK>"),
        ("＜think＞", "<think>"),
        ("＜／ｔｈｉｎｋ＞", "</think>"),
        ("﹤think﹥", "<think>"),
        ("<th\u200bink>", "<think>"),
        ("a<|im_end|>b", "<|im_end|>"),
        ("<｜Assistant｜>", "<|Assistant|>"),
        ("<｜begin▁of▁sentence｜>", "<|begin▁of▁sentence|>"),
        ("<tool_call>", "<tool_call>"),
    ],
)
def test_control_tokens_and_their_cousins_are_found(text: str, token: str) -> None:
    assert find_control_token(text) == token


@pytest.mark.parametrize(
    "text", ["若 P<0.05 或 P>0.1", "a <b> c", "I think > you", "｜x｜ ＜ 5", "<| 两 个 |>", "A<|B and C|>D 之间有空格"]
)
def test_ordinary_comparison_signs_are_no_control_tokens(text: str) -> None:
    assert find_control_token(text) is None


@pytest.mark.parametrize("raw", ["<ｔｈｉｎｋ> 中文", "<／think> text", "<th\u200bink>", "<|ｉｍ_end|>５", "<\ufeff|User|>"])
def test_no_rule_creates_a_control_token(raw: str) -> None:
    folded = normalize_text(raw)
    found = [token for token in ("<think>", "</think>", "<|User|>") if token in folded]
    assert found == [token for token in ("<think>", "</think>", "<|User|>") if token in raw] == []
    assert find_control_token(folded) is not None, "what was left alone must still be refused"


def test_a_rule_that_creates_no_token_still_applies_beside_one() -> None:
    assert normalize_text("５ mg <think>") == "5 mg <think>"


def test_the_rules_have_unique_names_in_their_order() -> None:
    names = [rule.name for rule in RULES]
    assert names == ["bom", "newlines", "invisible", "width", "nfc", "spaces", "trailing_spaces", "blank_lines", "strip"]


@settings(max_examples=400, deadline=None)
@given(texts)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_text(text)
    assert normalize_text(once) == once


@settings(max_examples=400, deadline=None)
@given(texts)
def test_numbers_units_and_negations_survive_every_rule(text: str) -> None:
    for rule in RULES:
        after = apply_rule(rule, text)
        assert facts(after) == facts(text), rule.name
        text = after


@settings(max_examples=200, deadline=None)
@given(texts)
def test_a_normalised_text_has_no_more_control_tokens_than_the_raw_one(text: str) -> None:
    pattern = re.compile(r"</?think>|<\|[^<>|\s]+\|>")
    assert len(pattern.findall(normalize_text(text))) <= len(pattern.findall(text))


def test_the_reading_of_facts_notices_a_lost_digit_and_a_lost_negation() -> None:
    assert facts("5 mg 无发热") != facts("50 mg 无发热")
    assert facts("10⁹/L no pain") != facts(unicodedata.normalize("NFKC", "10⁹/L no pain"))
    assert facts("no pain") != facts("pain")


def test_no_other_character_folds_into_the_bracket_that_begins_a_control_token() -> None:
    folding = [chr(i) for i in range(sys.maxunicode + 1) if "<" in unicodedata.normalize("NFKC", chr(i))]
    assert sorted(folding) == sorted(OPENING)
    assert [find_control_token(f"痛{bracket}think>") for bracket in OPENING] == ["<think>"] * len(OPENING)


def test_a_long_run_of_spaces_costs_no_more_than_its_length() -> None:
    inside = "发热" + " " * 200_000 + "三天"
    assert normalize_text(inside) == inside  # in the square of its length this would take a minute
    assert normalize_text(inside + " \t\n" + "\t" * 200_000) == inside
