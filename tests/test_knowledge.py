"""From files to prompts: what is asked, of which split, with which mark, and that nothing that cannot be scored goes uncounted."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from medcot.benchmarks import Item, read_benchmarks
from medcot.decontamination import ITEM_SCHEMA
from medcot.errors import DataError
from medcot.evaluate_params import MaxItems
from medcot.general_texts import read_general_items, read_texts
from medcot.knowledge import (
    case_of,
    excluded_frame,
    general_tasks,
    half,
    knowledge_tasks,
    language,
    make_prompt,
    read_marks,
)
from medcot.tasks import prompts_hash

ALL = MaxItems.model_validate({})
CASE = "男，60 岁，咳嗽、发热三天。"


def items(count: int = 40) -> list[Item]:
    """Items of two benchmarks: one with choices, one of cases with two questions each."""
    exam = [Item(f"e{i}", "exam", f"血钾 {i}？", ("高", "低", "正常"), "ABC"[i % 3]) for i in range(count)]
    clinic = [Item(f"c{i}-{j}", "clinic", f"Question {j}?", (), "肺炎", f"{CASE}{i}") for i in range(count // 2) for j in range(2)]
    return exam + clinic


def most(**values: int) -> MaxItems:
    """At most so many items of a kind."""
    return MaxItems.model_validate(values)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_items_with_choices_are_asked_twice_and_those_without_once():
    asked = {split: knowledge_tasks(items(), {}, split, ALL, 42) for split in ("val", "test")}
    for split in asked.values():
        by = {endpoint: {p.item for p in split.prompts if p.endpoint == endpoint} for endpoint in ("choice", "choice_generated", "open")}
        assert by["choice"] == by["choice_generated"]
        assert not by["choice"] & by["open"]
    total = Counter(prompt.endpoint for split in asked.values() for prompt in split.prompts)
    assert total == {"choice": 40, "choice_generated": 40, "open": 40}
    assert not {p.item for p in asked["val"].prompts} & {p.item for p in asked["test"].prompts}


def test_a_benchmark_is_split_in_halves_that_never_move():
    splits = [half("exam", f"e{i}") for i in range(2000)]
    assert abs(splits.count("val") - 1000) < 100
    assert [half("exam", "e0"), half("exam", "e1"), half("exam", "e2"), half("clinic", "e0")] == ["test", "test", "test", "val"]


def test_the_questions_of_one_case_share_their_cluster_and_their_split():
    asked = knowledge_tasks(items(), {}, "val", ALL, 42).prompts
    cases = Counter(prompt.case for prompt in asked if prompt.endpoint == "open")
    assert set(cases.values()) == {2}
    assert case_of(Item("a", "b", "?", (), "x", CASE)) == case_of(Item("z", "b", "!", (), "y", CASE)) != CASE
    assert case_of(Item("a", "b", "?")) == "a"


def test_a_cap_chooses_the_same_items_whatever_their_order_and_however_many_others_there_are():
    made = items(200)
    few = knowledge_tasks(made, {}, "val", most(choice=10, choice_generated=4, open=6), 42).prompts
    shuffled = knowledge_tasks(random.Random(1).sample(made, len(made)), {}, "val", most(choice=10, choice_generated=4, open=6), 42).prompts
    assert few == shuffled
    assert Counter(prompt.endpoint for prompt in few) == {"choice": 10, "choice_generated": 4, "open": 6}
    by = {endpoint: {p.item for p in few if p.endpoint == endpoint} for endpoint in ("choice", "choice_generated")}
    assert by["choice_generated"] < by["choice"]
    more = {p.item for p in knowledge_tasks(made, {}, "val", most(choice=20), 42).prompts if p.endpoint == "choice"}
    assert by["choice"] < more
    assert by["choice"] != {p.item for p in knowledge_tasks(made, {}, "val", most(choice=10), 43).prompts if p.endpoint == "choice"}


def test_a_cap_is_one_of_each_benchmark_and_0_leaves_the_kind_out():
    made = [*items(60), *(Item(f"x{i}", "other", f"{i}?", ("a", "b"), "A") for i in range(60))]
    asked = knowledge_tasks(made, {}, "test", most(choice=5, choice_generated=0, open=0), 42)
    assert Counter((p.endpoint, p.benchmark) for p in asked.prompts) == {("choice", "exam"): 5, ("choice", "other"): 5}
    assert asked.excluded == []


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        (
            "血钾 3.1 mmol/L 说明什么？",
            ("请只回答正确选项", "请在最后一行写“答案：”，后接", "本题有多个正确选项。"),
        ),
        (
            "What does K 3.1 mmol/L mean?",
            ("Answer with the letter", "End with a line that says `Answer: `", "More than one choice"),
        ),
    ],
)
def test_an_item_is_put_in_its_own_language_with_its_case_and_lettered_choices(question, parts):
    letter, one, several = parts
    texts = ("high", "low", "normal")
    item = Item("1", "exam", question, texts, "B", "Case 病例")
    asked = make_prompt(item, "choice", True)
    listed = "\n".join(f"{mark}. {text}" for mark, text in zip("ABC", asked.choices, strict=True))
    assert asked.text.startswith(f"Case 病例\n{question}\n\n{listed}\n\n{letter}")
    assert (set(asked.choices), asked.contaminated) == (set(texts), True)
    assert asked.choices["ABC".index(asked.reference)] == "low"
    assert one in make_prompt(item, "choice_generated", None).text
    assert several in make_prompt(Item("1", "exam", question, texts, "AB", ""), "choice_generated", None).text
    assert make_prompt(Item("1", "exam", question, (), "肺炎", CASE), "open", None).text == f"{CASE}\n{question}"


def test_choices_are_asked_in_an_order_that_favours_no_letter():
    made = [Item(f"i{i}", "exam", "哪一项？", tuple(f"选项 {j}" for j in range(5)), "B") for i in range(1000)]
    asked = [make_prompt(item, "choice", None) for item in made]
    counts = Counter(prompt.reference for prompt in asked)
    assert set(counts) == set("ABCDE")
    assert all(abs(count - 200) < 60 for count in counts.values())
    assert {prompt.choices["ABCDE".index(prompt.reference)] for prompt in asked} == {"选项 1"}
    assert [prompt.choices for prompt in asked] == [make_prompt(item, "choice_generated", True).choices for item in made]


OTHERS = [("甲", "乙", "以上都是"), ("A", "B", "A和B"), ("x", "y", "None of the above"), ("x", "y", "Both A and B"), ("x", "y", "A, B")]


@pytest.mark.parametrize("choices", OTHERS)
def test_choices_that_speak_of_others_keep_their_order(choices):
    for i in range(20):
        asked = make_prompt(Item(f"i{i}", "exam", "Which? 哪项？", choices, "AC"), "choice_generated", None)
        assert (asked.choices, asked.reference) == (choices, "AC")


def test_all_right_letters_move_with_their_choices():
    for i in range(30):
        asked = make_prompt(Item(f"i{i}", "exam", "多选？", ("甲", "乙", "丙", "丁"), "ACD"), "choice_generated", None)
        assert asked.reference == "".join(sorted(asked.reference))
        assert {asked.choices["ABCD".index(letter)] for letter in asked.reference} == {"甲", "丙", "丁"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("血钾？", "zh"),
        ("K?", "en"),
        ("ECG 提示什么？", "zh"),
        ("Explain the term 阿是穴 as it is used in the practice of acupuncture by doctors today", "en"),
    ],
)
def test_the_language_of_a_text_is_told_by_its_share_of_han(text, expected):
    assert language(text) == expected


def test_an_item_that_cannot_be_scored_is_counted_named_and_asked_of_nobody(caplog):
    unfit = [
        Item("1", "exam", "没有答案？", ("甲", "乙"), None),
        Item("2", "exam", "Which is out of range?", ("a", "b"), "BCE"),
        Item("3", "exam", "多选？", ("甲", "乙", "丙"), "AB"),
        Item("4", "exam", "没有要点？", (), "诊断："),
        Item("5", "exam", "<|im_end|> 里面有什么？", ("甲", "乙"), "A"),
        Item("6", "exam", "空白？", (), "  "),
        Item("7", "exam", "正常？", ("甲", "乙"), "A"),
    ]
    with caplog.at_level(logging.WARNING, "medcot"):
        both = [knowledge_tasks(unfit, {}, split, ALL, 42) for split in ("val", "test")]
    frame = pl.concat([excluded_frame(tasks) for tasks in both]).sort("endpoint", "item")
    assert frame.rows() == [
        ("choice", "exam", "1", "no_answer"),
        ("choice", "exam", "2", "answer_names_no_choice"),
        ("choice", "exam", "3", "several_right_choices"),
        ("choice", "exam", "5", "control_token"),
        ("choice_generated", "exam", "1", "no_answer"),
        ("choice_generated", "exam", "2", "answer_names_no_choice"),
        ("choice_generated", "exam", "5", "control_token"),
        ("open", "exam", "4", "no_key_points"),
        ("open", "exam", "6", "no_answer"),
    ]
    assert sorted((p.endpoint, p.item) for tasks in both for p in tasks.prompts) == [
        ("choice", "7"),
        ("choice_generated", "3"),
        ("choice_generated", "7"),
    ]
    for endpoint, item, reason in (("choice", "3", "several_right_choices"), ("open", "4", "no_key_points")):
        assert f"{endpoint}: 1 items of exam cannot be scored ({reason}), such as {item}" in caplog.text


def test_the_counts_add_up_to_the_items():
    made = [*items(), Item("none", "exam", "?", ("a", "b"), None), Item("two", "exam", "?", ("a", "b"), "AB")]
    for endpoint, number in (("choice", 42), ("choice_generated", 42), ("open", 40)):
        halves = [knowledge_tasks(made, {}, split, ALL, 42) for split in ("val", "test")]
        assert sum(each.endpoint == endpoint for tasks in halves for each in (*tasks.prompts, *tasks.excluded)) == number


def test_marks_are_read_and_absent_where_nothing_was_checked(tmp_path):
    assert read_marks(tmp_path / "items.parquet") == {}
    rows = [("exam", "e0", True, "exact", 1.0, 2, 0), ("exam", "e1", False, None, None, 0, 0)]
    pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row").write_parquet(tmp_path / "items.parquet")
    marks = read_marks(tmp_path / "items.parquet")
    assert marks == {"exam:e0": True, "exam:e1": False}
    asked = [p for split in ("val", "test") for p in knowledge_tasks(items(), marks, split, ALL, 42).prompts if p.endpoint == "choice"]
    assert {p.item: p.contaminated for p in asked if p.item in ("e0", "e1", "e2")} == {"e0": True, "e1": False, "e2": None}


def test_broken_marks_are_one_line(tmp_path):
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"items\.parquet: the file is damaged.*dvc repro -f decontaminate"):
        read_marks(tmp_path / "items.parquet")


def general(root: Path) -> Path:
    """A folder of general files of each kind, and one that is none."""
    write(root / "exam.jsonl", [{"id": f"q{i}", "question": f"首都 {i}？", "choices": ["甲", "乙"], "answer": "A"} for i in range(20)])
    write(root / "maths.jsonl", [{"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1:,}"} for i in range(20)])
    write(root / "alpaca.jsonl", [{"instruction": f"说 {i}", "input": "x", "output": f"好 {i}"} for i in range(20)])
    write(root / "plain.jsonl", [{"text": f"A text {i}."} for i in range(20)])
    (root / "folder").mkdir(exist_ok=True)
    write(root / "folder/a.jsonl", [{"question": f"Capital {i}?", "A": "x", "B": "y", "answer": "B"} for i in range(20)])
    (root / "README.md").write_text("no benchmark", encoding="utf-8")
    return root


def test_general_files_are_told_apart_by_their_columns(tmp_path):
    further = {
        "suite": write(tmp_path / "more/suite.jsonl", [{"id": "t1", "prompt": "河？", "text": "弯。"}, {"id": "t2", "text": "Straight."}])
    }
    both = [general_tasks(general(tmp_path / "general"), further, split, ALL, 42) for split in ("val", "test")]
    total = Counter((p.endpoint, p.benchmark) for tasks in both for p in tasks.prompts)
    assert total == {("general_choice", "exam"): 20, ("general_choice", "folder"): 20, ("general_answer", "maths"): 20}
    assert {p.contaminated for tasks in both for p in tasks.prompts} == {None}
    texts = {text.id: (text.prompt, text.text) for tasks in both for text in tasks.texts}
    assert len(texts) == 42
    assert (texts["alpaca:3"], texts["plain:3"]) == (("说 3\nx", "好 3"), ("", "A text 3."))
    assert (texts["suite:t1"], texts["suite:t2"]) == (("河？", "弯。"), ("", "Straight."))
    answers = {p.item: p.reference for tasks in both for p in tasks.prompts if p.benchmark == "maths"}
    assert answers["0"] == "1"
    assert answers["19"] == "20"


def test_whatever_is_asked_of_general_files_is_compared_with_the_training_rows_under_the_same_key(tmp_path):
    folder, further = general(tmp_path / "general"), {"suite": write(tmp_path / "more/suite.jsonl", [{"prompt": "河？", "text": "弯。"}])}
    items = {item.key: item for item in read_general_items(folder, further)}
    asked = [general_tasks(folder, further, split, ALL, 42) for split in ("val", "test")]
    keys = [f"{p.benchmark}:{p.item}" for tasks in asked for p in tasks.prompts] + [text.id for tasks in asked for text in tasks.texts]
    assert sorted(items) == sorted(keys)
    assert (items["alpaca:3"].text, items["plain:3"].text, items["suite:0"].text) == ("说 3\nx\n好 3", "A text 3.", "河？\n弯。")


def test_general_tasks_do_not_depend_on_the_order_of_rows(tmp_path):
    limits = most(general_choice=3, general_answer=3, general_text=5)
    first = general_tasks(general(tmp_path / "a"), {}, "val", limits, 42)
    rows = [json.loads(line) for line in (tmp_path / "a/exam.jsonl").read_text(encoding="utf-8").splitlines()]
    write(general(tmp_path / "b") / "exam.jsonl", rows[::-1])
    second = general_tasks(tmp_path / "b", {}, "val", limits, 42)
    assert prompts_hash(first.prompts) == prompts_hash(second.prompts)
    assert first.texts == second.texts
    assert len(first.texts) == 5


def test_an_empty_general_folder_asks_nothing(tmp_path):
    tasks = general_tasks(tmp_path, {}, "val", ALL, 42)
    assert tasks == ([], [], [])


def test_a_general_answer_without_an_exact_result_and_an_empty_text_are_counted(tmp_path):
    write(tmp_path / "essay.jsonl", [{"question": "为什么天空是蓝色的？", "answer": "因为散射。\n波长短的光散射更强。"}])
    write(tmp_path / "alpaca.jsonl", [{"instruction": "说", "output": ""}, {"instruction": "Say <|im_end|>", "output": "x"}])
    frame = pl.concat([excluded_frame(general_tasks(tmp_path, {}, split, ALL, 42)) for split in ("val", "test")]).sort("reason")
    assert frame.rows() == [
        ("general_text", "alpaca", "alpaca:1", "control_token"),
        ("general_answer", "essay", "0", "no_exact_answer"),
        ("general_text", "alpaca", "alpaca:0", "no_text"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"instruction": "说", "output": 3}], r"texts\.jsonl: row 0: no text in column output or text; give instruction"),
        (
            [{"text": "a", "id": "1"}, {"text": "b", "id": "1"}],
            r"texts\.jsonl: row 1: an id stands twice, got texts:1; make the ids",
        ),
        ([{"text": "好"}, "no row"], r"texts\.jsonl: row 1: cannot be read"),
    ],
)
def test_a_file_of_texts_that_cannot_be_read_names_file_and_row(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_texts(write(tmp_path / "texts.jsonl", rows), "texts")


def test_a_general_file_that_is_nothing_known_stops_the_stage(tmp_path):
    write(tmp_path / "odd.jsonl", [{"foo": 1}])
    with pytest.raises(DataError, match=r"odd\.jsonl: row 0: no benchmark layout has these columns"):
        general_tasks(tmp_path, {}, "val", ALL, 42)


@pytest.mark.real_data
def test_the_real_files_are_asked_in_full_and_the_rest_is_counted(tmp_path, real_data):
    for folder, names in (("b", ("cmexam_test.jsonl", "cmb_clin.json")), ("g", ("gsm8k_test.jsonl", "alpaca_zh_general.json"))):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copyfile(real_data / name, tmp_path / folder / name)
    made, limits = read_benchmarks(tmp_path / "b"), most(choice_generated=10_000, general_answer=10_000)
    knowledge = [knowledge_tasks(made, {}, split, limits, 42) for split in ("val", "test")]
    rest = [general_tasks(tmp_path / "g", {}, split, limits, 42) for split in ("val", "test")]
    asked = Counter(p.endpoint for tasks in (*knowledge, *rest) for p in tasks.prompts)
    assert asked == {"choice": 6594, "choice_generated": 6797, "open": 208, "general_answer": 1319}
    reasons = Counter((each.endpoint, each.reason) for tasks in (*knowledge, *rest) for each in tasks.excluded)
    assert reasons == {
        ("choice", "several_right_choices"): 203,
        ("choice", "answer_names_no_choice"): 1,
        ("choice_generated", "answer_names_no_choice"): 1,
        **{(endpoint, "asked_twice"): 9 for endpoint in ("choice", "choice_generated")},
        **{(endpoint, "unclear_choices"): 4 for endpoint in ("choice", "choice_generated")},
    }
    assert len({p.case for tasks in knowledge for p in tasks.prompts if p.endpoint == "open"}) == 74
    assert sum(len(tasks.texts) for tasks in rest) == 1000
    zh = [p for tasks in knowledge for p in tasks.prompts]
    assert sum("请" in p.text for p in zh if p.endpoint != "open") == 6594 + 6797


@pytest.mark.parametrize(
    ("choices", "answer", "reasons"),
    [
        (["心电图"], "A", ["unclear_choices"] * 2),
        (["心电图", "心电图 ", "X-ray"], "A", ["unclear_choices"] * 2),
        (["心电图", "", "X-ray"], "C", ["unclear_choices"] * 2),
        ([f"drug {i}" for i in range(10)], "J", ["too_many_choices"]),
        ([f"第{i}项" for i in range(27)], "A", ["too_many_choices"] * 2),
        ([f"drug {i}" for i in range(8)], "H", []),
    ],
)
def test_choices_that_no_letter_tells_apart_are_asked_of_neither_arm(tmp_path, choices, answer, reasons):
    write(tmp_path / "exam.jsonl", [{"question": "胸痛首选什么？ First test?", "choices": choices, "answer": answer}])
    tasks = [knowledge_tasks(read_benchmarks(tmp_path), {}, split, ALL, 42) for split in ("val", "test")]
    assert [each.reason for both in tasks for each in both.excluded] == reasons
    assert sum(len(both.prompts) for both in tasks) == 2 - len(reasons)


def test_a_question_that_stands_twice_is_asked_once_in_either_split(tmp_path):
    rows = [{"question": f"问题{i}？ Question {i}?", "choices": ["甲", "乙", "丙"], "answer": "B"} for i in range(20)]
    copies = [{**row, "choices": ["丙", "乙", "甲"], "question": row["question"].replace("？", "? ")} for row in rows]
    write(tmp_path / "exam.jsonl", rows)
    once = [knowledge_tasks(read_benchmarks(tmp_path), {}, split, ALL, 42).prompts for split in ("val", "test")]
    write(tmp_path / "exam_copy.jsonl", [*copies, {**rows[0], "choices": ["甲", "乙", "丁"]}])
    both = [knowledge_tasks(read_benchmarks(tmp_path), {}, split, ALL, 42) for split in ("val", "test")]
    assert [[p for p in tasks.prompts if p.benchmark == "exam"] for tasks in both] == once
    assert [(p.item, p.endpoint) for tasks in both for p in tasks.prompts if p.benchmark != "exam"] == [
        ("20", "choice"),
        ("20", "choice_generated"),
    ]
    assert Counter(each.reason for tasks in both for each in tasks.excluded) == {"asked_twice": 40}
