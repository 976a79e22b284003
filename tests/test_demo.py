"""The demo base: its tokenizer, its batches, and that it is the same model every time it is trained."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from train_factory import QWEN3, rows

from medcot.demo import (
    PAD_TOKEN,
    VOCAB_SIZE,
    DemoTraining,
    build_model,
    collate,
    iterate_batches,
    train_model,
    train_tokenizer,
    write_tokenizer,
)
from medcot.errors import TrainingError
from medcot.template import MASK, TEMPLATES, Encoded, encode, render_target
from medcot.tokenizer import ChatTokenizer, check_transformers_load, load_tokenizer

TEXTS = [text for row in rows(40) for text in (row.question, render_target(row.reasoning, row.answer))]


@pytest.fixture(scope="module")
def tok(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train_tokenizer(TEXTS), directory, QWEN3)
    check_transformers_load(directory)
    return load_tokenizer(directory)


def encoded(tok: ChatTokenizer, count: int = 12) -> list[Encoded]:
    return [encode(tok, QWEN3, row.question, row.reasoning, row.answer) for row in rows(count)]


def test_the_tokenizer_carries_every_control_token_and_gives_every_text_back(tok: ChatTokenizer) -> None:
    controls = {token for template in TEMPLATES.values() for token in template.controls}
    assert controls | {"<think>", "</think>", PAD_TOKEN} == set(tok.added)
    assert tok.eos_token == "<|im_end|>"
    assert len(tok) <= VOCAB_SIZE
    for text in (*TEXTS, "生僻字 𠮷䶮，emoji 👩🏽‍⚕️\r\n\t", "Never seen: naïve Ωμέγα 10⁹/L"):
        assert tok.decode(tok.encode(text)) == text


def test_an_unseen_character_is_still_spelled_in_bytes(tok: ChatTokenizer) -> None:
    assert len(tok.encode("𠮷")) == len("𠮷".encode())


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_it_can_be_taught_every_template(name: str, tmp_path: Path) -> None:
    write_tokenizer(train_tokenizer(TEXTS), tmp_path, TEMPLATES[name])
    tok = load_tokenizer(tmp_path)
    row = rows(1)[0]
    ids = encode(tok, TEMPLATES[name], row.question, row.reasoning, row.answer).input_ids
    assert ids[-1] == tok.eos_id
    assert tok.eos_token == (TEMPLATES[name].eos or PAD_TOKEN)


def test_the_tokenizer_does_not_depend_on_a_second_training(tok: ChatTokenizer, tmp_path: Path) -> None:
    write_tokenizer(train_tokenizer(iter(TEXTS)), tmp_path, QWEN3)
    assert load_tokenizer(tmp_path).fingerprint == tok.fingerprint


def test_an_epoch_of_batches_holds_every_row_once_in_an_order_of_the_seed() -> None:
    ids = [[row] * (1 + row % 7) for row in range(50)]

    def epoch(seed: int) -> list[list[list[int]]]:
        return list(itertools.islice(iterate_batches(ids, 4, seed), 13))

    first = epoch(1)
    assert sorted(row[0] for batch in first for row in batch) == list(range(50))
    assert all(1 <= len(batch) <= 4 for batch in first)
    assert epoch(1) == first != epoch(2)
    padded = sum(len(batch) * max(map(len, batch)) for batch in first)
    assert padded < 1.25 * sum(map(len, ids))  # in file order it would be 1.7 times the tokens


def test_batches_never_end_and_change_their_order() -> None:
    ids = [[row] for row in range(8)]
    batches = list(itertools.islice(iterate_batches(ids, 4, 1), 6))
    epochs = [sorted(row[0] for batch in batches[i : i + 2] for row in batch) for i in (0, 2, 4)]
    assert epochs == [list(range(8))] * 3
    assert batches[:2] != batches[2:4]


def test_padding_is_masked() -> None:
    batch = collate([[1, 2, 3], [4]], pad_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, MASK, MASK]]


def test_a_pad_token_inside_a_row_would_still_be_learnt() -> None:
    assert collate([[9, 9]], pad_id=9)["labels"].tolist() == [[9, 9]]


def test_an_untrained_model_is_about_uniform_and_learns(tok: ChatTokenizer) -> None:
    model = build_model(len(tok), tok.added[PAD_TOKEN], tok.eos_id, seed=1)
    batch = collate([row.input_ids for row in encoded(tok)], tok.added[PAD_TOKEN])
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(math.log(len(tok)), rel=0.05)
    nll = train_model(model, encoded(tok), DemoTraining(30, 6, 5e-3, 1), tok.added[PAD_TOKEN])
    assert nll < 0.7 * math.log(len(tok))
    assert not model.training


def test_a_loss_that_is_not_finite_stops_with_the_step(tok: ChatTokenizer) -> None:
    model = build_model(len(tok), tok.added[PAD_TOKEN], tok.eos_id, seed=1)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"base: step 1: the loss is not finite, got nan; lower base.learning_rate"):
        train_model(model, encoded(tok), DemoTraining(3, 4, 1e-3, 1), tok.added[PAD_TOKEN])
