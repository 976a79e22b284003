"""The guard sees what makes another case, in short texts and in long ones, and is not fooled by damage."""

from __future__ import annotations

import random

import pytest

from medcot.facts import has_subject, opposed
from medcot.guard import WORDING, compare
from medcot.matching import matching_key

FACTS = [
    ("患者44岁，胸痛", "患者45岁，胸痛", "number"),
    ("口服5mg，每日一次", "口服50mg，每日一次", "number"),
    ("肌酐3.5，尿素高", "肌酐35，尿素高", "number"),
    ("血压120/80，心率快", "血压120/90，心率快", "number"),
    ("白细胞5×10⁹/L", "白细胞5×10⁸/L", "number"),
    ("乙肝表面抗原（+），肝大", "乙肝表面抗原（-），肝大", "number"),
    ("这种说法是正确的", "这种说法是错误的", "polarity"),
    ("处于第二产程的产妇", "处于第三产程的产妇", "number"),
    ("每日口服5mg即可", "每日口服5g即可", "unit"),
    ("发热3天，咳嗽", "发热3周，咳嗽", "unit"),
    ("无发热，有咳嗽", "有发热，有咳嗽", "negation"),
    ("此时不宜使用青霉素", "此时宜使用青霉素", "negation"),
    ("左下肺实变", "右下肺实变", "laterality"),
    ("双侧肢体无力", "左侧肢体无力", "laterality"),
    ("患者，男，胸痛", "患者，女，胸痛", "sex"),
    ("诊断为高血压", "诊断为低血压", "polarity"),
    ("血钾明显升高", "血钾明显降低", "polarity"),
    ("急性胰腺炎如何处理", "慢性胰腺炎如何处理", "polarity"),
    ("The dose is 5 mg daily", "The dose is 50 mg daily", "number"),
    ("Give 5 mg now", "Give 5 g now", "unit"),
    ("Presents without fever", "Presents with fever", "negation"),
    ("There was no rash on the arm", "There was rash on the arm", "negation"),
    ("This drug is compatible", "This drug is incompatible", "negation"),
    ("Pain in the left arm", "Pain in the right arm", "laterality"),
    ("A male patient", "A female patient", "sex"),
    ("Signs of hypertension", "Signs of hypotension", "polarity"),
    ("An acute attack", "A chronic attack", "polarity"),
]
LONG = "这是一段用来加长的病程记录文字只为让两份文本都足够长" * 12


@pytest.mark.parametrize(("one", "other", "kind"), FACTS)
@pytest.mark.parametrize("padding", ["", LONG], ids=["short", "long"])
def test_another_fact_is_named_whatever_the_length(one: str, other: str, kind: str, padding: str) -> None:
    a, b = (matching_key(f"{padding}。{text}。{padding}") for text in (one, other))
    assert kind in compare(a, b, 200).kinds
    assert compare(a, b, 200).kinds == compare(b, a, 200).kinds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("咯血最可能的诊断是什么？", "咯血最可能的诊断是"),
        ("一名患者出现头痛", "一位患者出现头痛"),
        ("癫痫以下哪种药物首选", "癫痫哪种药物首选"),
        ("What is the cause of gout?", "What was the cause of gout"),
    ],
)
def test_function_words_state_no_fact(one: str, other: str) -> None:
    assert compare(matching_key(one), matching_key(other), 200).kinds == ()


@pytest.mark.parametrize(
    ("one", "other"), [("应补充的液体量", "应补充的胶体量"), ("首选的抗生素", "首选的激素"), ("pain in the knee", "pain in the hip")]
)
def test_one_other_content_word_is_wording_in_a_short_text_only(one: str, other: str) -> None:
    assert compare(matching_key(one), matching_key(other), 200).kinds == ("wording",)
    assert compare(matching_key(LONG + one), matching_key(LONG + other), 200).kinds == ()


def test_the_differing_places_are_shown() -> None:
    difference = compare(matching_key("女性，44岁，疼痛位于左侧"), matching_key("女性，45岁，疼痛位于右侧"), 200)
    assert difference.places == (("4", "5"), ("左", "右"))
    assert difference.kinds == ("laterality", "number")


def test_equal_keys_do_not_differ() -> None:
    assert compare("头痛3d", "头痛3d", 200) == ((), ())


def test_a_lost_fact_counts_alone_but_not_in_a_copy_that_is_damaged_all_over() -> None:
    text = matching_key(LONG + "体温37.5℃" + LONG)
    alone = text.replace("37.5", "37蛇5")
    assert compare(text, alone, 200).kinds == ("number",)
    damaged = list(alone)
    for position in (10, 60, 110, 160):
        damaged[position] = "蛙"
    assert compare(text, "".join(damaged), 200).kinds == ()


def test_another_question_about_a_long_case_is_no_damage() -> None:
    asked = ("处方中主要成分为香豆素并且能够补虚的中药是哪一味", "患者服药以后可能出现并需要监测的不良反应有几种")
    assert compare(*(matching_key(LONG + text) for text in asked), 200).kinds == ("wording",)


