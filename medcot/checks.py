"""Field checks: which records are refused, and under which code.

The checks run in the order of CODES and the first that fails names the refusal. Nothing is repaired here, and data is never a
template: braces and percent signs pass through unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from medcot.pii import masked
from medcot.records import TEXT_FIELDS, RawRecord, Record
from medcot.text import find_control_token

# Rows that could not be read at all; only these count towards the bad-row budget.
UNREADABLE_CODES = (
    "invalid_json",
    "invalid_utf8",
    "nan_literal",
    "duplicate_key",
    "not_object",
    "lone_surrogate",
    "too_deep",
    "row_too_long",
    "ragged_row",
)
CODES = (
    *UNREADABLE_CODES,
    "think_block",
    "missing_field",
    "not_text",
    "empty_field",
    "control_character",
    "control_token",
    "answer_equals_question",
    "answer_equals_reasoning",
)

# C0 but for tab and line ends, DEL and C1, the twelve bidi controls, surrogates, the replacement character and its two
# noncharacter neighbours.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffd-\uffff]")
# "WBC 5.0×109/L": a power of ten that lost its superscript before it came to us.
_LOST_SUPERSCRIPT = re.compile(r"[×xX*]\s?10(?:3|6|9|12)\s?/\s?(?:L|l|mL|ml|μL|µL|uL)\b")


class Refusal(NamedTuple):
    """Why a record goes no further; the detail is one line and quotes no more than a token of the data."""

    code: str
    detail: str


def check_raw(raw: RawRecord) -> Refusal | None:
    """Check a row as it was read: readable, think block in place, all three fields there, text, and free of control characters."""
    if raw.error is not None:
        return Refusal(raw.error, raw.detail or "")
    values = {name: getattr(raw, name) for name in TEXT_FIELDS}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        return Refusal("missing_field", raw.detail or f"{', '.join(missing)}: no value")
    for name, value in values.items():
        if not isinstance(value, str):
            return Refusal("not_text", f"{name}: {type(value).__name__}")
    return None


def check_record(raw: RawRecord, record: Record) -> Refusal | None:
    """Check a record's normalised texts; control characters are looked for, and counted from, in the raw ones."""
    texts = {name: getattr(record, name) for name in TEXT_FIELDS}
    for name, text in texts.items():
        if not text:
            return Refusal("empty_field", f"{name}: no text")
    for name in TEXT_FIELDS:
        match = _CONTROL.search(getattr(raw, name))
        if match:
            return Refusal("control_character", f"{name}: {_code_point(match.group())} at character {match.start()}")
    for name, text in texts.items():
        token = find_control_token(text)
        if token:
            return Refusal("control_token", f"{name}: {masked(token)}")
    return _check_distinct(record)


def _check_distinct(record: Record) -> Refusal | None:
    if record.answer == record.question:
        return Refusal("answer_equals_question", "answer: the same text as the question")
    if record.answer == record.reasoning:
        return Refusal("answer_equals_reasoning", "answer: the same text as the reasoning")
    return None


def find_lost_superscript(record: Record) -> str | None:
    """Describe the first power of ten whose exponent was flattened upstream, such as ×109/L; the record stays in."""
    for name in TEXT_FIELDS:
        match = _LOST_SUPERSCRIPT.search(getattr(record, name))
        if match:
            return f"{name}: {match.group()}"
    return None


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
