"""A curator's decisions about single records: read strictly from the Git-tracked data/curation/decisions.csv.

A decision is keyed by the content hash of the raw row, so that it holds for every identical copy of the row, and in a new revision
of the source as long as the row itself is the same.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from medcot.errors import DataError, printable
from medcot.pii import masked
from medcot.records import TEXT_FIELDS

RULE = "curator"  # the name of a decision in the ledger
Verb = Literal["keep", "drop", "edit"]
COLUMNS = ("content_hash", "decision", "reason", "reviewer", "date", *TEXT_FIELDS)
MAX_CELL_CHARS = 1_000_000

_HASH = re.compile("[0-9a-f]{16}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAMAGE = ("'", "=", "#NAME?", "#VALUE!", "#REF!")  # what spreadsheets put in front of a cell, or in its place


@dataclass(frozen=True, slots=True)
class Decision:
    """What a curator decided about one raw row, why, who and when.

    content_hash  RawRecord.content_hash of the row: `hash_after` of its `read` event in the ledger
    question, reasoning, answer  of an edit: the new text; empty leaves the row's own
    """

    content_hash: str
    decision: Verb
    reason: str
    reviewer: str
    date: str
    question: str = ""
    reasoning: str = ""
    answer: str = ""

    @property
    def effect(self) -> tuple[str, ...]:
        """What two lines for one row must agree in."""
        return (self.decision, *(getattr(self, name) for name in TEXT_FIELDS))

    @property
    def edits(self) -> dict[str, str]:
        """The texts that an edit puts in place of the row's own."""
        return {name: text for name in TEXT_FIELDS if (text := getattr(self, name))}

    @property
    def detail(self) -> str:
        """The line of the ledger: what, why, who, when; personal data in it is masked."""
        what = f"edit of {', '.join(self.edits)}" if self.edits else self.decision
        return printable(f"{what}: {masked(self.reason)} ({masked(self.reviewer)}, {self.date})")


def read_decisions(path: Path) -> dict[str, Decision]:
    """Read the decisions by content hash; two lines that decide the same count once, the later one speaks.

    Raises DataError with the file and line for a file or a row that is not exactly as it should be.
    """
    decisions: dict[str, tuple[int, Decision]] = {}
    for number, cells in _rows(path):
        decision = _parse(f"{path}:{number}", cells)
        line, earlier = decisions.get(decision.content_hash, (number, decision))
        if earlier.effect != decision.effect:
            remedy = "keep one of the two lines"
            raise DataError(f"{path}:{number}", f"line {line} decides otherwise about the same row", remedy, got=decision.content_hash)
        decisions[decision.content_hash] = number, decision
    return {key: decision for key, (_, decision) in decisions.items()}


def write_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """List decisions without their texts, personal data in them masked, in the given order."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS[:5])
        for each in decisions:
            writer.writerow((each.content_hash, each.decision, masked(each.reason), masked(each.reviewer), each.date))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line on which each row begins, and its cells by column; rows of empty cells are left out."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    header: list[str] = []
    line = 1
    previous = csv.field_size_limit(MAX_CELL_CHARS)
    try:
        for cells in reader:
            if not header:
                header = _check_header(path, cells)
            elif any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    remedy = "put texts with commas or line breaks in double quotes"
                    raise DataError(f"{path}:{line}", f"expected {len(header)} cells", remedy, got=len(cells))
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}", "not valid CSV", "mend the row; a quote inside a text is written twice", got=str(error)) from None
    finally:
        csv.field_size_limit(previous)
    if not header:
        raise DataError(f"{path}:1", "the header is missing", f"begin with the line {','.join(COLUMNS)}")


def _text(path: Path) -> str:
    if not path.exists():
        raise DataError(str(path), "the file is missing", f"`git checkout {path}` brings it back; without decisions it is its header alone")
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # Excel's "CSV UTF-8" begins with a mark
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}", "not UTF-8", "save it as `CSV UTF-8`", got=f"byte 0x{data[error.start]:02x}") from None


def _check_header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in names]
    if unknown or missing or len(names) != len(COLUMNS):
        what = "unknown column" if unknown else "missing column" if missing else "a column stands twice"
        got = ", ".join(unknown or missing or sorted(name for name in names if names.count(name) > 1))
        raise DataError(f"{path}:1", what, f"the columns are {', '.join(COLUMNS)}", got=masked(got))
    return names


def _parse(place: str, cells: dict[str, str]) -> Decision:
    for name, cell in cells.items():
        if cell.startswith(_DAMAGE):
            remedy = "write the plain text and format the column as text; a text that must begin so gets a space in front"
            raise DataError(place, f"{name} was changed by a spreadsheet", remedy, got=_safe(cell))
    values = {name: cell if name in TEXT_FIELDS else cell.strip() for name, cell in cells.items()}
    _check_key(place, values)
    edits = [name for name in TEXT_FIELDS if values[name].strip()]
    if (values["decision"] == "edit") != bool(edits):
        if edits:
            raise DataError(place, f"{values['decision']} takes no text", "write edit, or empty the text columns", got=", ".join(edits))
        raise DataError(place, "an edit without a text", "fill in question, reasoning or answer; an empty one stays as it is")
    texts = {name: values[name] if name in edits else "" for name in TEXT_FIELDS}
    return Decision(values["content_hash"], cast(Verb, values["decision"]), values["reason"], values["reviewer"], values["date"], **texts)


def _check_key(place: str, values: dict[str, str]) -> None:
    """Check all that is not a text of the record."""
    if not _HASH.fullmatch(values["content_hash"]):
        remedy = "copy the hash of the row's `read` event (`medcot why ID` shows it) into a column formatted as text"
        raise DataError(place, "content_hash must be 16 hex digits in lower case", remedy, got=_safe(values["content_hash"]))
    if values["decision"] not in get_args(Verb):
        raise DataError(place, "unknown decision", f"write {', '.join(get_args(Verb))}", got=_safe(values["decision"]))
    for name in ("reason", "reviewer"):
        if not values[name]:
            raise DataError(place, f"{name} is empty", "say why and by whom: both stand in the ledger")
    try:
        if not _DATE.fullmatch(values["date"]):
            raise ValueError
        datetime.date.fromisoformat(values["date"])
    except ValueError:
        what, remedy = "date is not a day in the form YYYY-MM-DD", "write it such as 2026-01-31"
        raise DataError(place, what, remedy, got=_safe(values["date"])) from None


def _safe(cell: str) -> str:
    """The head of a cell that stands in the wrong place, fit for an error message."""
    return masked(cell)[:40]
