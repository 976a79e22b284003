"""The demo base: its tokenizer, its batches, and that it is the same model every time it is trained."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from train_factory import QWEN3, rows

from medcot.demo import (
    BLOCK,
    PAD_TOKEN,
    VOCAB_SIZE,
    DemoTraining,
    build_model,
    iterate_blocks,
    train_model,
    train_tokenizer,
    write_tokenizer,
)
from medcot.errors import TrainingError
from medcot.template import TEMPLATES, Encoded, encode, render_target
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


def test_blocks_hold_every_token_of_a_round_once_in_an_order_of_the_seed() -> None:
    ids = [[row] * (BLOCK // 8) for row in range(24)]

    def round_of(seed: int) -> list[list[int]]:
        return list(itertools.islice(iterate_blocks(ids, seed), 3))

    first = round_of(1)
    assert [len(block) for block in first] == [BLOCK] * 3
    assert sorted(token for block in first for token in block) == sorted(token for row in ids for token in row)
    assert round_of(1) == first != round_of(2)


def test_blocks_never_end_and_change_their_order() -> None:
    ids = [[row] * BLOCK for row in range(8)]
    blocks = [block[0] for block in itertools.islice(iterate_blocks(ids, 1), 24)]
    rounds = [blocks[i : i + 8] for i in (0, 8, 16)]
    assert [sorted(r) for r in rounds] == [list(range(8))] * 3
    assert rounds[0] != rounds[1] != rounds[2]


def test_an_untrained_model_is_about_uniform_and_learns(tok: ChatTokenizer) -> None:
    model = build_model(len(tok), tok.added[PAD_TOKEN], tok.eos_id, seed=1)
    ids = torch.tensor([encoded(tok)[0].input_ids])
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(math.log(len(tok)), rel=0.05)
    nll = train_model(model, encoded(tok), DemoTraining(30, 6, 5e-3, 1))
    assert nll < 0.7 * math.log(len(tok))
    assert not model.training


def test_a_loss_that_is_not_finite_stops_with_the_step(tok: ChatTokenizer) -> None:
    model = build_model(len(tok), tok.added[PAD_TOKEN], tok.eos_id, seed=1)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"base: step 1: the loss is not finite, got nan; lower base.learning_rate"):
        train_model(model, encoded(tok), DemoTraining(3, 4, 1e-3, 1))


@pytest.mark.parametrize("steps", [3, 4, 10, 20])
def test_the_fewest_steps_have_a_schedule_too(tok: ChatTokenizer, steps: int) -> None:
    model = build_model(len(tok), tok.added[PAD_TOKEN], tok.eos_id, seed=1)
    assert math.isfinite(train_model(model, encoded(tok), DemoTraining(steps, batch_size=1, learning_rate=1e-3, seed=1)))
