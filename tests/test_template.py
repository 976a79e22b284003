"""Templates: exact prompts and targets, three spans, segments by offsets, one prompt for training and inference."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import write_qwen3_tokenizer, write_r1_tokenizer

from medcot.errors import DataError
from medcot.model_params import ModelParams
from medcot.params import parse_section
from medcot.template import (
    DEEPDOCTOR_INSTRUCTION,
    MASK,
    TEMPLATES,
    Encoded,
    check_template,
    encode,
    encode_prompt,
    eos_id,
    get_template,
    render_prompt,
    render_target,
)
from medcot.tokenizer import ChatTokenizer, install_tokenizer, load_tokenizer

ZH = ("男，45岁，胸痛2小时，首先做什么检查？", "胸痛先排除心梗。\n所以先看心电图。", "首选心电图。")
EN = ("Which test comes first in acute chest pain?", "Exclude infarction first.\n\nAn ECG is fastest.", "An ECG, within 10 minutes.")
ROWS = pytest.mark.parametrize("row", [ZH, EN], ids=["zh", "en"])
NAMES = pytest.mark.parametrize("name", sorted(TEMPLATES))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    qwen3 = load_tokenizer(write_qwen3_tokenizer(tmp_path_factory.mktemp("qwen3")))
    r1 = load_tokenizer(write_r1_tokenizer(tmp_path_factory.mktemp("r1")))
    return {"qwen3": qwen3, "deepseekr1": r1, "deepdoctor": qwen3}


def text_of(tok: ChatTokenizer, encoded: Encoded, positions: range) -> str:
    return tok.decode([encoded.input_ids[i] for i in positions])


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        ("qwen3", "", "<|im_start|>user\n问 Q?<|im_end|>\n<|im_start|>assistant\n"),
        ("qwen3", "医", "<|im_start|>system\n医<|im_end|>\n<|im_start|>user\n问 Q?<|im_end|>\n<|im_start|>assistant\n"),
        ("deepseekr1", "", "<｜begin▁of▁sentence｜><｜User｜>问 Q?<｜Assistant｜>"),
        ("deepseekr1", "医", "<｜begin▁of▁sentence｜>医<｜User｜>问 Q?<｜Assistant｜>"),
        ("deepdoctor", "", f"### Instruction:\n{DEEPDOCTOR_INSTRUCTION}\n\n### Question:\n问 Q?\n\n### Response:\n"),
        ("deepdoctor", "医", f"医\n\n### Instruction:\n{DEEPDOCTOR_INSTRUCTION}\n\n### Question:\n问 Q?\n\n### Response:\n"),
    ],
)
def test_each_template_renders_exactly_this_prompt(name: str, system: str, expected: str) -> None:
    assert render_prompt(get_template(name), "问 Q?", system) == expected


@pytest.mark.parametrize("text", ["{question}", "{system} {0} %s", "{{content}}"])
def test_a_question_is_never_a_template(text: str) -> None:
    for template in TEMPLATES.values():
        assert render_prompt(template, text, text).count(text) == 2


def test_the_target_has_one_newline_inside_the_tags_and_a_blank_line_after() -> None:
    assert render_target("思考", "回答") == "<think>\n思考\n</think>\n\n回答"
    assert render_target("", "回答") == "<think>\n\n</think>\n\n回答"


@ROWS
@NAMES
def test_labels_are_the_target_and_eos_and_the_prompt_is_masked(
    name: str, row: tuple[str, str, str], tokenizers: dict[str, ChatTokenizer]
) -> None:
    tok, template = tokenizers[name], get_template(name)
    encoded = encode(tok, template, *row, system="请用中文 or English.")
    supervised = [label for label in encoded.labels if label != MASK]
    assert encoded.labels == [MASK] * encoded.prompt_len + supervised
    assert tok.decode(encoded.input_ids[: encoded.prompt_len]) == render_prompt(template, row[0], "请用中文 or English.")
    assert tok.decode(supervised[:-1]) == render_target(row[1], row[2])
    assert supervised[-1] == eos_id(tok, template)
    assert supervised.count(supervised[-1]) == 1


@ROWS
@NAMES
@pytest.mark.parametrize("thinking", [True, False])
def test_training_begins_with_the_very_ids_that_inference_gives(
    name: str, row: tuple[str, str, str], thinking: bool, tokenizers: dict[str, ChatTokenizer]
) -> None:
    tok, template = tokenizers[name], get_template(name)
    question, reasoning, answer = row
    encoded = encode(tok, template, question, reasoning if thinking else "", answer)
    given = encode_prompt(tok, template, question, thinking=thinking)
    assert encoded.input_ids[: encoded.prompt_len + encoded.prefill_len] == given
    expected = template.prefill if thinking else "<think>\n\n</think>\n\n"
    assert tok.decode(given) == render_prompt(template, question) + expected


@ROWS
@NAMES
def test_segments_hold_the_content_and_no_tag_newline_or_eos(
    name: str, row: tuple[str, str, str], tokenizers: dict[str, ChatTokenizer]
) -> None:
    tok = tokenizers[name]
    encoded = encode(tok, get_template(name), *row)
    assert text_of(tok, encoded, encoded.reasoning).rstrip("\n") == row[1]
    assert text_of(tok, encoded, encoded.answer) == row[2]
    control = {i for i, token in enumerate(encoded.input_ids) if token in tok.control_ids}
    assert not control & {*encoded.reasoning, *encoded.answer}
    assert encoded.answer.stop == len(encoded.input_ids) - 1
    assert encoded.prompt_len < encoded.reasoning.start < encoded.reasoning.stop < encoded.answer.start


def test_without_reasoning_the_answer_follows_an_empty_think_block_that_is_all_prefill(tokenizers: dict[str, ChatTokenizer]) -> None:
    for name, tok in tokenizers.items():
        encoded = encode(tok, get_template(name), ZH[0], "", ZH[2])
        assert len(encoded.reasoning) == 0
        assert text_of(tok, encoded, encoded.answer) == ZH[2]
        assert encoded.answer.start == encoded.prompt_len + encoded.prefill_len


@ROWS
@NAMES
def test_a_token_across_the_border_belongs_to_the_content(
    name: str, row: tuple[str, str, str], tokenizers: dict[str, ChatTokenizer]
) -> None:
    tok = tokenizers[name]
    assert len(tok.encode(row[1][-1] + "\n")) == 1  # "。\n" and ".\n" are one token, as in Qwen
    encoded = encode(tok, get_template(name), *row)
    assert text_of(tok, encoded, encoded.reasoning) == row[1] + "\n"
    assert tok.decode([encoded.input_ids[encoded.reasoning.stop]]) == "</think>"


@pytest.mark.real_data
@ROWS
def test_segments_of_the_real_qwen3_tokenizer(row: tuple[str, str, str], real_data: Path, tmp_path: Path) -> None:
    install_tokenizer(real_data / "qwen3_tokenizer", tmp_path)
    tok = load_tokenizer(tmp_path)
    encoded = encode(tok, get_template("qwen3"), *row)
    assert text_of(tok, encoded, encoded.reasoning) == row[1] + "\n"
    assert text_of(tok, encoded, encoded.answer) == row[2]


def test_a_template_that_needs_other_control_tokens_is_refused_with_those_that_fit(tokenizers: dict[str, ChatTokenizer]) -> None:
    with pytest.raises(DataError) as caught:
        check_template(tokenizers["deepseekr1"], get_template("qwen3"))
    assert str(caught.value) == (
        "params.yaml: model.template: template qwen3 does not fit the tokenizer, whose vocabulary lacks <|im_start|>, <|im_end|>, "
        "got qwen3; templates that fit it: deepseekr1, deepdoctor"
    )
    for name, tok in tokenizers.items():
        check_template(tok, get_template(name))


def test_the_fingerprint_tells_templates_apart() -> None:
    assert len({template.fingerprint for template in TEMPLATES.values()}) == len(TEMPLATES)


def test_params_name_exactly_the_templates_there_are() -> None:
    for name in TEMPLATES:
        assert ModelParams(template=name).template == name
    with pytest.raises(DataError, match=r"params.yaml: model.template: .*'qwen3', 'deepseekr1' or 'deepdoctor', got qwen"):
        parse_section("model", {"template": "qwen"}, ModelParams)
    with pytest.raises(DataError, match=r"params.yaml: model.cutoff_len: .*, got 8; Longest row in tokens"):
        parse_section("model", {"cutoff_len": 8}, ModelParams)
