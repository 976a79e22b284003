"""One source row, read or refused, and the strict JSON that rows are written in.

JSON lets NaN, duplicate keys, lone surrogates and any depth pass; here each makes a row unreadable, under its own code, with its
raw text kept. Positions count from the row's first byte, so that the order of the rows does not matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf
from typing import Any

from medcot.errors import DataError
from medcot.pii import masked
from medcot.records import canonical, short_hash

MAX_ROW_BYTES = 1_000_000  # a record of a million bytes is no question and answer
MAX_DEPTH = 64  # levels of nesting: a fixed limit, so that no interpreter's stack decides
RAW_HEAD = 1_000  # characters kept of a row that is too long
BLANK = " \t\r\n"

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_BRACKET = re.compile(_STRING + r"|([\[{])|([\]}])", re.DOTALL)
_NON_FINITE = re.compile(_STRING + r"|(-?(?:NaN|Infinity))", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = f"more than {MAX_DEPTH} levels of nesting"


@dataclass(frozen=True, slots=True)
class Row:
    """One source row: its values by column, or an error code with a detail and the raw text.

    hash  of the canonical raw row (all columns, as parsed), or of the raw text of an unreadable one: the record's id
    """

    hash: str
    values: dict[str, Any] | None = None
    error: str | None = None
    detail: str | None = None
    raw: str | None = None


def unreadable(code: str, detail: str, raw: str) -> Row:
    """Make a row of what could not be read; its raw text is its identity, and only the head of a very long one is kept."""
    size = len(raw.encode())
    if size > MAX_ROW_BYTES:
        detail = f"{size} bytes, at most {MAX_ROW_BYTES} are read; the first {RAW_HEAD} characters are kept"
        return Row(short_hash(raw), None, "row_too_long", detail, raw[:RAW_HEAD])
    return Row(short_hash(raw), None, code, detail, raw)


def checked_row(value: Any, raw: str, defects: list[tuple[str, str]] | None = None) -> Row:
    """Turn a decoded value into a row, or say what is wrong with it: its size, its depth, the first defect, its type."""
    if len(raw.encode()) > MAX_ROW_BYTES:
        return unreadable("row_too_long", "", raw)
    if _deeper_than(value, MAX_DEPTH):
        return unreadable("too_deep", _TOO_DEEP, raw)
    if defects:
        return unreadable(*defects[0], raw)
    if not isinstance(value, dict):
        return unreadable("not_object", f"{type(value).__name__} in place of an object", raw)
    identity = canonical(value)
    surrogate = _SURROGATE.search(identity)
    if surrogate:
        return unreadable("lone_surrogate", f"U+{ord(surrogate.group()):04X}", raw)
    return Row(short_hash(identity), value)


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(child, levels - 1) for child in children)


def parse_row(text: str) -> Row:
    """Parse the text of one JSON row, without white space around it."""
    if len(text) > MAX_ROW_BYTES:
        return unreadable("row_too_long", "", text)
    try:
        value, end, defects = _decode(text, 0)
    except json.JSONDecodeError as error:
        return unreadable("invalid_json", f"{error.msg} at byte {_byte(text, error.pos)}", text)
    except RecursionError:
        return unreadable("too_deep", _TOO_DEEP, text)
    if end != len(text):
        return unreadable("invalid_json", f"Extra data at byte {_byte(text, end)}", text)
    return checked_row(value, text, defects)


def parse_array(text: str, place: str) -> Iterator[Row]:
    """Parse a JSON array row by row: one odd row is one unreadable row, a break in the array is a DataError naming row and byte."""
    position, number = _skip_blank(text, 0), 0
    if text[position : position + 1] != "[":
        raise DataError(place, "not JSON", "write an array of objects, one a row", got=masked(text[position : position + 1000])[:40])
    position = _skip_blank(text, position + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        row, position = _element(text, position, number, place)
        yield row
        position, number = _skip_blank(text, position), number + 1
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            raise _broken(place, number, text, position, "expected `,` or `]` after the row")
        closed = mark == "]"
        position = position if closed else _skip_blank(text, position + 1)
    if text[position + 1 :].strip(BLANK):
        raise _broken(place, number, text, position + 1, "text after the end of the array")


def _element(text: str, start: int, number: int, place: str) -> tuple[Row, int]:
    try:
        value, end, defects = _decode(text, start)
    except json.JSONDecodeError as error:
        raise _broken(place, number, text, error.pos, error.msg) from None
    except RecursionError:
        end = _closing_bracket(text, start)
        return unreadable("too_deep", _TOO_DEEP, text[start:end]), end
    return checked_row(value, text[start:end], defects), end


def _decode(text: str, start: int) -> tuple[Any, int, list[tuple[str, str]]]:
    """Decode one JSON value: the value, where it ends, and the defects (code, detail) that the decoder lets pass."""
    defects: list[tuple[str, str]] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            defects.append(("duplicate_key", f"{masked(next(key for key in keys if keys.count(key) > 1))!a} stands twice"))
        return result

    def number(literal: str) -> float:
        if isinf(float(literal)):
            defects.append(("nan_literal", f"{literal[:20]} is beyond the range of numbers"))
        return float(literal)

    def constant(_: str) -> None:
        match = next(match for match in _NON_FINITE.finditer(text, start) if match.group(1))
        defects.append(("nan_literal", f"{match.group(1)} at byte {_byte(text[start : match.start()], match.start())}"))

    # int() refuses thousands of digits; float() takes them and number() then says that they are out of range.
    decoder = json.JSONDecoder(
        object_pairs_hook=mapping,
        parse_float=number,
        parse_constant=constant,
        parse_int=lambda literal: int(literal) if len(literal) <= 400 else number(literal),
    )
    value, end = decoder.raw_decode(text, start)
    return value, end, defects


def _closing_bracket(text: str, start: int) -> int:
    """Find where a bracketed value ends; the end of the text when it is never closed."""
    depth = 0
    for match in _BRACKET.finditer(text, start):
        depth += bool(match.group(1)) - bool(match.group(2))
        if depth == 0:
            return match.end()
    return len(text)


def _broken(place: str, number: int, text: str, position: int, what: str) -> DataError:
    cause = "the file ends too early" if position >= len(text.rstrip(BLANK)) else what
    remedy = "complete or mend the file; in JSON Lines only the broken row would be lost"
    return DataError(f"{place}: row {number}, byte {_byte(text, position)}", f"invalid JSON: {cause}", remedy)


def _skip_blank(text: str, position: int) -> int:
    while text[position : position + 1] in BLANK and position < len(text):
        position += 1
    return position


def _byte(text: str, position: int) -> int:
    return len(text[:position].encode("utf-8", "surrogatepass"))
