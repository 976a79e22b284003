"""What both arms are asked and what comes of it: prompts, replies and scores, in one shape for every endpoint.

An endpoint is one thing that is measured, such as the share of right choices. A task turns its material into prompts, the same for both
arms; the model replies, once or several times; the task scores each reply between 0 and 1. A reply that fails, because it is empty, cut,
never closes its thought or cannot be read, scores 0: it is never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import polars as pl

from medcot.records import canonical, short_hash
from medcot.template import Template
from medcot.tokenizer import ChatTokenizer

HELDOUT = "heldout"
"""Questions of the split, answered freely: for generation health and to be read; it has no score."""
KNOWLEDGE = ("choice", "choice_generated", "open")
"""The user's benchmarks: the likeliest choice, the choice written in a reply, the key points of an open answer."""
FORGETTING = ("general_choice", "general_answer", "instructions")
"""General questions with choices (likeliest choice), with an exact answer such as a number, and instructions that a rule can verify."""
SAFETY = ("red_flags",)
"""Red flags and benign look-alikes by rule; they may veto and never prove."""
ENDPOINTS = (*KNOWLEDGE, *FORGETTING, *SAFETY)
GENERATED = ("choice_generated", "open", "general_answer", "instructions", "red_flags")
"""Endpoints that read generated replies; the others compare likelihoods."""

CHANCE = "chance."
"""Before an endpoint in a manifest: what guessing scores on its clean items; see medcot/guessing.py."""

ThinkState = Literal["prefilled", "explicit", "none", "unclosed", "nested", "multiple", "empty_answer"]
Status = Literal["ok", "truncated", "unclosed", "empty", "unparseable"]


@dataclass(frozen=True, slots=True)
class Prompting:
    """What turns a prompt's text into tokens, the same for training and both arms."""

    tok: ChatTokenizer
    template: Template
    system: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One item of one endpoint, as both arms meet it.

    benchmark     the file, folder or suite that it comes from: a-z, 0-9 and _
    item          its id, unique within endpoint and benchmark
    case          what it shares with other items of the benchmark, such as a clinical case: the unit of resampling; else the item itself
    contaminated  whether a training row holds it; None where that was not checked
    text          the user's turn, before the template
    choices       in the order of their letters; empty where there are none
    reference     what is right, in the endpoint's own form: letters, key points, a number, or a rule as JSON
    """

    endpoint: str
    benchmark: str
    item: str
    case: str
    contaminated: bool | None
    text: str
    choices: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply to one prompt.

    sample          0 and up: the same prompt is answered several times with other random numbers
    text            as decoded, with what the prompt gave of it and without the token that ended it
    reasoning       the thought in it, "" where there is none
    answer          what follows the thought; "" where the thought was not closed
    num_new_tokens  generated, the ending token included
    truncated       the limit came before the end
    """

    endpoint: str
    benchmark: str
    item: str
    sample: int
    text: str
    think_state: ThinkState
    reasoning: str
    answer: str
    num_new_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """A model's reply to one probe.

    id              16 hex digits of the question
    text            the reply as decoded, with what the prompt gave of it and without the token that ended it
    reasoning       the thought in it, "" where there is none
    answer          what follows the thought; "" unless one thought was opened and closed, or there was none
    num_new_tokens  generated, the ending token included
    truncated       the limit came before the end
    """

    id: str
    question: str
    text: str
    think_state: ThinkState
    reasoning: str
    answer: str
    num_new_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Score:
    """What one reply, or one comparison of likelihoods, is worth.

    score       between 0 and 1, finite
    status      why it is 0 where the reply failed, else ok
    prediction  what was read from the reply, such as `B`; "" where nothing was
    """

    endpoint: str
    benchmark: str
    item: str
    sample: int
    case: str
    contaminated: bool | None
    score: float
    status: Status
    prediction: str


def failure(reply: Reply) -> Status:
    """Say why a reply cannot be right whatever it says, or `ok`: cut by the limit, its thought not closed, or no answer."""
    if reply.truncated:
        return "truncated"
    if reply.think_state in ("unclosed", "nested", "multiple"):
        return "unclosed"
    return "ok" if reply.answer.strip() else "empty"


def scored(prompt: Prompt, reply: Reply | None, score: float, status: Status, prediction: str) -> Score:
    """Make the score of a prompt; without a reply (likelihoods) the sample is 0."""
    sample = 0 if reply is None else reply.sample
    return Score(prompt.endpoint, prompt.benchmark, prompt.item, sample, prompt.case, prompt.contaminated, score, status, prediction)


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """16 hex digits over what is asked and what counts as right, in whatever order; two arms may be compared where these are equal.

    Contamination marks are left out: they belong to the training data, and runs on other data may be compared on the same items.
    """
    asked = [{key: value for key, value in asdict(prompt).items() if key != "contaminated"} for prompt in prompts]
    return short_hash(canonical(sorted(asked, key=lambda one: (one["endpoint"], one["benchmark"], one["item"]))))


_TYPES = {"sample": pl.Int64, "num_new_tokens": pl.Int64, "truncated": pl.Boolean, "contaminated": pl.Boolean, "score": pl.Float64}
REPLY_SCHEMA: dict[str, Any] = {field.name: _TYPES.get(field.name, pl.String) for field in fields(Reply)}
SCORE_SCHEMA: dict[str, Any] = {field.name: _TYPES.get(field.name, pl.String) for field in fields(Score)}
KEY = ["endpoint", "benchmark", "item", "sample"]


def reply_frame(replies: Sequence[Reply]) -> pl.DataFrame:
    """The replies as a table, sorted by KEY."""
    return pl.DataFrame([asdict(reply) for reply in replies], schema=REPLY_SCHEMA).sort(KEY)


def score_frame(scores: Sequence[Score]) -> pl.DataFrame:
    """The scores as a table, sorted by KEY."""
    return pl.DataFrame([asdict(score) for score in scores], schema=SCORE_SCHEMA).sort(KEY)


def read_replies(frame: pl.DataFrame) -> list[Reply]:
    """The inverse of reply_frame."""
    return [Reply(**row) for row in frame.iter_rows(named=True)]
