"""Field mappings: which columns are taken, and what is said when none fits."""

from __future__ import annotations

from typing import Any

import pytest

from medcot.errors import DataError
from medcot.mapping import MAPPINGS, Mapping, choose_mapping, to_raw_records
from medcot.records import RawRecord
from medcot.rows import Row, checked_row, unreadable


def rows(*values: dict[str, Any]) -> list[Row]:
    return [checked_row(value, "") for value in values]


def one(values: dict[str, Any], mapping: str) -> RawRecord:
    return to_raw_records(rows(values), MAPPINGS[mapping], "test.json")[0]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["Question", "Complex_CoT", "Response"], "o1"),
        (["id", "Question"], "o1"),
        (["question", "think", "answer", "extra"], "question_think_answer"),
        (["instruction", "input", "output"], "alpaca"),
        (["instruction", "output"], "alpaca"),
        (["Question", "instruction", "input", "output"], "alpaca"),
    ],
)
def test_auto_takes_the_mapping_with_the_most_columns_present(columns: list[str], name: str) -> None:
    chosen = choose_mapping(rows(dict.fromkeys(columns, "文")), None, "f.json")
    assert chosen == MAPPINGS[name]


def test_one_row_with_other_columns_does_not_change_the_mapping() -> None:
    odd = {"instruction": "写", "input": "", "output": "诗"}
    usual = {"question": "问", "answer": "答"}
    assert choose_mapping(rows(odd, usual, usual, usual), None, "f.json") == MAPPINGS["question_think_answer"]


def test_columns_that_fit_no_mapping_are_listed_with_a_guess() -> None:
    with pytest.raises(DataError) as caught:
        choose_mapping(rows({"Questions": "胸痛？", "reply": "ECG"}), None, "f.json")
    assert str(caught.value) == (
        "f.json: no field mapping fits the columns, got Questions, reply; did you mean `Questions` as `Question`? rename the columns to "
        "Question/Complex_CoT/Response or question/think/answer or instruction/input/output, or name yours under `download.fields`"
    )


def test_a_mapping_asked_for_must_fit_too() -> None:
    with pytest.raises(DataError, match="rename the columns to 问题/思考/答案, or"):
        choose_mapping(rows({"Question": "x"}), Mapping("custom", question="问题", reasoning="思考", answer="答案"), "f.json")


def test_without_a_readable_row_there_is_nothing_to_choose_from() -> None:
    broken = [unreadable("invalid_json", "at byte 0", "oops 坏")]
    assert choose_mapping(broken, None, "f.jsonl") is None
    (record,) = to_raw_records(broken, None, "f.jsonl")
    assert (record.error, record.detail, record.raw, record.question) == ("invalid_json", "at byte 0", "oops 坏", None)


def test_a_custom_mapping_names_its_own_columns() -> None:
    mapping = Mapping("custom", question="问题", reasoning="思考", answer="答案")
    (record,) = to_raw_records(rows({"问题": "胸痛？", "思考": "Think.", "答案": "心电图"}), mapping, "f.csv")
    assert (record.question, record.reasoning, record.answer, record.source) == ("胸痛？", "Think.", "心电图", "f.csv")


def test_copies_get_numbered_ids_and_unmapped_columns_still_tell_rows_apart() -> None:
    row = {"Question": "问", "Complex_CoT": "想", "Response": "答"}
    records = to_raw_records(rows(row, row, {**row, "id": 2}, row), MAPPINGS["o1"], "f.json")
    first = records[0].id
    assert [record.id for record in records] == [first, f"{first}-1", records[2].id, f"{first}-2"]
    assert records[2].id != first
    assert len({record.content_hash for record in records}) == 1


def test_missing_columns_and_nulls_are_said_with_the_column_that_was_meant() -> None:
    record = one({"Question": "问", "Complex_COT": "想", "Response": None}, "o1")
    assert (record.error, record.reasoning, record.answer) == (None, None, None)
    assert record.detail == "reasoning: no column `Complex_CoT`, did you mean `Complex_COT`?; answer: `Response` is null"


@pytest.mark.parametrize(
    ("output", "reasoning", "answer"),
    [
        ("<think>\n先想。\n</think>\n\n答案。", "\n先想。\n", "\n\n答案。"),
        (" \n<think>Step 1.</think>Answer.", "Step 1.", "Answer."),
        ("<think></think>答", "", "答"),
    ],
)
def test_one_think_block_at_the_start_is_split_out_untouched(output: str, reasoning: str, answer: str) -> None:
    record = one({"instruction": "问", "input": "", "output": output}, "alpaca")
    assert (record.question, record.reasoning, record.answer, record.error) == ("问", reasoning, answer, None)


