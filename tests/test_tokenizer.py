"""Tokenizer loading: ids come from tokenizer.json, and a load through transformers that differs is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import QWEN3_CONTROLS, R1_CONTROLS, byte_level_bpe, write_qwen3_tokenizer, write_r1_tokenizer
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from medcot import tokenizer as tokenizer_module
from medcot.errors import DataError
from medcot.tokenizer import check_transformers_load, install_tokenizer, load_tokenizer

TEXTS = ("患者女，36岁，血糖 7.8 mmol/L。", "A 36-year-old woman, SpO₂ 91%.", "混合 mixed 😀\n\n第二段")


@pytest.fixture
def qwen3(tmp_path: Path) -> Path:
    return write_qwen3_tokenizer(tmp_path / "qwen3")


def edit(directory: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = directory / name
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(content) or content, ensure_ascii=False), encoding="utf-8")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("write", [write_qwen3_tokenizer, write_r1_tokenizer])
def test_chinese_and_english_survive_the_round_trip(tmp_path: Path, write: Callable[[Path], Path], text: str) -> None:
    tok = load_tokenizer(write(tmp_path))
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert (ids, len(ids)) == (tok.encode_with_offsets(text)[0], len(tok.encode_with_offsets(text)[1]))


def test_length_and_control_ids_count_every_added_token(qwen3: Path, tmp_path: Path) -> None:
    tok = load_tokenizer(qwen3)
    assert len(tok) == 420 + len(QWEN3_CONTROLS)
    assert tok.control_ids == frozenset(range(420, 420 + len(QWEN3_CONTROLS)))
    assert (tok.eos_token, tok.eos_id, tok.bos_token) == ("<|im_end|>", 422, None)
    r1 = load_tokenizer(write_r1_tokenizer(tmp_path / "r1"))
    assert (r1.eos_token, r1.eos_id, r1.bos_token) == ("<｜end▁of▁sentence｜>", 420, "<｜begin▁of▁sentence｜>")
    assert set(r1.added) == set(R1_CONTROLS)


def test_bos_is_never_added_although_the_file_asks_for_it(tmp_path: Path) -> None:
    directory = write_r1_tokenizer(tmp_path)
    assert Tokenizer.from_file(str(directory / "tokenizer.json")).encode("胸痛").ids[0] == 423
    assert 423 not in load_tokenizer(directory).encode("胸痛")


def test_a_truncation_length_in_the_file_cuts_nothing(qwen3: Path) -> None:
    backend = Tokenizer.from_file(str(qwen3 / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.save(str(qwen3 / "tokenizer.json"))
    assert load_tokenizer(qwen3).decode(load_tokenizer(qwen3).encode(TEXTS[0])) == TEXTS[0]


def test_added_runs_of_spaces_are_text_and_not_control(qwen3: Path) -> None:
    backend = byte_level_bpe()
    backend.add_tokens([AddedToken("    ", normalized=False)])
    backend.save(str(qwen3 / "tokenizer.json"))
    tok = load_tokenizer(qwen3)
    assert tok.encode("    ")[0] == len(tok) - 1
    assert len(tok) - 1 not in tok.control_ids


def test_the_fingerprint_changes_with_the_vocabulary_and_with_nothing_else(qwen3: Path, tmp_path: Path) -> None:
    same, other = write_qwen3_tokenizer(tmp_path / "same"), write_qwen3_tokenizer(tmp_path / "other", vocab_size=400)
    assert load_tokenizer(qwen3).fingerprint == load_tokenizer(same).fingerprint != load_tokenizer(other).fingerprint


def test_an_eos_written_as_an_object_is_read(qwen3: Path) -> None:
    edit(qwen3, "tokenizer_config.json", lambda c: {**c, "eos_token": {"__type": "AddedToken", "content": "<|endoftext|>"}})
    assert load_tokenizer(qwen3).eos_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: the tokenizer file is missing"),
        ("tokenizer_config.json", None, "tokenizer_config.json: the tokenizer's config is missing"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not valid JSON, got "),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: expected a JSON object, got []"),
        ("tokenizer_config.json", "{}", "no eos_token is named; set eos_token to one of <|endoftext|>, <|im_start|>, <|im_end|>"),
        ("tokenizer_config.json", '{"eos_token": "</s>"}', "the eos_token is not an added token of tokenizer.json, got </s>; set"),
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer file, got "),
    ],
)
def test_a_broken_directory_is_one_line_that_names_the_file(qwen3: Path, name: str, text: str | None, message: str) -> None:
    if text is None:
        (qwen3 / name).unlink()
    else:
        (qwen3 / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_tokenizer(qwen3)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("write", "size"), [(write_qwen3_tokenizer, 427), (write_r1_tokenizer, 427)])
def test_transformers_loads_both_families_alike(tmp_path: Path, write: Callable[[Path], Path], size: int) -> None:
    assert len(check_transformers_load(write(tmp_path))) == size


def without_chinese(directory: Path) -> Tokenizer:
    """What a wrong load did: Llama's pre-tokenizer over a byte-level vocabulary knows none of the Chinese characters."""
    backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def test_a_load_that_loses_chinese_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    directory = write_r1_tokenizer(tmp_path)
    broken = PreTrainedTokenizerFast(tokenizer_object=without_chinese(directory))
    assert "患者" not in broken.decode(broken("患者 chest")["input_ids"])
    monkeypatch.setattr(tokenizer_module, "_load_with_transformers", lambda _: broken)
    with pytest.raises(DataError, match="transformers v tokenizers gave other ids for '患者男"):
        check_transformers_load(directory)


