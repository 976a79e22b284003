"""One arm of the evaluation: the same rows, prompts, precision and decoding, whichever model answers.

Three segments of a row are scored, and the control tokens around them are in none: `reasoning`, `answer_given_gold` (the row's own
reasoning in context) and `answer_given_empty_think` (an empty think block in context, so a better thought cannot help). `end` is the
turn's EOS after the answer, apart from the rest: whether a model knows when to stop is not a matter of its medicine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medcot.arm import GENERAL_SET, HELDOUT_SET, ROW_SCHEMA, SEGMENTS, TEXT, TRAIN_SET
from medcot.errors import DataError, TrainingError
from medcot.evaluate_params import EvaluateParams
from medcot.general_texts import GeneralText
from medcot.llamafactory import Row, read_rows
from medcot.model import Hardware, describe_precision, file_sha256, read_base_record
from medcot.model_params import ModelParams
from medcot.nll import Spans, span_nll
from medcot.records import canonical, seeded_order, short_hash
from medcot.stage import SCHEMA_VERSION
from medcot.tasks import Prompting
from medcot.template import Template, check_template, encode, get_template
from medcot.tokenizer import ChatTokenizer, load_tokenizer

SEED = 0  # of the choice of training rows: another choice would be another eval set, so it is no param


@dataclass(frozen=True, slots=True)
class EvalSet:
    """What both arms are given: the split's rows, training rows beside them, and all that turns them into tokens."""

    split: str
    rows: list[Row]
    tok: ChatTokenizer
    template: Template
    system: str
    train: tuple[Row, ...] = ()

    @property
    def prompting(self) -> Prompting:
        return Prompting(self.tok, self.template, self.system)


def read_eval_set(data_dir: Path, tokenizer_dir: Path, split: str, model: ModelParams, max_train: int = 0) -> EvalSet:
    """Read the rows of a split in id order, with the tokenizer and template they are rendered by.

    max_train  training rows taken beside them, at most as many as the split has: a seeded choice

    Raises DataError when the split has no rows, a row of it stands in train too, an id stands twice, or the template does not fit the
    tokenizer.
    """
    template, tok = get_template(model.template), load_tokenizer(tokenizer_dir)
    check_template(tok, template)
    rows = _read_split(data_dir, split, template)
    if not rows:
        raise DataError(str(data_dir / f"{split}.json"), "the split has no rows", f"raise convert.{split}_ratio, or give more data")
    trained = _read_split(data_dir, "train", template)
    _refuse_trained(data_dir, split, rows, trained)
    most = min(max_train, len(rows))
    train = sorted(trained, key=lambda row: seeded_order(row.id, SEED))[:most]
    return EvalSet(split, rows, tok, template, model.system, tuple(sorted(train, key=lambda row: row.id)))


def _refuse_trained(data_dir: Path, split: str, rows: Sequence[Row], trained: Sequence[Row]) -> None:
    """A model that has seen a question answers it from memory. Stage convert lets no such row through; a file changed by hand may."""
    ids, questions = {row.id for row in trained}, {row.question for row in trained}
    if seen := [row.id for row in rows if row.id in ids or row.question in questions]:
        remedy = "run `dvc repro -f convert`, which keeps the splits apart"
        raise DataError(str(data_dir / f"{split}.json"), f"{len(seen)} {split} rows stand in train.json too", remedy, got=seen[0])


def _read_split(data_dir: Path, split: str, template: Template) -> list[Row]:
    path = data_dir / f"{split}.json"
    rows = sorted(read_rows(path, template), key=lambda row: row.id)
    if twice := [row_id for row_id, count in Counter(row.id for row in rows).items() if count > 1]:
        raise DataError(str(path), f"{len(twice)} ids stand twice", "run `dvc repro -f convert`", got=twice[0])
    return rows


