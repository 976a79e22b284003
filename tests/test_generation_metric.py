"""Answers while training: which rows, what a reply is worth, and that the model and the random numbers are as they were before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from train_factory import QWEN3, Base, rows

from medcot import generation_metric
from medcot.distributed import World
from medcot.errors import DataError
from medcot.evaluate_params import GenerationParams
from medcot.generation import generate_replies
from medcot.generation_metric import GenerationMetric, as_prompt, score_of
from medcot.llamafactory import Row
from medcot.overlap_scores import bleu_4, rouge_l
from medcot.slots import Request
from medcot.tasks import Prompting
from medcot.train_params import TrainParams


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def metric(base: Base, count: int = 5, limit: int = 12, of: Sequence[Row] | None = None) -> GenerationMetric:
    params = TrainParams(eval_generate_rows=count, eval_max_new_tokens=limit, per_device_eval_batch_size=2)
    return GenerationMetric(rows(9) if of is None else of, Prompting(base.tok, QWEN3, ""), params)


def test_the_rows_follow_from_their_ids_alone(base: Base) -> None:
    chosen = metric(base).rows
    assert len(chosen) == 5
    assert metric(base, of=rows(9)[::-1]).rows == chosen
    assert [row.id for row in chosen] == sorted(row.id for row in chosen)
    others = [row for row in rows(9) if row not in chosen]
    assert metric(base, of=[*others[:2], *chosen]).rows == chosen
    assert set(metric(base, 4).rows) < set(chosen)
    assert metric(base, 100).rows == rows(9)


def test_the_scores_are_means_over_the_engines_own_greedy_replies(base: Base, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medcot")
    model, one = base.model("none"), metric(base, 9, 40)
    settings = GenerationParams(temperature=0.0, max_new_tokens=40)
    replies = generate_replies(model, one.prompting, [as_prompt(row) for row in one.rows], settings)
    assert [reply.text for reply in one._replies(model, one.rows)] == [reply.text for reply in replies]
    expected = [sum(score_of(score, *pair) for pair in zip(replies, one.rows, strict=True)) / 9 for score in (bleu_4, rouge_l)]
    assert one(model) == dict(zip(("eval_bleu_4", "eval_rouge_l"), expected, strict=True))
    cut = sum(reply.truncated for reply in replies)
    text = f"train: 9 val rows answered, eval_bleu_4 {expected[0]:.4f}, eval_rouge_l {expected[1]:.4f}, {cut} cut at 40 tokens"
    assert text in caplog.text


def say(base: Base, replies: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model reply so, by the row's id; a reply without its end is cut."""

    def in_batches(_: Any, asked: Sequence[Request], stops: set[int], settings: Any) -> Iterator[tuple[int, list[int]]]:
        assert settings.temperature == 0
        assert base.tok.eos_id in stops
        for i, request in enumerate(asked):
            yield i, base.tok.encode(replies[str(request.key[0])])

    monkeypatch.setattr(generation_metric, "in_batches", in_batches)


CASES = [
    Row("0a", "患者胸痛三天，考虑什么？", "先看心电图。", "考虑急性心肌梗死，立即心电图。"),
    Row("0b", "A child has fever. What now?", "Fever.", "Start amoxicillin three times a day."),
    Row("0c", "头晕？", "先测血压。", "休息并测血压。"),
    Row("0d", "Cough?", "Think.", "Take a chest film."),
]
REPLIES = {
    "0a": "<think>\n别的思路。\n</think>\n\n考虑急性心肌梗死，立即心电图。<|im_end|>",  # another thought, the very answer
    "0b": "<think>\nFever.\n</think>\n\nStart amoxicillin three times a day.",  # cut before its end
    "0c": "<think>\n先测血压。休息并测血压。<|im_end|>",  # the thought is never closed
    "0d": "Take a chest film.<|im_end|>",  # no thought at all is an answer
}


def test_an_answer_counts_and_what_has_none_is_worth_nothing(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    say(base, REPLIES, monkeypatch)
    assert metric(base, 4, of=CASES)(base.model("none")) == {"eval_bleu_4": 0.5, "eval_rouge_l": 0.5}
    say(base, REPLIES | {"0a": "<think>\n\n</think>\n\n考虑肺炎。<|im_end|>"}, monkeypatch)
    worse = metric(base, 4, of=CASES)(base.model("none"))
    assert 0.25 < worse["eval_rouge_l"] < 0.5
    assert 0.25 < worse["eval_bleu_4"] < 0.5


def test_processes_share_the_rows_and_all_get_the_same_means(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    say(base, REPLIES, monkeypatch)
    model, one = base.model("none"), metric(base, 4, of=CASES)
    parts: list[list[float]] = []

    def keep(values: Sequence[float]) -> list[float]:
        parts.append(list(values))
        return list(values)

    monkeypatch.setattr(generation_metric, "sum_values", keep)
    whole = one(model)
    for size in (2, 6):  # with six, two of the processes have no row at all
        parts.clear()
        for rank in range(size):
            monkeypatch.setattr(generation_metric, "world", lambda rank=rank, size=size: World(rank, size))
            one(model)
        sums = [sum(column) for column in zip(*parts, strict=True)]
        assert sums == [whole["eval_bleu_4"] * 4, whole["eval_rouge_l"] * 4, 1]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_random_numbers_are_left_as_they_were(base: Base, training: bool) -> None:
    model = base.adapted(TrainParams(lora_dropout=0.5)).train(training)
    model.config.use_cache = False
    model.gradient_checkpointing_enable({"use_reentrant": False})
    modes, state = [module.training for module in model.modules()], torch.random.get_rng_state()
    scores = metric(base)(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.config.use_cache is False
    assert model.is_gradient_checkpointing
    assert scores == metric(base)(base.adapted(TrainParams(lora_dropout=0.5)))


def test_replies_that_the_context_cannot_hold_are_refused_before_the_first_step(base: Base, tmp_path: Path) -> None:
    longest = max(len(metric(base)._prompt(row)) for row in metric(base).rows)
    metric(base, limit=2048 - longest).check(base.model("none"))
    with pytest.raises(DataError) as caught:
        metric(base, limit=2049 - longest).check(base.model("none"))
    assert str(caught.value) == (
        f"params.yaml: train.eval_max_new_tokens: the longest prompt leaves {2048 - longest} of the 2048 tokens that the model reads, "
        f"got {2049 - longest}; lower it"
    )
    full = base.model("none")
    full.config.max_position_embeddings = longest
    with pytest.raises(DataError, match=f"the longest prompt leaves 0 of the {longest} tokens that the model reads, got 1; lower it"):
        metric(base, limit=1).check(full)
