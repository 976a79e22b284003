"""LLaMA-Factory's files as text: exact rows, ASCII description, and a reader that undoes the writer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medcot.errors import DataError
from medcot.llamafactory import ENTRIES, Format, Row, dataset_info, read_rows, render_row, split_target, train_yaml, write_rows
from medcot.template import DEEPDOCTOR_INSTRUCTION, TEMPLATES, get_template, render_target

ROWS = [
    Row("a1", "咳嗽一周，痰黄，首选什么？", "先看痰色。\n\n再拍胸片。", '考虑"细菌性"肺炎。\n给予阿莫西林。'),
    Row("b2", "What is SpO₂ 88%?", "Low oxygen.", "Hypoxaemia; give O₂."),
]
FORMS = pytest.mark.parametrize("form", ["alpaca", "sharegpt"])


def test_an_alpaca_row_is_exactly_this() -> None:
    assert render_row(Row("i", "问？", "想", "答"), get_template("qwen3"), "医", "alpaca") == {
        "id": "i",
        "instruction": "问？",
        "input": "",
        "output": "<think>\n想\n</think>\n\n答",
        "system": "医",
    }
    assert "system" not in render_row(ROWS[1], get_template("qwen3"), "", "alpaca")


def test_a_sharegpt_row_is_exactly_this() -> None:
    assert render_row(Row("i", "Q?", "R", "A"), get_template("deepseekr1"), "S", "sharegpt") == {
        "id": "i",
        "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "<think>\nR\n</think>\n\nA"}],
        "system": "S",
    }


def test_the_instruction_of_deepdoctor_is_part_of_its_row() -> None:
    row = render_row(Row("i", "Q?", "R", "A"), get_template("deepdoctor"), "S", "alpaca")
    assert row["instruction"] == f"{DEEPDOCTOR_INSTRUCTION}\n\n### Question:\nQ?"
    assert row["system"] == "S\n\n"


@FORMS
@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("system", ["", "你是医生。"])
def test_reading_back_gives_the_rows_that_were_written(form: Format, name: str, system: str, tmp_path: Path) -> None:
    path, template = tmp_path / "train.json", get_template(name)
    write_rows(path, (render_row(row, template, system, form) for row in ROWS))
    assert read_rows(path, template) == ROWS
    write_rows(path, [])
    assert read_rows(path, template) == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda t: "think>" not in t)


@given(TEXT, TEXT)
def test_parsing_a_rendered_target_gives_its_parts(reasoning: str, answer: str) -> None:
    if "\n</" not in reasoning:
        assert split_target(render_target(reasoning, answer)) == (reasoning, answer)


@pytest.mark.parametrize(
    "text",
    [
        "答",
        "<think>想</think>\n\n答",
        "<think>\n想\n</think>\n答",
        "<think>\n想",
        "<think>\n想\n</think>\n\n<think>\n再想\n</think>\n\n答",
        "x<think>\n想\n</think>\n\n答",
        "<think>\nA\n</think>\n\nB</think>",
    ],
)
def test_any_other_spelling_of_a_target_is_none(text: str) -> None:
    assert split_target(text) is None


def test_rows_are_one_a_line_and_chinese_is_readable(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.json", [{"id": "1", "t": "咳嗽"}, {"id": "2", "t": "cough\n"}])
    assert (tmp_path / "x.json").read_bytes() == '[\n{"id": "1", "t": "咳嗽"},\n{"id": "2", "t": "cough\\n"}\n]\n'.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the split is missing; run stage convert first"),
        ("[", "not valid JSON, got "),
        ("{}", "expected an array of rows"),
        ('[{"id": "1"}]', "x.json:0: not a row that convert wrote, got {'id': '1'}"),
        ("[7]", "x.json:0: not a row that convert wrote, got 7"),
        ('[{"id": "1", "conversations": [{"value": "q"}]}]', "not a row that convert wrote"),
        ('[{"id": "1", "instruction": null, "output": "a"}]', "x.json:0: not a row of template qwen3, got a"),
        ('[{"id": "1", "instruction": "q", "output": null}]', "not a row that convert wrote"),
    ],
)
def test_a_file_that_convert_did_not_write_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_rows(path, get_template("qwen3"))
    assert message in str(caught.value)


def test_rows_of_another_template_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.json", [render_row(ROWS[0], get_template("qwen3"), "", "alpaca")])
    with pytest.raises(DataError, match="not a row of template deepdoctor"):
        read_rows(tmp_path / "x.json", get_template("deepdoctor"))


@FORMS
@pytest.mark.parametrize("with_system", [True, False])
def test_the_description_is_ascii_and_lists_every_column(form: Format, with_system: bool) -> None:
    text = dataset_info(form, with_system)
    assert text.isascii()
    info = json.loads(text)
    assert list(info) == ["med_o1", "med_o1_val", "med_o1_test"] == list(ENTRIES.values())
    row = render_row(ROWS[0], get_template("qwen3"), "医" if with_system else "", form)
    for entry, file in zip(info.values(), ("train.json", "val.json", "test.json"), strict=True):
        assert entry["file_name"] == file
        assert entry["formatting"] == form
        assert set(entry["columns"].values()) == set(row) - {"id"}
        assert entry.get("tags") == (
            {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"} if form == "sharegpt" else None
        )


def test_the_train_config_holds_what_the_data_decides_and_no_hyper_parameter() -> None:
    config = yaml.safe_load(train_yaml(get_template("qwen3"), 1025, "nf4", True, "data/llamafactory"))
    assert config == {
        "stage": "sft",
        "do_train": True,
        "template": "qwen3",
        "enable_thinking": True,
        "default_system": "",
        "dataset": "med_o1",
        "eval_dataset": "med_o1_val",
        "dataset_dir": "data/llamafactory",
        "cutoff_len": 1025,
        "finetuning_type": "lora",
        "quantization_method": "bnb",
        "quantization_bit": 4,
        "quantization_type": "nf4",
        "double_quantization": True,
    }


def test_the_train_config_leaves_out_what_is_not_there() -> None:
    config = yaml.safe_load(train_yaml(get_template("deepdoctor"), 99, "none", False, "d"))
    assert config["template"] == "alpaca"
    assert not {"eval_dataset", "quantization_bit", "quantization_type"} & set(config)
