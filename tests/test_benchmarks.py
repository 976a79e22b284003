"""Benchmark loaders: every published layout gives the same items, names are safe keys, and what is no benchmark is one line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medcot.benchmarks import Item, benchmark_name, read_benchmark, read_benchmarks
from medcot.errors import DataError

STEM, CHOICES = "窦性心律的正常频率是？", ("40次/分", "60～100次/分", "150次/分")
LETTERED = dict(zip("ABC", CHOICES, strict=True))


def write(path: Path, content: Any) -> Path:
    """Write rows as JSON Lines, one JSON value, or text, by the extension and the type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        lines = path.suffix == ".jsonl"
        content = (
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content) if lines else json.dumps(content, ensure_ascii=False)
        )
    path.write_text(content, encoding="utf-8")
    return path


LAYOUTS: dict[str, tuple[str, Any]] = {
    "CMExam as JSON Lines": (
        "cmexam.jsonl",
        [{"problem_id": 7, "problem_text": STEM, "choices": list(CHOICES), "answer": ["b"], "points": 1, "text_only": True}],
    ),
    "CMExam as CSV": (
        "cmexam.csv",
        f'id,Question,Options,Answer,Explanation\n7,{STEM},"A {CHOICES[0]}\nB {CHOICES[1]}\nC {CHOICES[2]}",B,略\n',
    ),
    "CMExam as JSON with keys and values": (
        "cmexam.json",
        [{"id": 7, "Question": STEM, "Options": [{"key": x, "value": text} for x, text in LETTERED.items()], "Answer": "B"}],
    ),
    "MedQA": ("medqa.jsonl", [{"id": 7, "question": STEM, "options": LETTERED, "answer": CHOICES[1], "answer_idx": "B", "meta_info": "x"}]),
    "MedQA without answer_idx": ("medqa.jsonl", [{"id": 7, "question": STEM, "options": LETTERED, "answer": CHOICES[1]}]),
    "CMB exam": (
        "cmb.json",
        [{"id": 7, "exam_type": "医师考试", "question": STEM, "answer": "B", "option": {**LETTERED, "D": "", "E": ""}}],
    ),
    "C-Eval": ("ceval.csv", f"id,question,A,B,C,D,answer,explanation\n7,{STEM},{CHOICES[0]},{CHOICES[1]},{CHOICES[2]},,B,\n"),
    "CMMLU": ("cmmlu.csv", f",Question,A,B,C,D,Answer\n7,{STEM},{CHOICES[0]},{CHOICES[1]},{CHOICES[2]},,B\n"),
    "plain, answer as a letter": ("mine.json", [{"id": "7", "question": STEM, "choices": list(CHOICES), "answer": "b"}]),
    "plain, answer as a position": ("mine.jsonl", [{"id": "7", "question": STEM, "choices": list(CHOICES), "answer": 1}]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_item(tmp_path: Path, layout: str) -> None:
    name, content = LAYOUTS[layout]
    path = write(tmp_path / name, content)
    assert read_benchmark(path, "bench") == [Item("7", "bench", STEM, CHOICES, "B")]


def test_parquet_files_are_read_too(tmp_path: Path) -> None:
    frame = {"question": ["What is the normal sinus rate?"], "choices": [["40", "60 to 100"]], "answer": [1], "subject": ["anatomy"]}
    pl.DataFrame(frame).write_parquet(tmp_path / "mmlu.parquet")
    assert read_benchmark(tmp_path / "mmlu.parquet", "mmlu") == [
        Item("0", "mmlu", "What is the normal sinus rate?", ("40", "60 to 100"), "B")
    ]


def test_an_open_question_keeps_its_answer_as_text_and_needs_none(tmp_path: Path) -> None:
    rows = [{"question": "Janet has 3 ducks. How many?", "answer": "3 ducks #### 3"}, {"question": "2 + 2?"}]
    items = read_benchmark(write(tmp_path / "gsm8k.jsonl", rows), "gsm8k")
    assert [(item.id, item.choices, item.answer) for item in items] == [("0", (), "3 ducks #### 3"), ("1", (), None)]


@pytest.mark.parametrize("name", ["answer", "solution"])
def test_a_clinical_case_is_one_item_for_each_of_its_questions(tmp_path: Path, name: str) -> None:
    pairs = [{"question": "诊断是什么？", name: "腹股沟斜疝"}, {"question": "如何治疗？", name: "手术"}]
    case = {"id": "3", "title": "案例", "description": "男，49岁，右下腹痛3小时。", "QA_pairs": pairs}
    first, second = read_benchmark(write(tmp_path / "clin.json", [case]), "clin")
    assert first == Item("3-0", "clin", "诊断是什么？", (), "腹股沟斜疝", "男，49岁，右下腹痛3小时。")
    assert (second.id, second.text) == ("3-1", "男，49岁，右下腹痛3小时。\n如何治疗？")


@pytest.mark.parametrize(
    ("choices", "given", "answer"),
    [
        (CHOICES, ["a", "c"], "AC"),
        (CHOICES, "C,A", "AC"),
        (CHOICES, "", None),
        (CHOICES, None, None),
        (("Yes", "No"), "No", "B"),
        (("B", "A", "AB", "O"), "AB", "C"),
        (("B", "A", "AB", "O"), "A", "A"),
        (("yes", "no"), "maybe", "maybe"),
        (CHOICES, "BCE", "BCE"),
        (CHOICES, 9, "9"),
    ],
)
def test_an_answer_is_letters_where_it_names_choices_and_else_as_given(
    tmp_path: Path, choices: Any, given: Any, answer: str | None
) -> None:
    path = write(tmp_path / "x.jsonl", [{"question": STEM, "choices": list(choices), "answer": given}])
    assert read_benchmark(path, "x")[0].answer == answer


def test_a_folder_is_one_benchmark_and_its_files_stand_in_the_ids(tmp_path: Path) -> None:
    header = ",Question,A,B,C,D,Answer\n"
    write(tmp_path / "CMMLU v1/test/anatomy.csv", f"{header}0,壁胸膜不包括,甲,乙,丙,丁,B\n1,What is it?,a,b,c,d,A\n")
    write(tmp_path / "CMMLU v1/virology.csv", f"{header}0,病毒是,甲,乙,丙,丁,C\n")
    write(tmp_path / "README.md", "# not a benchmark")
    write(tmp_path / "CMMLU v1/README.md", "# not a benchmark")
    write(tmp_path / ".DS_Store", "x")
    write(tmp_path / "CMMLU v1/.cache/x.csv", "a\n1\n")
    assert [item.key for item in read_benchmarks(tmp_path)] == ["cmmlu_v1:test/anatomy:0", "cmmlu_v1:test/anatomy:1", "cmmlu_v1:virology:0"]


def test_items_come_sorted_with_further_files_among_them(tmp_path: Path) -> None:
    sample = write(tmp_path / "own.jsonl", [{"id": "2", "question": STEM}, {"id": "1", "question": "Why?"}])
    write(tmp_path / "folder/zz.jsonl", [{"question": "最后？"}])
    write(tmp_path / "folder/aa.jsonl", [{"question": "First?"}])
    assert [item.key for item in read_benchmarks(tmp_path / "folder", {"sample": sample})] == ["aa:0", "sample:1", "sample:2", "zz:0"]


def test_an_empty_or_missing_folder_holds_no_items(tmp_path: Path) -> None:
    assert read_benchmarks(tmp_path) == read_benchmarks(tmp_path / "none") == []


@pytest.mark.parametrize(("file", "name"), [("CMExam-Test.v2.jsonl", "cmexam_test_v2"), ("C-Eval 医学.csv", "c_eval"), ("_a_.json", "a")])
def test_a_benchmark_is_called_after_its_file_in_safe_letters(file: str, name: str) -> None:
    assert benchmark_name(Path(file)) == name


BAD = {
    "columns": ("x.jsonl", '{"stem": "问"}\n', "row 0: no benchmark layout has these columns, got stem; give question with choices"),
    "answers alone": ("x.json", '[{"id": 1, "answer": "B"}]', "row 0: no benchmark layout has these columns, got id, answer"),
    "broken line": ("x.jsonl", '{"question": "问"}\n{"question": \n', "row 1: cannot be read: invalid_json, got "),
    "no text": ("x.jsonl", '{"question": 5}\n', "row 0: the question is no text, got 5; mend or remove the row"),
    "blank": ("x.jsonl", '{"question": " "}\n', "row 0: the question is no text"),
    "options": ("x.csv", 'Question,Options\n问,"A 甲\nC 丙"\n', "row 0: Options are not lines `A …`, `B …` in order"),
    "letters": (
        "x.jsonl",
        '{"question": "问", "options": {"A": "甲", "C": "丙"}}\n',
        "row 0: the choices are not lettered from A on, got A, C; letter them A, B, C …",
    ),
    "choices": ("x.jsonl", '{"question": "问", "choices": "甲乙"}\n', "row 0: the choices are no list and no mapping of letters, got 甲乙"),
    "pairs": ("x.json", '[{"description": "男", "QA_pairs": ["问"]}]', "row 0: QA_pairs is no list of questions"),
    "ids": (
        "x.jsonl",
        '{"id": 1, "question": "问"}\n{"id": 1, "question": "Why?"}\n',
        "x.jsonl: an id stands twice, got x:1; make the ids",
    ),
    "format": ("x.txt", "问\n", "x.txt: not a format that is read, got .txt; use one of .json"),
    "name": ("题.jsonl", '{"question": "问"}\n', "题.jsonl: the name holds no letter a-z and no digit, got 题; rename it"),
    "empty": ("x.jsonl", "", "x.jsonl: the file has no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_benchmark_is_one_line_with_place_cause_and_remedy(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        read_benchmarks(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_in_gb18030_is_refused_as_any_source_is(tmp_path: Path) -> None:
    (tmp_path / "ceval.csv").write_bytes(f"id,question,A,B\n1,{STEM * 5},甲,乙\n".encode("gb18030"))
    with pytest.raises(DataError, match="it looks like GB18030; convert it: `iconv -f GB18030 -t UTF-8`"):
        read_benchmarks(tmp_path)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "C-Eval.csv", "id,question,A,B\n1,问,甲,乙\n")
    write(tmp_path / "c_eval.jsonl", [{"question": "Why?"}])
    with pytest.raises(DataError, match=r"c_eval.jsonl: the same benchmark name as .*C-Eval.csv, got c_eval; rename one of them"):
        read_benchmarks(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cmmlu").mkdir()
    with pytest.raises(DataError, match="the folder holds no files"):
        read_benchmarks(tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "num_items"), [("cmexam_test.jsonl", 6811), ("cmb_clin.json", 208), ("gsm8k_test.jsonl", 1319)])
def test_published_files_are_read_whole(real_data: Path, name: str, num_items: int) -> None:
    items = read_benchmark(real_data / name, "real")
    assert len({item.id for item in items}) == len(items) == num_items


def test_an_id_or_a_value_with_personal_data_stands_nowhere(tmp_path: Path) -> None:
    rows = [{"id": "手机13812345678", "question": "发热怎么办？"}, {"id": "13812345678", "question": "咳嗽怎么办？"}]
    items = read_benchmarks(write(tmp_path / "own.jsonl", rows).parent)
    assert [item.key for item in items] == ["own:0", "own:13812345678"]  # a number that nothing calls a telephone's is an id
    write(tmp_path / "own.jsonl", [{"question": ["手机13812345678"]}])
    with pytest.raises(DataError) as error:
        read_benchmarks(tmp_path)
    assert "手机[手机号1]" in str(error.value)


def test_what_is_no_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name, make in (
        ("link", lambda path: path.symlink_to("nowhere")),
        ("loop", lambda path: path.symlink_to(path.name)),
        ("pipe", os.mkfifo),
    ):
        path = tmp_path / f"{name}.jsonl"
        make(path)  # reading a pipe would wait for ever
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_benchmarks(tmp_path)
        path.unlink()
