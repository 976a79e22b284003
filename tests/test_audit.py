"""The label audit: what it lets pass, each refusal code, and the difference between a bad row and a bad pairing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from factories import write_qwen3_tokenizer, write_r1_tokenizer

from medcot.audit import CODES, Auditor, Refusal, check_not_all_refused
from medcot.errors import DataError
from medcot.records import Record
from medcot.template import Encoded, encode, get_template, render_target
from medcot.tokenizer import ChatTokenizer, load_tokenizer

ZH = Record("z", "t", "发热3天，首选什么药？", "先判断病原。\n再选药。", "阿莫西林 0.5 g，每日3次。")
EN = Record("e", "t", "Fever for 3 days: which drug first?", "Judge the pathogen.\n\nThen choose.", "Amoxicillin 500 mg.")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_tokenizer(write_qwen3_tokenizer(tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def r1(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_tokenizer(write_r1_tokenizer(tmp_path_factory.mktemp("r1")))


def audit(tok: ChatTokenizer, name: str, row: Record, system: str = "", cutoff_len: int = 4096) -> Refusal | None:
    template = get_template(name)
    encoded = encode(tok, template, row.question, row.reasoning, row.answer, system)
    return Auditor(tok, template, system, cutoff_len).check(row, encoded)


@pytest.mark.parametrize("row", [ZH, EN], ids=["zh", "en"])
@pytest.mark.parametrize("system", ["", "你是医生。 Be brief."])
def test_clean_rows_pass_under_every_template(row: Record, system: str, qwen3: ChatTokenizer, r1: ChatTokenizer) -> None:
    for tok, name in ((qwen3, "qwen3"), (r1, "deepseekr1"), (qwen3, "deepdoctor"), (r1, "deepdoctor")):
        assert audit(tok, name, row, system) is None


@pytest.mark.parametrize("field", ["question", "reasoning", "answer"])
@pytest.mark.parametrize("token", ["<|im_end|>", "</think>", "<think>", "<|im_start|>assistant"])
def test_a_control_token_in_a_text_is_refused_and_named(field: str, token: str, qwen3: ChatTokenizer) -> None:
    for row in (ZH, EN):
        bad = replace(row, **{field: f"{getattr(row, field)} {token} 继续"})
        assert audit(qwen3, "qwen3", bad) == Refusal("control_token_id", f"{field}: {token.removesuffix('assistant')}")


def test_a_control_token_of_another_family_is_plain_text(r1: ChatTokenizer) -> None:
    assert audit(r1, "deepseekr1", replace(EN, answer="the string <|im_end|> here")) is None
    assert audit(r1, "deepseekr1", replace(ZH, answer="<｜User｜>你好")) == Refusal("control_token_id", "answer: <｜User｜>")


def test_think_tags_are_refused_even_where_they_are_no_control_tokens(tmp_path: Path) -> None:
    from factories import byte_level_bpe

    directory = write_qwen3_tokenizer(tmp_path)
    byte_level_bpe(("<|endoftext|>", "<|im_end|>")).save(str(directory / "tokenizer.json"))
    tok = load_tokenizer(directory)
    assert audit(tok, "deepdoctor", ZH) is None
    expected = Refusal("target_mismatch", "the text itself holds a think tag")
    assert audit(tok, "deepdoctor", replace(ZH, reasoning="先想</think>再答")) == expected


def test_a_text_that_the_tokenizer_changes_is_refused(qwen3: ChatTokenizer) -> None:
    decomposed = "e\u0301"  # Qwen's normaliser composes it
    at = len(render_target(EN.reasoning, "caf"))
    expected = Refusal("target_mismatch", f"decodes to another text from character {at} on")
    assert audit(qwen3, "qwen3", replace(EN, answer=f"caf{decomposed}")) == expected
    refusal = audit(qwen3, "qwen3", replace(ZH, question=f"caf{decomposed} 过敏？"))
    assert refusal is not None
    assert refusal.code == "prompt_mismatch"


def test_reasoning_whose_first_token_swallows_the_prefill_is_refused(r1: ChatTokenizer) -> None:
    assert len(r1.encode("\n\n")) == 1
    expected = Refusal("prompt_mismatch", "prompt and prefill are other ids than the inference prompt")
    for row in (ZH, EN):
        assert audit(r1, "deepseekr1", replace(row, reasoning=f"\n{row.reasoning}")) == expected


def tampered(encoded: Encoded, ids: list[int] | None = None, labels: list[int] | None = None) -> Encoded:
    return replace(encoded, input_ids=ids or encoded.input_ids, labels=labels or encoded.labels)


def test_each_way_the_labels_can_be_wrong_has_its_code(qwen3: ChatTokenizer) -> None:
    template = get_template("qwen3")
    auditor = Auditor(qwen3, template, "", 4096)
    encoded = encode(qwen3, template, ZH.question, ZH.reasoning, ZH.answer)
    ids, labels, start = encoded.input_ids, encoded.labels, encoded.prompt_len
    newline, letter = qwen3.encode("\n")[0], qwen3.encode("A")[0]
    ids_without_newline = [i for n, i in enumerate(ids) if n < start or i != newline]
    end = ids.index(encoded.input_ids[-1], start)
    cases = {
        "unmasked prompt": (tampered(encoded, labels=list(ids)), "mask_mismatch"),
        "masked answer": (tampered(encoded, labels=[*labels[:-2], -100, labels[-1]]), "mask_mismatch"),
        "masked EOS": (tampered(encoded, labels=[*labels[:-1], -100]), "mask_mismatch"),
        "another answer": (tampered(encoded, ids=[*ids[:-2], letter, ids[-1]]), "target_mismatch"),
        "one think newline less": (tampered(encoded, ids=ids_without_newline), "target_mismatch"),
        "EOS missing": (tampered(encoded, ids=ids[:end]), "control_token_id"),
        "EOS twice": (tampered(encoded, ids=[*ids, ids[-1]]), "control_token_id"),
        "something after EOS": (tampered(encoded, ids=[*ids, newline], labels=[*labels, newline]), "target_mismatch"),
        "another question": (tampered(encoded, ids=[letter if i == 6 else t for i, t in enumerate(ids)]), "prompt_mismatch"),
        "an id beyond the vocabulary": (tampered(encoded, ids=[*ids[:-2], 427, ids[-1]]), "unknown_token_id"),
    }
    for name, (bad, code) in cases.items():
        refusal = auditor.check(ZH, bad)
        assert refusal is not None, name
        assert (name, refusal.code) == (name, code)
        assert refusal.code in CODES


def test_a_vocabulary_that_grew_is_noticed(qwen3: ChatTokenizer, tmp_path: Path) -> None:
    tok = load_tokenizer(write_qwen3_tokenizer(tmp_path))
    template = get_template("qwen3")
    auditor = Auditor(tok, template, "", 4096)
    tok.backend.add_special_tokens(["<|new|>"])
    refusal = auditor.check(ZH, encode(tok, template, ZH.question, ZH.reasoning, ZH.answer))
    assert refusal is not None
    assert refusal.code == "unknown_token_id"
    assert refusal.detail.endswith("in a vocabulary of 427, 428 now")


def test_the_limit_is_inclusive(qwen3: ChatTokenizer) -> None:
    length = len(encode(qwen3, get_template("qwen3"), ZH.question, ZH.reasoning, ZH.answer).input_ids)
    assert audit(qwen3, "qwen3", ZH, cutoff_len=length) is None
    assert audit(qwen3, "qwen3", ZH, cutoff_len=length - 1) == Refusal("too_long", f"{length} tokens, cutoff_len {length - 1}")


def test_a_template_that_does_not_fit_the_tokenizer_is_an_error_before_any_row(r1: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=r"template qwen3 does not fit the tokenizer, whose vocabulary lacks <\|im_start\|>, <\|im_end\|>"):
        Auditor(r1, get_template("qwen3"), "", 4096)


def test_a_control_token_in_the_system_prompt_is_an_error_of_the_params(qwen3: ChatTokenizer) -> None:
    with pytest.raises(
        DataError, match=r"params.yaml: model.system: the system prompt holds a control token .*, got <think>; write it without"
    ):
        Auditor(qwen3, get_template("qwen3"), "用 <think> 思考", 4096)


def test_only_a_failure_of_every_row_blames_the_pairing() -> None:
    refusal = Refusal("target_mismatch", "decodes to another text from character 9 on")
    check_not_all_refused(3, [refusal, refusal], "qwen3", "tokenizer", "failed")
    check_not_all_refused(0, [], "qwen3", "tokenizer", "failed")
    with pytest.raises(DataError) as caught:
        check_not_all_refused(2, [refusal, refusal], "qwen3", "models/base/tokenizer", "failed")
    assert "refused all 2 rows, so template qwen3 and this tokenizer do not fit, got target_mismatch (decodes" in str(caught.value)


def test_the_audit_reads_nothing_but_the_three_texts(qwen3: ChatTokenizer) -> None:
    row = SimpleNamespace(question=EN.question, reasoning=EN.reasoning, answer=EN.answer)
    template = get_template("qwen3")
    encoded = encode(qwen3, template, row.question, row.reasoning, row.answer)
    assert Auditor(qwen3, template, "", 4096).check(row, encoded) is None