@pytest.mark.parametrize(
    ("output", "tags"),
    [
        ("只有答案", 0),
        ("<think>never closed", 1),
        ("answer first <think>then</think>", 2),
        ("</think>颠倒<think>", 2),
        ("<think>a</think><think>b</think>c", 4),
        ("<think>a<think>b</think></think>c", 4),
    ],
)
def test_any_other_think_block_is_marked_and_never_repaired(output: str, tags: int) -> None:
    record = one({"instruction": "问", "output": output}, "alpaca")
    assert (record.error, record.reasoning, record.answer, record.raw) == ("think_block", None, output, None)
    assert record.detail == f"output: {tags} think tags; one <think>…</think> must stand at its start"


def test_alpaca_input_is_joined_to_the_instruction_by_a_newline() -> None:
    block = "<think>想</think>答"
    assert one({"instruction": "判断", "input": "血压 180/110", "output": block}, "alpaca").question == "判断\n血压 180/110"
    assert one({"instruction": "判断", "input": None, "output": block}, "alpaca").question == "判断"
    assert one({"instruction": "", "input": "Is it MI?", "output": block}, "alpaca").question == "Is it MI?"
    assert one({"instruction": "判断", "input": 7, "output": block}, "alpaca").question == ["判断", 7]
    assert one({"input": "x", "output": 7}, "alpaca").detail == "question: no column `instruction`"
    assert one({"Instruction": "x", "output": 7}, "alpaca").detail == "question: no column `instruction`, did you mean `Instruction`?"


LABELLED = Mapping("custom", question="问", reasoning="想", answer="答", category="科室", source="出处")
ROW = {"问": "胸痛？", "想": "Think.", "答": "心电图"}


def test_class_and_source_of_a_row_come_from_their_columns_and_are_no_part_of_its_content() -> None:
    labelled = [{**ROW, "科室": "心内科", "出处": "exam 2020"}, {**ROW, "科室": "", "出处": None}, ROW]
    records = to_raw_records(rows(*labelled), LABELLED, "f.csv")
    assert [(record.category, record.source) for record in records] == [("心内科", "exam 2020"), (None, "f.csv"), (None, "f.csv")]
    assert len({record.content_hash for record in records}) == 1


def test_a_class_that_is_no_text_refuses_its_row() -> None:
    (record,) = to_raw_records(rows({**ROW, "科室": 3, "出处": ["a"]}), LABELLED, "f.json")
    assert (record.error, record.detail, record.category, record.source) == ("not_text", "category: int; source: list", None, "f.json")
    assert record.question == "胸痛？", "the row's texts stay, for the quarantine"


def test_a_column_of_classes_that_no_row_has_is_named_with_a_guess() -> None:
    for field, wanted in (("category", Mapping("custom", "问", "答", "想", category="科室")), ("source", LABELLED)):
        with pytest.raises(DataError) as caught:
            choose_mapping(rows({**ROW, "科": "x", "科室": "y"} if field == "source" else {**ROW, "科": "x"}), wanted, "f.csv")
        assert str(caught.value).startswith(f"params.yaml: download.fields.{field}: no row of f.csv has this column, got ")
        assert "the columns are " in str(caught.value)
    assert choose_mapping(rows({**ROW, "科室": "a"}, {**ROW, "出处": "b"}), LABELLED, "f.csv") == LABELLED


def test_no_label_detail_or_message_repeats_personal_data() -> None:
    mapping = Mapping("custom", "question", "answer", "think", category="dept", source="from")
    labels = {"dept": "内科，电话13812345678", "from": "姓名：张伟明，MRN: ZY0098765"}
    record = to_raw_records(rows({"question": "问", "think": "想", "answer": "答", **labels}), mapping, "f")[0]
    assert (record.category, record.source) == ("内科，电话[手机号1]", "姓名：[姓名1]，MRN: [病历号1]")
    missing = to_raw_records(rows({"Question": "问", "Complex_CoT 13812345678": "想", "Response": "答"}), MAPPINGS["o1"], "f")[0]
    assert missing.detail == "reasoning: no column `Complex_CoT`, did you mean `Complex_CoT [MOBILE1]`?"
    with pytest.raises(DataError) as headless:  # the first row of a CSV without a header stands for its columns
        choose_mapping(rows({"姓名：张伟明": "", "手机13812345678": ""}), None, "f.csv")
    with pytest.raises(DataError) as column:
        choose_mapping(rows({"question": "", "手机13812345678": ""}), Mapping("custom", "question", "a", category="dept"), "f.csv")
    for error in (headless, column):
        assert "手机[手机号1]" in str(error.value)
        assert "13812345678" not in str(error.value)
        assert "张伟明" not in str(error.value)