def test_another_number_in_a_damaged_copy_still_counts() -> None:
    text = matching_key(LONG + "口服15mg" + LONG)
    damaged = list(text.replace("15mg", "50mg"))
    for position in random.Random(0).sample(range(200), 8):
        damaged[position] = "蛙"
    assert "number" in compare(text, "".join(damaged), 200).kinds


def test_an_inserted_negation_in_a_damaged_copy_still_counts() -> None:
    text = matching_key(LONG + "宜手术" + LONG)
    damaged = list(text)
    for position in (10, 60, 110, 160):
        damaged[position] = "蛙"
    assert "negation" in compare(text, "".join(damaged).replace("宜手术", "不宜手术"), 200).kinds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("温毒邪盛感而爆发是", "治疗蛔厥证的主要方法是"),  # another question over the same long reasoning
        ("患者长期服用阿司匹林", "患者长期服用华法林片"),
        ("the drug of choice is warfarin for atrial flutter", "the drug of choice is thiazide in severe renal oedema"),
    ],
)
def test_a_passage_that_stands_for_another_is_no_damage_however_long_the_text(one: str, other: str) -> None:
    a, b = (matching_key(f"{text}。{LONG}") for text in (one, other))
    assert compare(a, b, 200).kinds == (WORDING,)


CASE = "一名六十岁女性因反复上腹隐痛伴食欲减退半年就诊，体温正常，巩膜无黄染，上腹轻压痛"
SAME_CASE = [
    ("瞳孔等大，对光反射存在", "曈孔等大，对光反射存在"),  # look-alike, by a scanner
    ("腹部胀痛，疼痛明显", "腹部涨痛，疼痛明显"),  # sound-alike, by a typist
    ("血压下降，面色苍白", "血压下條，面色苍白"),  # a look-alike in place of a trend
    ("夜间盗汗，体重下降", "夜间盗汗，体重下降，"),
    ("既往有高血压病史", "既往有高血压史"),
    ("体温38.5℃，上腹部压痛", "体温38.5度，上腹压痛"),  # a lost character
    ("首诊考虑胃炎", "首珍考虑胃炎"),
    ("尿hCG阳性，表面抗原阴性", "尿hCG（＋），表面抗原(-)"),
    ("肿物3cm×4cm", "肿物3厘米*4厘米"),
    ("未见出血点", "末见出血点"),
    ("心率118次/分，BP持续下降", "HR 118bpm，血压持续下降"),
    ("双肺呼吸音清，心律齐，未闻及杂音", "心律齐，未闻及杂音，双肺呼吸音清"),  # findings in another order
    ("给予补液支持治疗后好转", "给予补液支持给予补液支持治疗后好转"),  # written twice
    ("血压14.7/10.7kPa", "血压14.7/10.7kPa（110/80mmHg）"),
]
OTHER_CASE = [
    ("应计算误诊率", "应计算漏诊率"),
    ("给予胶体溶液", "给予液体溶液"),
    ("心电图示前壁受累", "心电图示前间壁受累"),
    ("呈急性起病", "呈亚急性起病"),
    ("胃脘胀满不适", "脘胀满不适"),
    ("类风湿因子升高", "风湿因子升高"),
    ("曾行甲状旁腺手术", "曾行甲状腺手术"),
    ("血培养有副伤寒沙门菌", "血培养有伤寒沙门菌"),
    ("给予氨茶碱", "给予茶碱"),
    ("胸片示血气胸", "胸片示气胸"),
    ("测促甲状腺激素", "测甲状腺激素"),
    ("凝血酶升高", "抗凝血酶升高"),
    ("她拒绝手术", "他拒绝手术"),
    ("宜用清法", "宜用消法"),
    ("这属于证", "这属于症"),
    ("尿hCG（+）", "尿hCG阴性"),
    ("肿物3cm×4cm", "肿物3cm×5cm"),
    ("补充维生素C", "补充维生素"),
    ("给予α受体阻滞剂", "给予受体阻滞剂"),
    ("双肺呼吸音清，心律齐，未闻及杂音", "心律齐，未闻及杂音，双肺呼吸音粗"),
    ("左侧无压痛反跳痛，双肺清", "双肺清，左侧压痛反跳痛"),
    ("先用5mg再观察", "先观察再用5mg"),
    ("最可能的诊断是", "首选的治疗是"),
    ("不属于适应证的是", "属于适应证的是"),
    ("正确的是", "错误的是"),
    ("表述不恰当的是", "表述恰当的是"),
    ("以下除哪项外均可见", "以下哪项可见"),
    ("血压14.7/10.7kPa（110/80mmHg）", "血压14.7/12.7kPa（110/95mmHg）"),
]


