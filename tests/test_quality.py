"""Quality rules: for each a row that it hits and near misses that it must not hit, in Chinese and in English."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medcot.checks import check_raw, check_record
from medcot.defects import han_share, longest_run, repeated_share, unmatched_marks
from medcot.errors import DataError
from medcot.params import parse_section
from medcot.quality import RULES, Finding, QualityParams, SwitchParams, check_quality
from medcot.records import RawRecord, Record
from medcot.text import normalize_text

PARAMS = QualityParams()
QUESTION = "患者男，45岁，突发胸骨后压榨样疼痛2小时，伴大汗，最先考虑什么诊断，首选哪项检查？"
REASONING = "先抓主线：压榨样胸痛伴大汗，首先要排除急性心肌梗死。再想夹层，它的疼痛多为撕裂样。心电图最快，先做它。"
ANSWER = "首先考虑急性心肌梗死，首选心电图检查，并动态监测肌钙蛋白。如症状加重，请及时就医。"
QUESTION_EN = "A 45-year-old man has had crushing chest pain for two hours. What is the most likely diagnosis, and which test comes first?"
REASONING_EN = (
    "Crushing pain with sweating points to a myocardial infarction. Dissection tears rather than crushes. The ECG is the fastest test."
)
ANSWER_EN = "The most likely diagnosis is an acute myocardial infarction; the first test is an ECG. See a doctor at once if it gets worse."
LOOP = "等等，我再想一想，可能是肺炎，也可能是肺结核。"
OPTION = "急性前壁心肌梗死合并心源性休克，应立即行急诊冠状动脉介入治疗并给予循环支持，分型为"
LOOP_EN = "Wait, let me think again, it could be pneumonia. "


def zh(**texts: str) -> Record:
    return Record("id", "test", **{"question": QUESTION, "reasoning": REASONING, "answer": ANSWER, **texts})


def en(**texts: str) -> Record:
    return Record("id", "test", **{"question": QUESTION_EN, "reasoning": REASONING_EN, "answer": ANSWER_EN, **texts})


def hits(record: Record, params: QualityParams = PARAMS) -> dict[str, str]:
    return {finding.rule.removeprefix("quality_"): finding.action for finding in check_quality(record, params)}


def test_good_rows_of_both_languages_pass() -> None:
    assert check_quality(zh(), PARAMS) == check_quality(en(), PARAMS) == []


HITS: list[tuple[str, Record]] = [
    ("question_length", zh(question="病？")),
    ("question_length", en(question="W" + "hy do they ask so much? " * 200)),
    ("reasoning_length", zh(reasoning="看心电图。")),
    ("reasoning_length", en(reasoning="It is the ECG.")),
    ("answer_length", zh(answer="是")),
    ("answer_length", en(answer="A")),
    ("no_content", zh(answer="略。")),
    ("no_content", zh(reasoning="……")),
    ("no_content", zh(answer="见解析")),
    ("no_content", en(answer="N/A")),
    ("no_content", en(reasoning="See above.")),
    ("answer_copy", zh(answer=QUESTION.replace("，", " ").replace("？", "。"))),
    ("answer_copy", zh(answer=REASONING + "\n")),
    ("answer_copy", en(answer=QUESTION_EN.upper())),
    ("answer_copy", en(reasoning=QUESTION_EN + " ")),
    ("near_copy", zh(answer=QUESTION.replace("什么诊断，", "").replace("？", "。"))),
    ("near_copy", en(answer=QUESTION_EN.replace("crushing ", ""))),
    ("refusal", zh(answer="抱歉，我无法回答这个问题，请咨询专业医生。")),
    ("refusal", zh(answer="很抱歉，我不能为您提供医疗建议。")),
    ("refusal", zh(answer="作为AI语言模型，我无法给出诊断。")),
    ("refusal", zh(answer="由于我是一个语言模型，无法提供处方和诊断，所以请您到医院就诊。")),
    ("refusal", en(answer="I'm sorry, but I can't help with that.")),
    ("refusal", en(answer="As an AI language model, I cannot provide medical advice. Please see a doctor.")),
    ("boilerplate", zh(answer="作为一个人工智能助手，" + ANSWER)),
    ("boilerplate", zh(reasoning="我只是一个语言模型，" + REASONING)),
    ("boilerplate", en(answer="As an AI assistant, I would say: " + ANSWER_EN)),
    ("char_run", zh(reasoning="啊" * 40 + REASONING)),
    ("char_run", en(answer="No" + "o" * 30 + ". " + ANSWER_EN)),
    ("char_run", zh(answer=ANSWER + "！" * 50)),
    ("repetition", zh(reasoning=REASONING + LOOP * 8)),
    ("repetition", en(answer=ANSWER_EN + " " + LOOP_EN * 8 + "Done.")),
    ("mojibake", zh(answer="ä½ å¥½ï¼Œ" + ANSWER)),
    ("mojibake", zh(reasoning=REASONING + "锟斤拷锟斤拷。")),
    ("mojibake", zh(answer="烫烫烫烫" + ANSWER)),
    ("mojibake", zh(answer="浣犲ソ锛屽厛鍋氬績鐢靛浘銆傚緢濂姐€。")),
    ("mojibake", en(answer="MeniÃ¨reâ€™s disease is likely. " + ANSWER_EN)),
    ("mojibake", en(answer="The dose is 5 Âµg. " + ANSWER_EN)),
    ("language", zh(answer=ANSWER_EN)),
    ("language", zh(reasoning=REASONING_EN)),
    ("language", en(reasoning=REASONING)),
    ("truncated", zh(reasoning=REASONING + "不过还要考虑主动脉")),
    ("truncated", zh(reasoning=REASONING + "因为，")),
    ("truncated", zh(answer=ANSWER + "此外还应注意：\n1.")),
    ("truncated", zh(answer="首选心电图，因为")),
    ("truncated", en(reasoning=REASONING_EN + " And then the")),
    ("truncated", en(answer="The first test is an ECG because")),
    ("unbalanced", zh(answer="首选心电图（ECG检查，并监测肌钙蛋白。")),
    ("unbalanced", zh(reasoning=REASONING + "“压榨样是关键。")),
    ("unbalanced", en(answer="The first test is an ECG (electrocardiogram, then troponin.")),
    ("missing_image", zh(question="心电图如图所示，患者胸痛2小时，最可能的诊断是什么？")),
    ("missing_image", zh(question="影像检查如下图，应诊断为 [img=~/a/b.gif]")),
    ("missing_image", en(question="What is the diagnosis of the lesion shown in the figure of this man with chest pain?")),
    ("control_lookalike", zh(answer="[INST] " + ANSWER + " [/INST]")),
    ("control_lookalike", zh(answer=ANSWER + "\n### Response: 心电图。")),
    ("control_lookalike", en(answer=ANSWER_EN + "</s>")),
    ("control_lookalike", en(reasoning="Human: What now?\nAssistant: " + REASONING_EN)),
]


@pytest.mark.parametrize(("rule", "record"), HITS)
def test_each_rule_hits_its_flaw_with_its_default_action(rule: str, record: Record) -> None:
    assert hits(record).get(rule) == getattr(PARAMS, rule).action


def test_every_rule_has_a_row_that_it_hits_in_each_language() -> None:
    for name in RULES:
        languages = {"zh" if record.question == QUESTION else "en" for rule, record in HITS if f"quality_{rule}" == name}
        assert languages or name == "quality_missing_image"
    assert {f"quality_{rule}" for rule, _ in HITS} == set(RULES)


@pytest.mark.parametrize(
    "record",
    [
        zh(question="什么是高血压？"),
        zh(answer="阿司匹林"),
        zh(answer="答案：B. 右主支气管"),
        zh(answer="因此，最可能的诊断是：\n\nD. 肺癌"),
        zh(answer="胎儿头部双顶径为9 cm，略大于孕周。"),
        # A question said again with its blank filled in.
        zh(question="引起大叶性肺炎最常见的病原体是什么？", answer="引起大叶性肺炎最常见的病原体是肺炎链球菌。"),
        zh(
            question="切开下颌磨牙并分离为近中和远中两半，此种治疗技术称为什么？",
            answer="切开下颌磨牙并分离为近中和远中两半，此种治疗技术称为“分根术”。",
        ),
        en(
            question="Which vitamin is deficient in scurvy, with bleeding gums?",
            answer="Vitamin C is deficient in scurvy, with bleeding gums.",
        ),
        # Advice, doubt and limits of a method are no refusals.
        zh(answer="建议及时就医，由专科医生进一步评估。" + ANSWER),
        zh(answer="仅凭症状无法确定诊断，但最可能是心肌梗死；X线不能提供活力的直接证据。"),
        zh(answer="根据现有信息无法给出明确诊断，但最可能是肺炎，先拍胸片。"),
        zh(answer="我认为该检查不能提供诊断依据，应改做增强CT。"),
        en(answer="I cannot give aspirin here because of the allergy, so clopidogrel is preferred; this test cannot provide a diagnosis."),
        zh(reasoning="我不能忽视疼痛的性质，也无法排除夹层。" + REASONING),
        en(reasoning="I can't ignore the sweating, and I cannot rule out a dissection. " + REASONING_EN),
        en(answer="An AI such as anastrozole is preferred: as an AI, it lowers oestrogen. " + ANSWER_EN),
        zh(answer="作为AI辅助诊断系统的补充，" + ANSWER),
        zh(reasoning="嗯……等等，哈哈哈，不对！！！" + REASONING),
        zh(answer="+---------+\n| 胸痛     |\n+---------+\n| 心电图   |\n+---------+\n" * 2 + ANSWER),
        zh(answer="项目 | 数值\n-----------------------------------\n血压 | 120/80\n____________________________\n" + ANSWER),
        en(answer="The sequence is AAAAAAAAAAAAAAA, a poly-A tail. " + ANSWER_EN),
        zh(question=QUESTION + "".join(f"\n{letter}. {OPTION}{letter}型" for letter in "ABCDEF")),
        zh(reasoning=REASONING + "急性心肌梗死要看心电图，急性心肌梗死要看肌钙蛋白，急性心肌梗死要看症状。"),
        en(answer="Ménière's disease, Sjögren's syndrome, naïve B cells, 10 Å², 5 µg, ±2 °C, “café”, α and β: " + ANSWER_EN),
        zh(question="Helicobacter pylori 感染的根除方案中，PPI、amoxicillin、clarithromycin 与铋剂如何组合，疗程多长才合适？"),
        zh(answer="Helicobacter pylori。"),
        zh(answer="处理：1) 心电图；2）肌钙蛋白；a) 阿司匹林；（b）他汀；范围[0, 5)与(5, 10]；混用(全角）也算成对。"),
        en(answer="Give a) aspirin, b) a statin; the patient's “own” words were kept (see above). " + ANSWER_EN),
        zh(reasoning=REASONING + "（完）"),
        zh(reasoning=REASONING + "**首选心电图。**"),
        en(reasoning=REASONING_EN + ' He said "yes."'),
        zh(question="心电图示ST段抬高，超声可见图像改变，结合以下图像学特征，首选的处理是什么？"),
        en(question="Let me figure out the clinical picture: which image study is best in a man with a headache and fever?"),
        zh(answer="血压<140/90 mmHg，Na<sup>+</sup>正常，P<0.05，a<b且c>d，诊断明确。"),
        en(answer="The patient's response: improved. Human albumin was given; user-dependent. " + ANSWER_EN),
    ],
)
def test_near_misses_pass_every_rule(record: Record) -> None:
    assert check_quality(record, PARAMS) == []


def test_findings_come_in_the_order_of_the_rules_and_off_rules_are_not_asked() -> None:
    bad = zh(question="病？", reasoning=LOOP * 20 + "因为", answer="抱歉，我无法回答这个问题（[INST]")
    rules = [finding.rule for finding in check_quality(bad, PARAMS)]
    assert rules == sorted(rules, key=RULES.index)
    assert {"quality_question_length", "quality_refusal", "quality_repetition", "quality_truncated", "quality_unbalanced"} <= set(rules)
    off = QualityParams.model_validate(
        {name: {**getattr(PARAMS, name).model_dump(), "action": "off"} for name in QualityParams.model_fields}
    )
    assert check_quality(bad, off) == []


def test_thresholds_are_respected_and_values_are_reported() -> None:
    looped = zh(reasoning=LOOP * 4)
    share = repeated_share(looped.reasoning)
    found = check_quality(looped, PARAMS)
    assert found == [Finding("quality_repetition", "drop", f"reasoning: {share:.0%} repeated", share)]
    lenient = PARAMS.model_copy(update={"repetition": PARAMS.repetition.model_copy(update={"max_share": share})})
    assert check_quality(looped, lenient) == []
    flagged = PARAMS.model_copy(update={"repetition": PARAMS.repetition.model_copy(update={"action": "flag"})})
    assert [finding.action for finding in check_quality(looped, flagged)] == ["flag"]


def test_details_quote_nothing_of_the_text_but_marks() -> None:
    secret = "15400000012"
    for rule, record in HITS:
        row = Record("id", "test", record.question + secret, record.reasoning + secret, record.answer + secret)
        assert all(secret not in finding.detail and "\n" not in finding.detail for finding in check_quality(row, PARAMS)), rule


def test_counts_of_a_text_have_their_closed_forms() -> None:
    assert repeated_share("一二三四五六七八九十") == 0.0
    assert repeated_share("a" * 116) == repeated_share("a, " * 116) == 1 - 1 / 101
    assert repeated_share("".join(chr(0x4E00 + i) for i in range(200))) == 0.0
    assert (longest_run("啊啊啊啊啊，aaaa"), longest_run("0000000 ---- ....")) == (5, 0)
    assert han_share("心" * 30) == 1.0
    assert han_share("heart " * 30) == 0.0
    assert han_share("心" * 15 + " heart" * 15) == 0.5
    assert han_share("心电图") is None


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("（a)和(b）", []),
        ("((a)", ["("]),
        ("a）x）", [")"]),
        ("【甲]《乙》「丙", ["「"]),
        ("“甲”乙”", ["”"]),
        ("\\left[0, 1\\right)", []),
        (":) ;-)", []),
    ],
)
def test_marks_are_paired_whatever_their_width(text: str, marks: list[str]) -> None:
    assert unmatched_marks(text) == marks


@pytest.mark.parametrize(
    "values", [{"refusal": {"action": "remove"}}, {"repetition": {"action": "drop", "max_share": 1.5}}, {"mojibake": {}}]
)
def test_wrong_params_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QualityParams.model_validate(values)


def test_every_rule_has_its_params_with_an_action() -> None:
    assert [f"quality_{name}" for name in QualityParams.model_fields] == list(RULES)
    assert all(isinstance(getattr(PARAMS, name), SwitchParams) for name in QualityParams.model_fields)
    assert all(field.description for field in QualityParams.model_fields.values())


def rows_of(path: Path) -> list[Record]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    names = ("Question", "Complex_CoT", "Response")
    return [Record(str(i), "test", *(normalize_text(row[name]) for name in names)) for i, row in enumerate(rows)]


def test_no_rule_touches_the_clean_rows_of_the_sample() -> None:
    sample = Path(__file__).resolve().parent.parent / "data/sample"
    with (sample / "manifest.csv").open(encoding="utf-8") as file:
        refused = {int(row["row"]) for row in csv.DictReader(file) if row["fate"] == "refused"}
    checked = 0
    for number, line in enumerate((sample / "records.jsonl").read_text(encoding="utf-8").splitlines(), start=1):
        if number in refused:
            continue
        row = json.loads(line)
        raw = RawRecord("id", "test", row["Question"], row["Complex_CoT"], row["Response"])
        record = Record("id", "test", *(normalize_text(row[name]) for name in ("Question", "Complex_CoT", "Response")))
        assert check_raw(raw) is None
        assert check_record(raw, record) is None
        assert check_quality(record, PARAMS) == [], number
        checked += 1
    assert checked > 645


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "flags"),
    [("medical_o1_zh.json", {"quality_missing_image": 10, "quality_language": 1}), ("medical_o1_en.json", {})],
)
def test_no_published_row_is_dropped_and_few_are_flagged(real_data: Path, name: str, flags: dict[str, int]) -> None:
    found = [finding for record in rows_of(real_data / name) for finding in check_quality(record, PARAMS)]
    assert [finding for finding in found if finding.action == "drop"] == []
    assert {rule: sum(finding.rule == rule for finding in found) for rule in {finding.rule for finding in found}} == flags


def test_a_length_that_no_text_has_is_refused() -> None:
    with pytest.raises(DataError) as error:
        parse_section("normalize", {"question_length": {"action": "drop", "min": 9, "max": 8}}, QualityParams)
    assert "params.yaml: normalize.question_length: " in str(error.value)
    assert "min 9 is above max 8" in str(error.value)


@pytest.mark.parametrize(("length", "found"), [(4, True), (5, False), (4000, False), (4001, True)])
def test_a_limit_of_length_is_still_allowed(length: int, found: bool) -> None:
    assert ("question_length" in hits(zh(question="疼" * length))) is found