def test_a_load_that_decodes_to_another_text_is_refused(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tokenizer_module._load_with_transformers(qwen3)
    decode = real.decode
    monkeypatch.setattr(real, "decode", lambda ids, **_: decode(ids).replace("，", ","))
    monkeypatch.setattr(tokenizer_module, "_load_with_transformers", lambda _: real)
    with pytest.raises(DataError, match="gave another text for '患者男"):
        check_transformers_load(qwen3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token": "[PAD]"}, "gave another vocabulary size, got 428 instead of 427"),
        ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, "gave other ids for '患者男"),
        ({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}, "offline and without remote code, got "),
        ({"tokenizer_class": "T5Tokenizer"}, "transformers cannot load the tokenizer offline"),
    ],
)
def test_a_config_under_which_transformers_differs_is_refused(qwen3: Path, change: dict[str, Any], message: str) -> None:
    edit(qwen3, "tokenizer_config.json", lambda c: {**c, **change})
    with pytest.raises(DataError) as caught:
        check_transformers_load(qwen3)
    assert message in str(caught.value)


def test_a_tokenizer_that_cannot_give_a_text_back_is_refused(qwen3: Path) -> None:
    backend = byte_level_bpe()
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(qwen3 / "tokenizer.json"))
    with pytest.raises(DataError, match=r"does not give back|other ids"):
        check_transformers_load(qwen3)


def test_install_copies_the_files_and_records_the_vocabulary_size(qwen3: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    target.mkdir()
    assert install_tokenizer(qwen3, target) == 427
    assert sorted(p.name for p in target.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert (target / "tokenizer.json").read_bytes() == (qwen3 / "tokenizer.json").read_bytes()


def as_vocab_and_merges(directory: Path) -> None:
    """Turn a directory into the older layout: vocab.json, merges.txt, and the added tokens in the config."""
    backend = byte_level_bpe()
    added = {i: {"content": t.content, "special": t.special, "normalized": False} for i, t in backend.get_added_tokens_decoder().items()}
    edit(directory, "tokenizer_config.json", lambda c: {**c, "added_tokens_decoder": added})
    (directory / "tokenizer.json").unlink()
    backend.model.save(str(directory))


def test_install_builds_tokenizer_json_from_vocab_and_merges(qwen3: Path, tmp_path: Path) -> None:
    expected = load_tokenizer(qwen3)
    as_vocab_and_merges(qwen3)
    target = tmp_path / "installed"
    target.mkdir()
    assert install_tokenizer(qwen3, target) == 427
    built = load_tokenizer(target)
    assert built.added == expected.added
    for text in (*TEXTS, "<|im_start|>user\n胸痛<|im_end|>"):
        assert built.encode(text) == expected.encode(text)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_install_names_the_files_it_misses(qwen3: Path, tmp_path: Path, name: str) -> None:
    as_vocab_and_merges(qwen3)
    (qwen3 / name).unlink()
    with pytest.raises(DataError, match=f"neither tokenizer.json nor vocab.json with merges.txt .*, got missing {name}"):
        install_tokenizer(qwen3, tmp_path)


@pytest.mark.real_data
def test_the_real_qwen3_vocabulary_is_built_and_loads_alike(real_data: Path, tmp_path: Path) -> None:
    assert install_tokenizer(real_data / "qwen3_tokenizer", tmp_path) == 151669
    tok = load_tokenizer(tmp_path)
    assert (tok.eos_id, tok.added["<think>"], tok.added["</think>"]) == (151645, 151667, 151668)
    assert tok.decode(tok.encode(TEXTS[0])) == TEXTS[0]