@pytest.mark.parametrize(("one", "other"), SAME_CASE)
def test_one_case_typed_twice_differs_in_nothing(one: str, other: str) -> None:
    a, b = (matching_key(f"{CASE}，{text}。此时应如何处理？") for text in (one, other))
    assert compare(a, b, 100_000).kinds == compare(b, a, 100_000).kinds == ()


@pytest.mark.parametrize(("one", "other"), OTHER_CASE)
def test_another_case_in_the_same_words_differs(one: str, other: str) -> None:
    a, b = (matching_key(f"{CASE}，{text}。此时应如何处理？") for text in (one, other))
    assert compare(a, b, 100_000).kinds
    assert compare(a, b, 100_000).kinds == compare(b, a, 100_000).kinds


ENGLISH = "A retired teacher reports breathlessness on exertion and a productive cough over several winters, now with {} and weight loss."


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("haemorrhage", "hemorrhage", True),
        ("a tumour of the colon", "a tumor of the colon", True),
        ("pain of the ileum", "pain of the ilium", False),  # too short a word to tell its spellings from another
        ("progressive wheezing", "progresive wheezing", True),
        ("abdominal pain", "abdomnial pain", True),
        ("ureteral stones", "urethral stones", False),
        ("dysphagia", "dysphasia", False),
        ("prednisone", "prednisolone", False),
    ],
)
def test_two_spellings_of_an_english_word_are_a_slip_and_another_word_is_not(one: str, other: str, same: bool) -> None:
    a, b = (matching_key(ENGLISH.format(text)) for text in (one, other))
    assert (compare(a, b, 100_000).kinds == ()) is same


def test_a_lost_character_is_the_subject_in_a_short_text_and_a_look_alike_is_not() -> None:
    assert compare(matching_key("奇静脉的描述正确的是"), matching_key("静脉的描述正确的是"), 200).kinds == ("wording",)
    assert compare(matching_key("瞳孔缩小见于哪种药物的中毒"), matching_key("曈孔缩小见于哪种药物的中毒"), 200).kinds == ()


@pytest.mark.parametrize("text", ["房颤患者每日口服华法林抗凝", "Warfarin was given to the patient"])
def test_a_fact_that_one_text_adds_at_its_end_counts(text: str) -> None:
    for one, other in ((text, f"{text} 5 mg"), (f"{text} 5 mg", text)):
        assert compare(matching_key(one), matching_key(other), 0).kinds == ("number", "unit")


STEM = "患者发热三天伴皮疹，最可能的诊断是"
LISTED = "\nA. 麻疹\nB. 风疹\nC. 猩红热\nD. 水痘"


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        (STEM, STEM + LISTED, ()),  # listed or not: one question
        (STEM + LISTED, STEM + "（ ）\n(A) 风疹\n(B) 麻疹\n(C) 水痘\n(D) 猩红热", ()),  # in another order
        (STEM + LISTED, STEM + LISTED.replace("水痘", "幼儿急疹"), ("choices",)),
        (STEM + LISTED, STEM + LISTED.rpartition("\n")[0], ("choices",)),
        (STEM + LISTED.replace("水痘", "水样瞳孔"), STEM + LISTED.replace("水痘", "水样曈孔"), ()),  # a slip in a choice
        ("Which is seen?\nA. tumour growth\nB. rash\nC. pain", "Which is seen?\nA. tumor growth\nB. rash\nC. pain", ()),
        (STEM + LISTED, STEM.replace("三天", "五天") + LISTED, ("number",)),
        ("下列说法正确的是", "下列说法正确的是", ("choices",)),  # asks nothing without its choices
        ("以下叙述，正确的是" + LISTED, "以下叙述正确的是" + LISTED, ()),
        ("Which of the following is not true?", "Which of the following is not true?", ("choices",)),
    ],
)
def test_choices_tell_questions_apart_where_both_list_them(one: str, other: str, kinds: tuple[str, ...]) -> None:
    assert compare(matching_key(one), matching_key(other), 100_000).kinds == kinds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("该病人最可能的诊断是什么？", False),
        ("简述本例病人的诊断及诊断依据。", False),
        ("下列说法，正确的是", False),
        ("What is the most likely diagnosis in this patient?", False),
        ("该患者最可能的诊断是\nA. 麻疹\nB. 风疹\nC. 水痘", True),
        ("流产的治疗原则", True),
        ("该患者的烧伤面积是", True),
        ("What is the most likely cause of asthma?", True),
    ],
)
def test_a_question_has_a_subject_or_points_to_a_case_that_it_does_not_tell(text: str, expected: bool) -> None:
    assert has_subject(matching_key(text)) is expected


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("左", "右", "laterality"),
        ("三", "四", "number"),
        ("hypertension", "hypotension", "polarity"),
        ("头", "脚", None),
        ("on", "non", None),
    ],
)
def test_opposites_are_known_in_both_directions(one: str, other: str, kind: str | None) -> None:
    assert opposed(one, other) == opposed(other, one) == kind
