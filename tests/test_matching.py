"""The matching key forgets typing and remembers facts; its shingles are right in every script."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcot.matching import atoms, choices, jaccards, matching_key, shingles, tokens
from medcot.matching import stem as stem_of

SAME = [
    ("女性，40岁。因饱食后腹痛，查体：全腹压痛", "女性,40岁,因饱食后腹痛。查体:全腹压痛"),
    ("Chest pain, 5 mg daily.", "chest PAIN 5mg daily"),
    ("ＷＢＣ　１２．５", "WBC 12.5"),
    ("脉搏106次／分", "脉搏106次/min"),
    ("口服5毫克", "口服 5 mg"),
    ("PaCO<sub>2</sub> 35mmHg", "PaCO₂ 35 mmHg"),
    ("白细胞5.0×10<sup>9</sup>/L", "白细胞 5.0x10⁹/L"),
    ("白细胞5.0*10^9/L", "白细胞 5.0×10⁹/L"),
    ("HCO<sub>3</sub><sup>-</sup> 15 mmol/L", "HCO₃⁻ 15mmol/L"),
    ("病史十年", "病史10年"),
    ("住院二十天，一百二十次", "住院20天,120次"),
    ("尿量5～10毫升", "尿量5-10ml"),
    ("烦燥不安的病人", "烦躁不安的患者"),
    ("血小板 197,000", "血小板197000"),
    ("体重&nbsp;50&nbsp;kg，体温&gt;38℃", "体重50公斤，体温＞38摄氏度"),
    ("Ⅱ型糖尿病", "II型糖尿病"),
    ("café au lait", "cafe\u0301 au lait"),
    ("a heart attack", "a <b>heart</b>  attack"),
    ("白细胞12.5×109/L", "WBC 12.5×10<sup>9</sup>/L"),
    ("红细胞3.0×1012/L", "红细胞计数 3.0×10的12次方/L"),
    ("T 38.5℃，P 96次/分，BP 120/80mmHg", "体温38.5℃，脉搏每分钟96次，血压120/80mmHg"),
    ("血红蛋白9Og/L，肿物l.5cm", "Hb90g/L,肿物1.5cm"),
    ("女，25岁。停经2个月", "25岁女性，停经2月"),
    ("3岁的男孩", "男孩，3岁"),
    ("关于该药物的叙述，正确的是", "关于该药的描述正确的是"),
    ("G-杆菌", "革兰氏阴性杆菌"),
    ("Ⅱ型糖尿病", "二型糖尿病"),
    ("Ⅲ级收缩期杂音", "三级收缩期杂音"),
    ("最恰当的处置是", "最合适的处理是"),
    ("输液500ml，静滴", "输液500毫升，静脉滴注"),
]

DIFFERENT = [
    ("3.5 mg", "35 mg"),
    ("5-10 mg", "510 mg"),
    ("1/2 片", "12 片"),
    ("120/80 mmHg", "12080 mmHg"),
    ("10⁹/L", "109/L"),
    ("10<sup>9</sup>/L", "109/L"),
    ("10⁻³", "10³"),
    ("HBsAg（+）", "HBsAg（-）"),
    ("HBsAg(＋)", "HBsAg"),
    ("ER-、PR+", "ER+、PR-"),
    ("体温-5℃", "体温5℃"),
    ("BE -6", "BE 6"),
    ("BE-6", "BE6"),
    ("年龄≥18", "年龄≤18"),
    ("年龄<18", "年龄>18"),
    ("WBC ±", "WBC"),
    ("升高↑", "升高↓"),
    ("5%", "5‰"),
    ("症状3①发热", "症状31发热"),
    ("3½片", "31/2片"),
    ("heart 5 10", "heart 510"),
    ("三叉神经", "3叉神经"),
    ("十二指肠", "12指肠"),
    ("一般情况", "1般情况"),
    ("无发热", "有发热"),
    ("no fever", "fever"),
    ("5×10⁹/L", "5×10⁸/L"),
    ("109mg/L", "10⁹mg/L"),
    ("BP", "血压120"),
    ("维生素T", "维生素体温"),
    ("25岁女性", "25岁男性"),
    ("5 of 10", "50 10"),
    ("3个月", "3个"),
    ("Ⅱ型呼吸衰竭", "Ⅰ型呼吸衰竭"),
    ("首选的处理", "最佳的处理"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_typings_of_one_text_have_one_key(one: str, other: str) -> None:
    assert matching_key(one) == matching_key(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_with_other_facts_have_other_keys(one: str, other: str) -> None:
    assert matching_key(one) != matching_key(other)


def test_a_list_marker_does_not_grow_a_number() -> None:
    assert matching_key("剂量5①口服") == "剂量5 1口服"


def test_a_unit_word_is_not_seen_in_a_disease_or_a_trend() -> None:
    assert matching_key("CA125升高") == "ca125升高"
    assert matching_key("百日咳") == "百日咳"
    assert matching_key("2克氏针") == "2克氏针"


@pytest.mark.parametrize(
    ("text", "stem", "listed"),
    [
        ("诊断为\nA. 麻疹\nB. 风疹\nC. 水痘", "诊断为", ["麻疹", "风疹", "水痘"]),
        ("诊断为（ ）A、风疹 B、麻疹 C、水痘", "诊断为", ["风疹", "麻疹", "水痘"]),
        ("The cause is (A) iron (B) folate (C) lead", "the cause is", ["folate", "iron", "lead"]),
        ("缺乏维生素A：夜盲。补充B：鱼肝油。", None, []),  # two letters are no list
        ("A. 麻疹 B. 风疹 C. 水痘", None, []),  # no stem
        ("给予A. 补液 B. 退热 C. 抗感染后，最可能的诊断是什么？", None, []),  # the question comes behind
        ("发热，A. 甲 B. 乙 C. " + "丙" * 101, None, []),  # not a choice but further text
    ],
)
def test_choices_at_the_end_stand_behind_the_stem_in_an_order_of_their_own(text: str, stem: str | None, listed: list[str]) -> None:
    key = matching_key(text)
    assert choices(key) == sorted(matching_key(choice) for choice in listed)
    assert stem is None or stem_of(key) == matching_key(stem)


def test_a_control_character_in_a_text_makes_no_choices() -> None:
    assert choices(matching_key("诊断\x1f麻疹")) == choices(matching_key("？\x1f？")) == []


def test_texts_of_punctuation_alone_are_equal_only_when_they_are() -> None:
    assert matching_key(" ？？ ") == "？？"
    assert matching_key("！！") != matching_key("？？")


def test_each_cjk_character_is_a_token_and_each_run_is_one() -> None:
    key = matching_key("患者HbA1c为7.5%，口服β受体阻滞剂 5 mg、Привет λόγος 𠀀かな한글")
    assert tokens(key) == [
        *"患者", "hba1c", "为", "7.5", "%", *"口服", "β", *"受体阻滞剂", "5mg", "привет", "λόγος", "𠀀", *"かな한글",
    ]  # fmt: skip


def test_atoms_split_numbers_from_letters() -> None:
    assert atoms(matching_key("口服12.5mg")) == ["口", "服", "1", "2", ".", "5", "mg"]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="患者左右五十年次 5.0/9⁹%-+abCé，。<>≥①½한か", max_size=40), st.integers(1, 6))
def test_hashed_shingles_are_the_shingles_of_the_tokens(text: str, size: int) -> None:
    key = matching_key(text)
    found = tokens(key)
    if found:
        size_or_all = min(size, len(found))
        expected = {tuple(found[i : i + size_or_all]) for i in range(len(found) - size_or_all + 1)}
        assert len(shingles(key, size)) == len(expected)


def test_a_short_text_is_one_shingle_and_no_prefix_of_another() -> None:
    assert len(shingles("头痛", 5)) == 1
    assert shingles("头痛", 5)[0] != shingles("头", 5)[0]


def test_shingles_do_not_depend_on_the_process() -> None:
    assert shingles(matching_key("头痛 headache"), 2).tolist() == [4505435175915909178, 10779013100065700188]


def test_jaccard_counts_shared_shingles_over_all() -> None:
    sets = [shingles(key, 1) for key in ("甲乙丙丁", "甲乙丙戊", "abc", "甲乙丙丁")]
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    assert jaccards(sets, pairs).tolist() == [3 / 5, 0.0, 1.0]
    assert jaccards(sets, np.zeros((0, 2), dtype=np.int64)).tolist() == []


def test_two_unrelated_chinese_questions_share_next_to_nothing() -> None:
    one, other = "高热三天伴咳嗽，首先考虑什么？", "妊娠期糖尿病如何控制血糖？"
    sets = [shingles(matching_key(text), 2) for text in (one, other)]
    assert jaccards(sets, np.array([[0, 1]]))[0] == 0.0