def describe_arm(data: EvalSet, params: EvaluateParams, quantization: str, hardware: Hardware, model_dir: Path) -> dict[str, Any]:
    """Say what an arm is measured with: two arms may be subtracted when these are equal."""
    rows, (record, weights) = [asdict(row) for row in data.rows], read_base_record(model_dir)
    return {
        "schema_version": SCHEMA_VERSION,
        "split": data.split,
        "num_rows": len(data.rows),
        "eval_set_hash": short_hash(canonical(rows)),
        "train_set_hash": short_hash(canonical([asdict(row) for row in data.train])),
        "template_hash": short_hash(canonical([data.template.fingerprint, data.system])),
        "tokenizer_hash": data.tok.fingerprint,
        "base_fingerprint": record.fingerprint,
        "precision": describe_precision(weights, quantization, hardware),
        "probes_hash": short_hash(canonical([params.probes, params.probe_max_new_tokens])),
    }


def weights_hash(directory: Path) -> str:
    """16 hex digits over the safetensors files of a directory: two adapters are the same when these are equal."""
    return short_hash(canonical({path.name: file_sha256(path) for path in directory.glob("*.safetensors")}))


def score_rows(model: Any, data: EvalSet, max_tokens: int) -> pl.DataFrame:
    """Score every segment of every row of the split and of training; see Arm.frame.

    Raises TrainingError when a likelihood is not finite.
    """
    rows = [(HELDOUT_SET, row) for row in data.rows] + [(TRAIN_SET, row) for row in data.train]
    pairs = [segment_spans(row, data) for _, row in rows]
    scored = span_nll(model, [spans for pair in pairs for spans in pair], max_tokens)
    lines = []
    for i, ((name, row), pair) in enumerate(zip(rows, pairs, strict=True)):
        sums = {**scored[2 * i], **scored[2 * i + 1]}
        sizes = {segment: len(span) for spans in pair for segment, span in spans.spans.items()}
        texts = {"reasoning": row.reasoning, "answer_given_gold": row.answer, "answer_given_empty_think": row.answer, "end": ""}
        lines += [(name, row.id, segment, sums[segment], sizes[segment], *text_sizes(texts[segment])) for segment in SEGMENTS]
    return row_frame(lines)


def score_texts(model: Any, data: EvalSet, texts: Sequence[GeneralText], max_tokens: int) -> pl.DataFrame:
    """Score general texts: one line each, segment `text`; see Arm.frame."""
    spans = [text_spans(text, data) for text in texts]
    lines = []
    for text, span, sums in zip(texts, spans, span_nll(model, spans, max_tokens), strict=True):
        lines.append((GENERAL_SET, text.id, TEXT, sums[TEXT], len(span.spans[TEXT]), *text_sizes(text.text)))
    return row_frame(lines)


def text_spans(text: GeneralText, data: EvalSet) -> Spans:
    """Tokenise a general text after its prompt and an empty think block; without a prompt as it stands, from its second token on."""
    if text.prompt:
        encoded = encode(data.tok, data.template, text.prompt, "", text.text, data.system)
        return Spans(encoded.input_ids, {TEXT: encoded.answer})
    ids = data.tok.encode(text.text)
    return Spans(ids, {TEXT: range(1, len(ids))})


def text_sizes(text: str) -> tuple[int, int]:
    """Characters and UTF-8 bytes."""
    return len(text), len(text.encode("utf-8"))


def row_frame(lines: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """Make a table of ROW_SCHEMA; TrainingError where a likelihood is not finite."""
    for line in lines:
        if not math.isfinite(line[3]):
            raise TrainingError(f"row {line[1]}", "its likelihood is not finite", "the weights are broken: make them again", got=line[3])
    return pl.DataFrame(lines, schema=ROW_SCHEMA, orient="row")


def segment_spans(row: Row, data: EvalSet) -> tuple[Spans, Spans]:
    """Tokenise a row with its own reasoning and with an empty think block, and mark the segments."""
    gold = encode(data.tok, data.template, row.question, row.reasoning, row.answer, data.system)
    empty = encode(data.tok, data.template, row.question, "", row.answer, data.system)
    end = range(len(gold.input_ids) - 1, len(gold.input_ids))
    return (
        Spans(gold.input_ids, {"reasoning": gold.reasoning, "answer_given_gold": gold.answer, "end": end}),
        Spans(empty.input_ids, {"answer_given_empty_think": empty.answer}),
    )
