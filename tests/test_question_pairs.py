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
from medcot.key_index import QUESTION

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


TYPED_TWICE = [
    (
        "患者，男，45岁。突发胸痛2小时，伴大汗。查体：BP 90/60mmHg，HR 110次/分。心电图示V1～V5导联ST段抬高。最可能的诊断是",
        "男性，45岁，突发胸痛2h，伴大汗。体格检查：血压90/60mmHg，心率110次/min，心电图示V1-V5导联ST段抬高，最可能的诊断是（  ）\n"
        "A. 心绞痛\nB. 急性心肌梗死\nC. 肺栓塞\nD. 主动脉夹层\nE. 气胸",
    ),
    (
        "患儿，女，8个月。腹泻3天，PaCO<sub>2</sub> 35mmHg，HCO<sub>3</sub><sup>-</sup> 15mmol/L，应诊断为",
        "患儿,女,8月,腹泻三天,PaCO₂35mmHg,HCO₃⁻15mmol/L,应诊断为",
    ),
    (
        "糖尿病病史十年，近一周烦躁不安，口渴多饮，血糖28mmol/L，首选的治疗是什么",
        "糖尿病病史10年，近1周烦燥不安，口渴多饮，血糖28mmol/L，首选的治疗是什么？",
    ),
    ("女性，32岁，停经50天，阴道流血。妇科检查：后穹隆饱满。首选的检查是", "女，32岁。停经50天，阴道流血。妇检：后穹窿饱满。首选的检查是"),
    ("关于破伤风的叙述，错误的是", "有关破伤风的叙述，下列哪项是错误的"),
    ("WBC12×10^9/L，N0.85，T39℃，右下腹压痛，最可能的诊断是", "白细胞计数12×109/L，中性粒细胞0.85，体温39℃，右下腹压痛，最可能的诊断是"),
    (
        "女，20。近2年经期反复头痛，伴恶心、乏力，家族中有类似病史。为预防发作，应选用的药物是",
        "12．女，20岁，近2年经期反复头痛，伴恶心、乏力，家族中有类似病史。为预防发作，应选用的药物是（  ）",
    ),
    (
        "A 54-year-old man with type 2 diabetes has a blood pressure of 148/92 mm Hg and a pulse of 88 beats per minute. What is next?",
        "A 54 yo man with type II diabetes has a BP of 148/92 mmHg and a pulse of 88 bpm. What's next",
    ),
    ("体重60千克的患者每天需补液2000毫升，如何给予", "体重60kg的病人每日需补液2000ml，如何给予"),
    (
        "A 30-year-old woman has haematuria and oedema after a sore throat for two weeks. Which investigation is most useful?",
        "A 30-year-old woman has hematuria and edema after a sore throat for 2 weeks. Which investigation is most useful?\n"
        "A. ASO titer\nB. Renal biopsy\nC. ANA\nD. Urine culture",
    ),
]
OTHER_CASES = [
    ("下列哪项不是慢性支气管炎的临床表现？", "下列哪项是慢性支气管炎的临床表现？"),
    ("下列除哪项外均为肝硬化的并发症", "下列哪项为肝硬化的并发症"),
    ("急性胰腺炎最常见的病因是", "慢性胰腺炎最常见的病因是"),
    ("女，30岁，停经40天，左下腹痛，最可能的诊断是", "女，30岁，停经40天，右下腹痛，最可能的诊断是"),
    ("患者口服阿司匹林100mg/d，应注意", "患者口服阿司匹林100mg/kg，应注意"),
    ("患者发热3天，咳铁锈色痰，X线示右下肺实变，首选的药物是", "患者发热3天，咳粉红色痰，X线示右下肺实变，首选的药物是"),
    ("有腰痛、无血尿的患者应首先考虑", "有血尿、无腰痛的患者应首先考虑"),
    ("维生素B1缺乏症的主要表现是", "维生素B2缺乏症的主要表现是"),
    ("HBsAg(+)，抗HBs(-)，提示", "HBsAg(-)，抗HBs(+)，提示"),
    ("Ⅰ型呼吸衰竭的血气特点是", "Ⅱ型呼吸衰竭的血气特点是"),
    ("初产妇，28岁，孕39周，规律宫缩8小时，宫口开大3cm，正确的处理是", "经产妇，28岁，孕39周，规律宫缩8小时，宫口开大3cm，正确的处理是"),
    ("患者目前服用华法林，拟行手术，应如何调整剂量以避免出血", "患者先前服用华法林，拟行手术，应如何调整剂量以避免出血"),
    ("内科治疗无效的患者咯血反复发作，应采取的措施是", "外科治疗无效的患者咯血反复发作，应采取的措施是"),
    ("硬膜外血肿的典型表现是膝以下感觉减退", "硬膜外血肿的典型表现是膝以上感觉减退"),
    ("Which of the following is a cause of hyperkalemia?", "Which of the following is a cause of hypokalemia?"),
    ("Which drug is contraindicated in asthma?", "Which drug is indicated in asthma?"),
]


@pytest.mark.parametrize(("one", "other"), TYPED_TWICE)
def test_a_question_typed_twice_is_a_duplicate(one: str, other: str) -> None:
    assert verdict(one, other, QUESTION)[0] == "duplicate"


@pytest.mark.parametrize(("one", "other"), OTHER_CASES)
def test_a_question_about_another_case_is_none(one: str, other: str) -> None:
    assert verdict(one, other, QUESTION)[0] != "duplicate"


def test_choices_are_listed_as_a_question_lists_them() -> None:
    assert with_choices("诊断是", ["甲", "乙"]) == "诊断是\nA. 甲\nB. 乙"


@pytest.mark.real_data
def test_on_the_report_half_no_other_case_goes_and_most_copies_typed_twice_do(real_data: Path) -> None:
    rows = [row for row in judge(read_pairs(), read_texts(real_data)) if row.pair.half == "report"]
    right, found, _ = precision_and_recall(rows)
    assert found == right >= 20
    near = [row for row in rows if row.pair.label == "same" and row.pair.kind not in REWORDED and row.jaccard >= QUESTION.threshold]
    assert sum(row.verdict == "duplicate" for row in near) / len(near) >= 0.6
