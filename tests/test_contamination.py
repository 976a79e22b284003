"""Contamination: the four ways in which a row contains an item, and what only looks like it, in Chinese and English."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from medcot.benchmarks import Item, read_benchmark
from medcot.contamination import NEAR, ContaminationParams, Hit, find_hits, num_tokens
from medcot.matching import matching_key
from medcot.records import Record

PARAMS = ContaminationParams(seed=1, ngram_size=13, min_overlap=0.5, case_tokens=25, near=NEAR)
ZH_CASE = "男，57岁。患原发性肝癌拟行肝切除术，术中输注红细胞约50ml时出现寒战、发热、腰痛及心前区不适，最可能的不良反应是"
EN_CASE = (
    "A 57-year-old man with hepatocellular carcinoma is given packed red cells before resection. After 50 mL he develops rigors, "
    "fever and loin pain, and his blood pressure falls. Which transfusion reaction is most likely?"
)


def row(question: str, reasoning: str = "先想。Think first.", answer: str = "答。", row_id: str = "r") -> Record:
    return Record(row_id, "test", question, reasoning, answer)


def item(question: str, item_id: str = "1", **values: object) -> Item:
    return Item(item_id, "bench", question, **values)  # type: ignore[arg-type]


def how(question: str, target: Item, **texts: str) -> str | None:
    """The way in which a row with this question contains the item, if it does."""
    hits = find_hits([row(question, **texts)], [target], PARAMS)
    return hits[0].how if hits else None


@pytest.mark.parametrize("case", [ZH_CASE, EN_CASE])
def test_the_same_question_in_other_typing_is_exact(case: str) -> None:
    typed = case.replace("，", ",").replace("mL", "ml").replace("。", " 。 ")
    assert find_hits([row(typed)], [item(case)], PARAMS) == [Hit("r", item(case), "exact", 1.0)]


@pytest.mark.parametrize(
    ("case", "listed"), [(ZH_CASE, "（　）。\nA. 溶血反应\nB. 过敏反应\nC. 发热"), (EN_CASE, "\n(A) Haemolytic\n(B) Allergic\n(C) Febrile")]
)
def test_listed_choices_do_not_hide_a_question(case: str, listed: str) -> None:
    assert how(case + listed, item(case)) == "exact"


def test_one_short_stem_with_other_choices_is_another_question() -> None:
    target = item("下列叙述正确的是", choices=("心率为60次", "心率为90次", "心率为30次"))
    assert how("下列叙述正确的是\nA. 心率为60次\nB. 心率为90次\nC. 心率为30次", target) == "exact"
    assert how("下列叙述正确的是\nA. 多见于儿童\nB. 多见于老人\nC. 不传染", target) is None


@pytest.mark.parametrize("case", [ZH_CASE, EN_CASE])
@pytest.mark.parametrize("field", ["question", "reasoning", "answer"])
def test_most_of_an_item_in_any_text_of_a_row_is_an_ngram_hit_with_its_share(case: str, field: str) -> None:
    part = case[: int(len(case) * 0.8)]
    texts = {"question": "另一题？ Another question?", "reasoning": "想。", "answer": "答。"}
    texts[field] = f"病例如下。As follows: {part}；请分析，并说明在这种情况下还要想到哪些别的情况，以及为什么。" * (
        1 if field == "question" else 3
    )
    hits = find_hits([row(**texts)], [item(case)], PARAMS)
    assert [hit.how for hit in hits] == ["ngram"]
    assert 0.5 <= hits[0].similarity < 1


def test_the_overlap_counts_runs_of_tokens_and_the_threshold_is_its_share() -> None:
    words = [f"word{i}" for i in range(33)]
    target = item(" ".join(words))  # 21 runs of 13
    inside = row("What about this? " + " ".join(words[:23]))  # 11 of them
    (hit,) = find_hits([inside], [target], PARAMS.model_copy(update={"near": NEAR.model_copy(update={"threshold": 1.0})}))
    assert hit.similarity == pytest.approx(11 / 21)
    strict = PARAMS.model_copy(update={"min_overlap": 0.53, "near": NEAR.model_copy(update={"threshold": 1.0})})
    assert find_hits([inside], [target], strict) == []


def test_a_part_that_is_said_twice_counts_once() -> None:
    words = " ".join(f"word{i}" for i in range(33)).split()
    third = " ".join(words[:19])  # 7 of 21 runs
    assert how(f"What about {third}?", item(" ".join(words)), reasoning=f"So {third}, yes.", answer=f"{third}.") is None


def test_a_shared_law_or_frame_is_no_contamination() -> None:
    law = "根据《中华人民共和国药品管理法实施条例》，"
    assert how(f"{law}受理认证申请的部门应自收到企业申请之日起多少日内作出决定？", item(f"{law}《药品生产许可证》的有效期为")) is None
    assert (
        how("According to the national formulary, how long is it kept?", item("According to the national formulary, who may sign it?"))
        is None
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "detail"),
    [
        (ZH_CASE.replace("57岁", "63岁").replace("50ml", "80ml"), ZH_CASE, "number"),
        (EN_CASE.replace("57", "64").replace("he develops", "he soon develops").replace("loin", "back"), EN_CASE, "number"),
    ],
)
def test_a_case_with_another_age_is_the_same_case(ours: str, theirs: str, detail: str) -> None:
    params = PARAMS.model_copy(update={"min_overlap": 1.0})
    (hit,) = find_hits([row(ours)], [item(theirs)], params)
    assert (hit.how, hit.detail) == ("near", detail)
    assert 0.5 <= hit.similarity < 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("芒硝的化学成分主要是？", "葛根的化学成分主要是"),
        ("急性胆囊炎的临床表现不包括", "急性胆囊炎的临床表现是"),
        ("一度房室传导阻滞的心电图表现", "二度I型房室传导阻滞的心电图表现"),
        ("Which drug treats acute gout best?", "Which drug treats chronic gout best?"),
    ],
)
def test_a_short_question_that_differs_in_one_word_is_another_question(ours: str, theirs: str) -> None:
    assert how(ours, item(theirs)) is None
    assert how(theirs, item(theirs)) == "exact"


@pytest.mark.parametrize(
    ("stem", "choices", "listed"),
    [
        ("稳定型心绞痛", ("休息可缓解", "持续数小时", "伴发热"), "A. 休息可缓解\nB. 持续数小时\nC. 伴高热"),
        ("Drug of choice for gout?", ("colchicine", "aspirin", "insulin"), "A. colchicine B. aspirin C. insulin"),
    ],
)
def test_a_short_item_counts_inside_a_question_only_together_with_its_choices(stem: str, choices: tuple[str, ...], listed: str) -> None:
    longer = "请看这道题，并按步骤说明理由。Please answer step by step: "
    assert how(f"{longer}{stem}\n{listed}", item(stem, choices=choices)) == "choices"
    assert how(f"{longer}{stem}", item(stem, choices=choices)) is None
    assert how(f"{longer}\n{listed}", item(stem, choices=choices)) is None
    assert how(f"{longer}{stem}\n{listed}", item(stem)) is None


@pytest.mark.parametrize(
    ("short", "around", "turned"),
    [
        ("属于盆腔结核的体征是", "先看这道题：{}？再想一想。", "不{}"),
        (
            "Which drug reverses the effect of heparin best?",
            "I recall: {} Let me think it over.",
            "Nobody asks which drugs would reverse it.",
        ),
    ],
)
@pytest.mark.parametrize("field", ["question", "reasoning", "answer"])
def test_a_short_question_counts_in_any_text_as_a_whole(short: str, around: str, turned: str, field: str) -> None:
    filler = {"question": "另一题：胸痛两天的病人还要做哪些检查，为什么？", "reasoning": "想。", "answer": "答。"}
    assert how(**filler | {field: filler[field] + around.format(short)}, target=item(short)) == "ngram"
    assert (
        how(**filler | {field: filler[field] + f"{short}\nA. one\nB. two\nC. three\n" + "想了很久也没有答案。" * 12}, target=item(short))
        == "ngram"
    )
    assert how(**filler | {field: filler[field] + turned.format(short)}, target=item(short)) is None


def test_the_name_of_a_disease_is_no_question_and_counts_nowhere() -> None:
    name = "肥厚型梗阻性心肌病"
    assert how("胸痛伴晕厥的病人，心脏彩超如何？", item(name), reasoning=f"这可能就是{name}，应再查。") is None


def test_the_description_of_a_case_counts_with_its_question() -> None:
    target = item("简述该病人的诊断及诊断依据。", case=ZH_CASE)
    assert how("简述该病人的诊断及诊断依据。", target) is None
    assert how(f"{ZH_CASE}，请问怎么办？", target) == "ngram"


def test_the_surest_way_names_a_pair_and_every_item_of_one_text_is_found() -> None:
    twins = [item(ZH_CASE, "1"), item(ZH_CASE, "2"), item("What is gout?", "3")]
    hits = find_hits([row(ZH_CASE, row_id="b"), row(ZH_CASE, row_id="a")], twins, PARAMS)
    assert [(hit.id, hit.item.id, hit.how) for hit in hits] == [
        ("a", "1", "exact"),
        ("a", "2", "exact"),
        ("b", "1", "exact"),
        ("b", "2", "exact"),
    ]


def test_the_order_of_rows_and_items_changes_nothing() -> None:
    topics = ("胸痛", "发热", "cough", "rash")
    rows = [row(f"{ZH_CASE[:k]}{topic} 第{k}问？", row_id=f"{k:02}{topic}") for k, topic in itertools.product((0, 30, 45), topics)]
    items = [item(ZH_CASE, "1"), item(EN_CASE, "2"), item("胸痛第0问", "3"), item("rash 第30问", "4")]
    expected = find_hits(rows, items, PARAMS)
    assert {hit.id for hit in expected} == {"00胸痛", *(f"45{topic}" for topic in topics)}
    random.Random(1).shuffle(rows)
    assert find_hits(rows, items[::-1], PARAMS) == expected


def test_without_rows_or_items_nothing_is_found() -> None:
    assert find_hits([], [item(ZH_CASE)], PARAMS) == find_hits([row(ZH_CASE)], [], PARAMS) == []


def test_tokens_are_han_characters_words_and_numbers() -> None:
    assert num_tokens(matching_key("男，57岁 with 3.5 mg/L")) == 6


@pytest.mark.real_data
def test_of_3000_real_questions_those_meet_exam_items_that_a_reader_found(real_data: Path) -> None:
    """All pairs were read: each is the exam's own case or a variant of it, but 1559 asks something else about one rule."""
    items = read_benchmark(real_data / "cmexam_test.jsonl", "cmexam") + read_benchmark(real_data / "cmb_clin.json", "clin")
    lines = (real_data / "medical_o1_zh_questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row(json.loads(line)["Question"], row_id=str(number)) for number, line in enumerate(lines)]
    hits = find_hits(rows, items, PARAMS)
    found = {int(hit.id) for hit in hits}
    assert {70, 203, 915, 1623, 1636, 1677, 1720, 2153, 2405, 2578, 2962} <= found
    assert 18 <= len({rows[number].question for number in found}) <= 23
    assert {hit.item.benchmark for hit in hits} == {"cmexam"}
