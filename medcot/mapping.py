"""Map a source's columns to question, reasoning and answer, and where there are such columns to a class and a source of each row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from medcot.errors import DataError
from medcot.params import Params
from medcot.pii import masked
from medcot.records import TEXT_FIELDS, RawRecord, assign_ids
from medcot.rows import Row

_THINK_BLOCK = re.compile(r"\s*<think>(.*)</think>(.*)", re.DOTALL)
_THINK_TAG = re.compile(r"</?think>")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which column holds which field.

    reasoning  None where the reasoning is a think block at the start of the answer column
    context    a further column, joined to the question by a newline where it has text
    category   a column with the row's class, for class balance
    source     a column that says where the row is from, for caps by source, in place of the file's name
    """

    name: str
    question: str
    answer: str
    reasoning: str | None = None
    context: str | None = None
    category: str | None = None
    source: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The columns that describe a row and are no part of its content."""
        return {name: column for name in ("category", "source") if (column := getattr(self, name)) is not None}

    @property
    def columns(self) -> list[str]:
        """Every column that holds text of the record."""
        return [name for name in (self.question, self.context, self.reasoning, self.answer) if name is not None]


class FieldParams(Params):
    """Column names of a source that fits no ready mapping."""

    question: str
    """The column with the question."""
    reasoning: str
    """The column with the chain of thought."""
    answer: str
    """The column with the final answer."""
    category: str | None = None
    """A column with the class of each row, such as a department, for class balance; leave it out where there is none."""
    source: str | None = None
    """A column that says where each row is from, for caps by source; leave it out and the file's name stands for all rows."""


MAPPINGS = {
    mapping.name: mapping
    for mapping in (
        Mapping("o1", question="Question", reasoning="Complex_CoT", answer="Response"),
        Mapping("question_think_answer", question="question", reasoning="think", answer="answer"),
        Mapping("alpaca", question="instruction", context="input", answer="output"),
    )
}


def choose_mapping(rows: Sequence[Row], wanted: Mapping | None, place: str) -> Mapping | None:
    """Return the wanted mapping, or the ready one with the most columns present over all rows; None when no row is readable.

    Raises DataError when no row has the question's column, or the one of category or source.
    """
    readable = [row.values for row in rows if row.values is not None]
    if not readable:
        return None
    candidates = [wanted] if wanted else list(MAPPINGS.values())
    fitting = [mapping for mapping in candidates if any(mapping.question in values for values in readable)]
    if not fitting:
        raise _no_mapping(candidates, sorted({name for values in readable for name in values}), place)
    for field, column in wanted.labels.items() if wanted else ():
        if not any(column in values for values in readable):
            columns = sorted({name for values in readable for name in values})
            close = _closest(column, columns)
            hint = f"did you mean `{close}`? " if close else ""
            remedy = masked(f"{hint}the columns are {', '.join(columns)}")
            raise DataError(f"params.yaml: download.fields.{field}", f"no row of {place} has this column", remedy, got=column)
    return max(fitting, key=lambda mapping: sum(name in values for values in readable for name in mapping.columns))


def _no_mapping(candidates: list[Mapping], columns: list[str], place: str) -> DataError:
    known = [name for mapping in candidates for name in mapping.columns]
    guesses = [f"`{column}` as `{close}`" for column in columns if (close := _closest(column, known))]
    hint = f"did you mean {', '.join(guesses)}? " if guesses else ""
    wanted = " or ".join("/".join(mapping.columns) for mapping in candidates)
    remedy = f"{hint}rename the columns to {wanted}, or name yours under `download.fields`"
    return DataError(place, "no field mapping fits the columns", masked(remedy), got=masked(", ".join(columns)))


def _closest(name: str, known: Sequence[str]) -> str | None:
    """Find the known name that differs least, letter case aside where that is needed."""
    lowered = {candidate.lower(): candidate for candidate in known}
    exact = difflib.get_close_matches(name, known, n=1)
    folded = difflib.get_close_matches(name.lower(), lowered, n=1)
    return exact[0] if exact else lowered[folded[0]] if folded else None


def to_raw_records(rows: Sequence[Row], mapping: Mapping | None, source: str) -> list[RawRecord]:
    """Give every row its id and its fields, in the order of the rows."""
    ids = assign_ids(row.hash for row in rows)
    return [_raw_record(row, record_id, mapping, source) for row, record_id in zip(rows, ids, strict=True)]


def _raw_record(row: Row, record_id: str, mapping: Mapping | None, source: str) -> RawRecord:
    if row.values is None or mapping is None:
        return RawRecord(record_id, source, error=row.error, detail=row.detail, raw=row.raw)
    labels = {field: row.values.get(column) for field, column in mapping.labels.items()}
    named = {field: _label(value) for field, value in labels.items() if isinstance(value, str) and value.strip()}
    record = replace(_texts(row.values, record_id, mapping), source=named.get("source", source), category=named.get("category"))
    wrong = [f"{field}: {type(value).__name__}" for field, value in labels.items() if not isinstance(value, str | None)]
    return replace(record, error="not_text", detail="; ".join(wrong)) if wrong and record.error is None else record


@lru_cache(maxsize=10_000)
def _label(value: str) -> str:
    """A class or source as ledger and reports show it: a column that was meant for something else may hold personal data."""
    return masked(value)


def _texts(values: dict[str, Any], record_id: str, mapping: Mapping) -> RawRecord:
    """The record with its three texts, of a source that is filled in later."""
    question, answer = _with_context(values, mapping), values.get(mapping.answer)
    if mapping.reasoning is not None:
        return RawRecord(record_id, "", question, values.get(mapping.reasoning), answer, detail=_missing(values, mapping))
    if not isinstance(answer, str):
        return RawRecord(record_id, "", question, None, answer, detail=_missing(values, mapping))
    block = _THINK_BLOCK.fullmatch(answer)
    tags = len(_THINK_TAG.findall(answer))
    if block is None or tags != 2:
        detail = f"{mapping.answer}: {tags} think tags; one <think>…</think> must stand at its start"
        return RawRecord(record_id, "", question, None, answer, error="think_block", detail=detail)
    return RawRecord(record_id, "", question, block.group(1), block.group(2))


def _with_context(values: dict[str, Any], mapping: Mapping) -> Any:
    """Join question and context as LLaMA-Factory does: by one newline, an empty one left out."""
    question, context = values.get(mapping.question), values.get(mapping.context) if mapping.context else None
    if context is None or context == "":
        return question
    if isinstance(question, str) and isinstance(context, str):
        return f"{question}\n{context}" if question else context
    return None if question is None else [question, context]  # not text, and refused as that


def _missing(values: dict[str, Any], mapping: Mapping) -> str | None:
    """Say which fields have no value in a row, and which of its columns may have been meant."""
    used = {name: getattr(mapping, name) for name in TEXT_FIELDS if getattr(mapping, name) is not None}
    spare = sorted(set(values) - {*mapping.columns, *mapping.labels.values()})
    details = []
    for field, column in used.items():
        if column in values and values[column] is None:
            details.append(f"{field}: `{column}` is null")
        elif column not in values:
            close = _closest(column, spare)
            details.append(f"{field}: no column `{column}`" + (f", did you mean `{close}`?" if close else ""))
    return masked("; ".join(details)) or None
