"""Answers to a few val rows while a model is trained, and how much they share with the rows' own: a number to choose checkpoints by.

Offered for systems that chose so. An overlap score can rank a negated answer above a right one in other words (medcot/overlap_scores.py),
so it chooses among checkpoints of one run, where params ask for it, and nothing else is decided by it.

The model is only read: replies are greedy, so no random number is drawn; they are made in batches under transformers' own cache, without
the slots, graphs and unpacked weights of an evaluation, whose memory a run on a full GPU does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from medcot.attention import virtual_tokens
from medcot.distributed import sum_values, world
from medcot.errors import DataError
from medcot.evaluate_params import GenerationParams
from medcot.generation import in_batches, make_reply
from medcot.llamafactory import Row
from medcot.outcome import GENERATION_SCORES
from medcot.overlap_scores import bleu_4, rouge_l
from medcot.records import seeded_order
from medcot.slots import Request
from medcot.tasks import HELDOUT, Prompt, Prompting, Reply, failure
from medcot.template import encode_prompt, eos_id
from medcot.train_params import TrainParams

SEED = 0  # of the choice of rows: by their ids, so that neither their order nor train.seed changes it
SCORES = dict(zip(GENERATION_SCORES, (bleu_4, rouge_l), strict=True))
log = logging.getLogger("medcot")


class GenerationMetric:
    """The mean overlap of greedy answers with those of fixed rows, each in [0, 1]; higher is better.

    rows  those that are answered, in id order
    """

    def __init__(self, rows: Sequence[Row], prompting: Prompting, params: TrainParams) -> None:
        chosen = sorted(rows, key=lambda row: seeded_order(row.id, SEED))[: params.eval_generate_rows]
        self.rows, self.prompting = sorted(chosen, key=lambda row: row.id), prompting
        self.limit = params.eval_max_new_tokens
        self.settings = GenerationParams.model_validate({"temperature": 0.0, "batch_size": params.per_device_eval_batch_size})
        self.stops = {eos_id(prompting.tok, prompting.template), prompting.tok.eos_id}

    def check(self, model: Any) -> None:
        """Refuse replies for which the model's context has no room, before the first step. Raises DataError."""
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if not most:
            return
        left = max(0, most - virtual_tokens(model) - max(len(self._prompt(row)) for row in self.rows))
        if left < self.limit:
            cause = f"the longest prompt leaves {left} of the {most} tokens that the model reads"
            raise DataError("params.yaml: train.eval_max_new_tokens", cause, "lower it", got=self.limit)

    def __call__(self, model: Any) -> dict[str, float]:
        """Answer the rows and return the mean of every score; the processes of a run share the rows, and all get the same means."""
        mine = self.rows[world().rank :: world().size]
        replies = self._replies(model, mine) if mine else []
        scores = [[score_of(score, reply, row) for score in SCORES.values()] for row, reply in zip(mine, replies, strict=True)]
        cut = sum(reply.truncated for reply in replies)
        *sums, num_cut = sum_values([*(sum(column) for column in zip(*scores, strict=True)), cut] if mine else [0.0] * (len(SCORES) + 1))
        means = {name: total / len(self.rows) for name, total in zip(SCORES, sums, strict=True)}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        log.info("train: %d val rows answered, %s, %d cut at %d tokens", len(self.rows), shown, num_cut, self.limit)
        return means

    def _prompt(self, row: Row) -> list[int]:
        return encode_prompt(self.prompting.tok, self.prompting.template, row.question, self.prompting.system)

    @torch.no_grad()
    def _replies(self, model: Any, rows: Sequence[Row]) -> list[Reply]:
        """Greedy replies in the order of the rows, longest prompts first, so that memory which does not suffice shows at once."""
        requests = {i: Request(self._prompt(row), self.limit, (row.id,)) for i, row in enumerate(rows)}
        order = sorted(requests, key=lambda i: (-len(requests[i].ids), i))
        was_training = model.training
        try:
            made = dict(in_batches(model.eval(), [requests[i] for i in order], self.stops, self.settings))
        finally:
            model.train(was_training)
            if model.device.type == "cuda":
                torch.cuda.empty_cache()  # keys and values are of other sizes than what a step needs
        outputs = {order[place]: ids for place, ids in made.items()}
        return [make_reply(self.prompting, as_prompt(row), 0, outputs[i], self.stops) for i, row in enumerate(rows)]


def as_prompt(row: Row) -> Prompt:
    """A val row as what it asks."""
    return Prompt(HELDOUT, "val", row.id, row.id, False, row.question, (), row.answer)


def score_of(score: Any, reply: Reply, row: Row) -> float:
    """The overlap of a reply's answer with the row's; 0 where it has none, because it is empty, cut, or its thought never ends."""
    return float(score(reply.answer, row.answer)) if failure(reply) == "ok" else 0.0
