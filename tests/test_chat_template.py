"""The chat template and the Modelfile of an exported model: our prompt, token for token, in other software's hands."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from factories import write_qwen3_tokenizer, write_r1_tokenizer
from transformers import PreTrainedTokenizerBase

from medcot.chat_template import CHAT_TEMPLATE_FILE, chat_template, check_chat_template, modelfile, settle_tokenizer
from medcot.errors import DataError
from medcot.template import TEMPLATES, Template, encode_prompt, prefill_of, render_prompt
from medcot.tokenizer import ChatTokenizer, check_transformers_load, load_tokenizer

WRITERS = {"qwen3": write_qwen3_tokenizer, "deepseekr1": write_r1_tokenizer, "deepdoctor": write_qwen3_tokenizer}
SYSTEM = "你是临床医生。\nAnswer in “one” \"line\"; {{ no }} {% tricks %} {# here #} \\n 'quoted'."
TEXTS = [
    "患者男，28岁，胸痛三天，考虑什么？",
    "A 64-year-old woman has SpO₂ 88%. What now?",
    "{{ question }} {% if x %} {# 注释 #} {question} {system} @prefix",
    "引号“双”'single' \"double\" 反斜杠 \\n \\ 与 <b>标签</b> & amp;",
    "两行\n\n  缩进\t制表\r\n结尾空格 ",
    "  \n前面有空白",
    "emoji 😀👩🏽‍⚕️ 10⁹/L ½ ①",
]


class Settled:
    """A tokenizer directory as export leaves it, loaded by us and by transformers."""

    def __init__(self, directory: Path, name: str, system: str = "") -> None:
        self.template: Template = TEMPLATES[name]
        self.tok: ChatTokenizer = load_tokenizer(WRITERS[name](directory))
        self.system = system
        settle_tokenizer(directory, self.template, self.tok.eos_token, system)
        self.theirs: Any = check_transformers_load(directory)

    def ids(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        return list(self.theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options))

    def text(self, messages: list[dict[str, str]], **options: Any) -> str:
        return str(self.theirs.apply_chat_template(messages, tokenize=False, **options))

    def ours(self, question: str, system: str = "", *, thinking: bool = True) -> list[int]:
        return encode_prompt(self.tok, self.template, question, system, thinking=thinking)


@pytest.fixture(params=list(TEMPLATES))
def settled(request: pytest.FixtureRequest, tmp_path: Path) -> Settled:
    return Settled(tmp_path, request.param)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("question", TEXTS)
def test_the_prompt_has_the_ids_of_training(settled: Settled, question: str) -> None:
    assert settled.ids([user(question)]) == settled.ours(question)
    assert settled.ids([user(question)], enable_thinking=True) == settled.ours(question)


@pytest.mark.parametrize("question", TEXTS)
def test_without_thinking_the_prompt_holds_the_empty_think_block(settled: Settled, question: str) -> None:
    ids = settled.ids([user(question)], enable_thinking=False)
    assert ids == settled.ours(question, thinking=False)
    assert settled.tok.decode(ids).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("system", [SYSTEM, "你是临床医生。", *TEXTS])
def test_a_system_message_is_put_as_in_training(settled: Settled, system: str) -> None:
    messages = [{"role": "system", "content": system}, user(TEXTS[0])]
    assert settled.ids(messages) == settled.ours(TEXTS[0], system)


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_system_prompt_of_the_params_is_the_default_and_a_message_replaces_it(tmp_path: Path, name: str) -> None:
    settled = Settled(tmp_path, name, SYSTEM)
    assert settled.ids([user(TEXTS[1])]) == settled.ours(TEXTS[1], SYSTEM) != settled.ours(TEXTS[1])
    assert settled.ids([{"role": "system", "content": "另一个"}, user(TEXTS[1])]) == settled.ours(TEXTS[1], "另一个")
    assert settled.ids([{"role": "system", "content": ""}, user(TEXTS[1])]) == settled.ours(TEXTS[1])


def test_earlier_turns_lose_their_reasoning_and_keep_their_answers(settled: Settled) -> None:
    target = "<think>\n先看心电图。\n</think>\n\n考虑心梗。"
    text = settled.text([user("胸痛？"), assistant(target), user("How long?")], add_generation_prompt=True)
    first = render_prompt(settled.template, "胸痛？")
    second = render_prompt(settled.template, "How long?").removeprefix(settled.template.prefix)
    end = (settled.template.eos or settled.tok.eos_token) + settled.template.llamafactory_suffix
    assert text == first + "考虑心梗。" + end + second + prefill_of(settled.template)


def test_the_last_answer_keeps_its_reasoning_so_that_it_can_be_continued(settled: Settled) -> None:
    text = settled.text([user("胸痛？"), assistant("<think>\n先看")], continue_final_message=True)
    assert text == render_prompt(settled.template, "胸痛？") + "<think>\n先看"


def test_without_generation_prompt_the_user_turn_is_closed_and_no_assistant_turn_opened(settled: Settled) -> None:
    text = settled.text([user("胸痛？")], add_generation_prompt=False)
    assert render_prompt(settled.template, "胸痛？").startswith(text)
    assert not text.endswith(("assistant\n", "<｜Assistant｜>", "### Response:\n"))
    if settled.template.name == "qwen3":
        assert text == "<|im_start|>user\n胸痛？<|im_end|>\n"


def test_bos_stands_once_in_a_chat_and_in_a_raw_completion_without_it(tmp_path: Path) -> None:
    """Chats are tokenised without special tokens, raw completions with them: there the R1 tokenizer adds BOS itself."""
    settled = Settled(tmp_path, "deepseekr1")
    bos = settled.template.prefix
    assert settled.ids([user(TEXTS[0])]).count(settled.tok.added[bos]) == 1
    prompt = settled.text([user(TEXTS[0])], add_generation_prompt=True)
    assert prompt.startswith(bos)
    assert list(settled.theirs(prompt.removeprefix(bos))["input_ids"]) == settled.ours(TEXTS[0])
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["add_bos_token"], config["add_eos_token"]) == (False, False)  # what llama.cpp's converter goes by


def test_settling_changes_no_id_and_no_byte_of_the_vocabulary(settled: Settled, tmp_path: Path) -> None:
    original = WRITERS[settled.template.name](tmp_path / "original")
    assert settled.tok.fingerprint == load_tokenizer(original).fingerprint
    for text in TEXTS:
        assert list(settled.theirs(text, add_special_tokens=False)["input_ids"]) == load_tokenizer(original).encode(text)


SANITISES = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters


@pytest.mark.skipif(not SANITISES, reason="this release of transformers cannot sanitise messages")
def test_control_tokens_in_a_question_forge_a_turn_unless_the_server_sanitises(settled: Settled) -> None:
    """The known limit of chat templates, and the way out that transformers offers."""
    controls = [token for token in settled.template.controls if token != settled.template.prefix]
    forged = "胸痛？" + "".join(controls)
    plain = settled.ids([user("胸痛？")])
    for token in controls:
        i = settled.tok.added[token]
        assert settled.ids([user(forged)]).count(i) == plain.count(i) + 1
        assert settled.ids([user(forged)], sanitize_control_tokens=True).count(i) == plain.count(i)
    for text in TEXTS:
        assert settled.ids([user(text)], sanitize_control_tokens=True) == settled.ours(text)


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([user("头痛？"), {"role": "tool", "content": "x"}], "roles are system (first), user and assistant, got tool"),
        ([user("头痛？"), {"role": "system", "content": "x"}], "roles are system (first), user and assistant, got system"),
        ([{"role": "user", "content": [{"type": "image"}]}], "this model takes text only: content must be a string"),
    ],
)
def test_what_the_model_was_not_trained_on_is_refused(settled: Settled, messages: list[Any], cause: str) -> None:
    with pytest.raises(jinja2.exceptions.TemplateError, match=cause.replace("(", r"\(").replace(")", r"\)")):
        settled.text(messages)


def test_a_template_of_the_hub_is_replaced_wherever_it_stood(tmp_path: Path) -> None:
    write_qwen3_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ 'old' }}"}), encoding="utf-8")
    (tmp_path / CHAT_TEMPLATE_FILE).write_text("{{ 'older' }}", encoding="utf-8")
    settle_tokenizer(tmp_path, TEMPLATES["qwen3"], "<|im_end|>", "")
    assert "chat_template" not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert check_transformers_load(tmp_path).chat_template == chat_template(TEMPLATES["qwen3"], "<|im_end|>")


def test_a_chat_template_that_gives_other_ids_is_refused(tmp_path: Path) -> None:
    settled = Settled(tmp_path, "qwen3")
    check_chat_template(settled.theirs, settled.tok, settled.template, "", TEXTS)
    with pytest.raises(DataError, match="the chat template of qwen3 gives other ids than training for '患者男"):
        check_chat_template(settled.theirs, settled.tok, settled.template, "你是临床医生。", TEXTS)


def render_go(text: str, prompt: str, system: str) -> str:
    """What Ollama makes of the few actions that our Modelfiles use."""
    before, rest = text.split("{{ if .System }}")
    inside, after = rest.split("{{ end }}")
    return (before + (inside.replace("{{ .System }}", system) if system else "") + after).replace("{{ .Prompt }}", prompt)


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("system", ["", "你是临床医生。\nBe brief."])
def test_the_modelfile_renders_the_prompt_of_training(name: str, system: str) -> None:
    template = TEMPLATES[name]
    text = modelfile(template, "<|endoftext|>", system, "model.gguf", {"do_sample": False})
    body = text.split('TEMPLATE """')[1].split('"""')[0]
    for question in TEXTS[:2]:
        assert render_go(body, question, system) == render_prompt(template, question, system) + prefill_of(template)
    assert text.startswith("FROM ./model.gguf\n")
    assert (f'SYSTEM """{system}"""' in text) == bool(system)
    assert f'PARAMETER stop "{template.eos or "<|endoftext|>"}"' in text.splitlines()
    assert "PARAMETER temperature 0" in text.splitlines()


def test_the_modelfile_samples_as_the_base_does() -> None:
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9}
    lines = modelfile(TEMPLATES["deepseekr1"], "<｜end▁of▁sentence｜>", "", "m.gguf", sampling).splitlines()
    assert [line for line in lines if line.startswith("PARAMETER")] == [
        'PARAMETER stop "<｜end▁of▁sentence｜>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.95",
        "PARAMETER repeat_penalty 1",
    ]


def test_a_system_prompt_that_a_modelfile_cannot_hold_is_refused() -> None:
    with pytest.raises(DataError, match=r'params\.yaml: model\.system: a Modelfile cannot hold """'):
        modelfile(TEMPLATES["qwen3"], "<|im_end|>", 'say """no"""', "m.gguf", {})
