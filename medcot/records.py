"""The record every stage passes on, its identity, and its files (JSON Lines, sorted by id)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from medcot.errors import DataError

TEXT_FIELDS = ("question", "reasoning", "answer")
RECORDS_FILE = "records.jsonl"
SOURCE_FILE = "source.json"
DIRECTORIES = {
    "raw": "download",
    "normalized": "normalize",
    "decontaminated": "decontaminate",
}  # the stage that writes a data directory of another name


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A row as it was read: fields may be missing (None) or of a wrong type.

    error   why it cannot become a record: it was unreadable (then raw holds its text), or its answer has no clean think block
    detail  one line on the error, or on a missing field
    """

    id: str
    source: str
    question: Any = None
    reasoning: Any = None
    answer: Any = None
    error: str | None = None
    detail: str | None = None
    raw: str | None = None
    category: str | None = None

    @property
    def content_hash(self) -> str:
        """16 hex digits over the three fields, as Record has it; of an unreadable row over its raw text."""
        return short_hash(canonical([self.question, self.reasoning, self.answer]) if self.raw is None else self.raw)


@dataclass(frozen=True, slots=True)
class Record:
    """One question with its chain of thought and final answer; all three are non-empty text.

    category  the class that the source gives the row, for class balance
    decision  keep or edit where a curator decided so: no later rule removes the record
    """

    id: str
    source: str
    question: str
    reasoning: str
    answer: str
    category: str | None = None
    decision: str | None = None

    @property
    def content_hash(self) -> str:
        """16 hex digits over the three texts: what the ledger's hash_before and hash_after hold."""
        return short_hash(canonical([self.question, self.reasoning, self.answer]))


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and no escapes beyond the necessary: equal rows give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def short_hash(text: str) -> str:
    """The first 16 hex digits of the sha256 of the text's UTF-8 bytes (a lone surrogate as its three bytes)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def assign_ids(hashes: Iterable[str]) -> list[str]:
    """Make ids unique: the first row of a hash keeps it, its k-th identical copy gets `-k`.

    Identical rows cannot be told apart, so which of them is the first does not matter to any later stage.
    """
    seen: dict[str, int] = {}
    ids = []
    for value in hashes:
        copies = seen.get(value, 0)
        ids.append(f"{value}-{copies}" if copies else value)
        seen[value] = copies + 1
    return ids


def seeded_order(record_id: str, seed: int) -> str:
    """A sort key that shuffles by seed and depends on nothing but the id: adding rows keeps the others' order."""
    return hashlib.sha256(f"{seed}:{record_id}".encode()).hexdigest()


@contextmanager
def jsonl_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes one JSON object a line, UTF-8; it holds none of them."""
    with path.open("w", encoding="utf-8", newline="\n") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, UTF-8, in the given order."""
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file that this project wrote.

    Raises DataError when it is missing.
    """
    if not path.exists():
        raise DataError(str(path), "the file is missing", "run `dvc repro`, or the stage that writes it, first")
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


R = TypeVar("R", RawRecord, Record)


def record_row(record: RawRecord | Record) -> dict[str, Any]:
    """A record as its JSON object; fields that are None are left out."""
    return {name: value for name in type(record).__slots__ if (value := getattr(record, name)) is not None}


def write_records(directory: Path, records: Iterable[RawRecord] | Iterable[Record]) -> None:
    """Write records.jsonl into a directory, sorted by id; fields that are None are left out."""
    rows = sorted((record_row(record) for record in records), key=lambda row: row["id"])
    write_jsonl(directory / RECORDS_FILE, rows)


def read_records(directory: Path) -> list[Record]:
    """Read a directory's complete records, in id order; DataError for a file that is missing or damaged."""
    return list(iter_records(directory))


def read_raw_records(directory: Path) -> list[RawRecord]:
    """Read a directory's raw records, in id order; DataError for a file that is missing or damaged."""
    return list(iter_raw_records(directory))


def iter_records(directory: Path) -> Iterator[Record]:
    """Yield a directory's complete records line by line, as read_records reads them."""
    return _iter(Record, directory, tuple(field.name for field in fields(Record) if field.default is MISSING))


def iter_raw_records(directory: Path) -> Iterator[RawRecord]:
    """Yield a directory's raw records line by line, as read_raw_records reads them; ids must rise, so that none stands twice."""
    last = ""
    for record in _iter(RawRecord, directory, ("id", "source")):
        if record.id <= last:
            path = str(directory / RECORDS_FILE)
            raise DataError(path, "the file is damaged, its ids do not rise", remake(directory.name), got=record.id)
        last = record.id
        yield record


def _iter(cls: type[R], directory: Path, texts: tuple[str, ...]) -> Iterator[R]:
    path = directory / RECORDS_FILE
    if not path.exists():
        raise DataError(str(path), "the file is missing", "run `dvc repro`, or the stage that writes it, first")
    with path.open("rb") as file:  # decoded line by line, so that a broken character is one error of one line
        for line in file:
            try:
                record = cls(**json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:  # TypeError: a field that is missing, or one too many
                raise DataError(str(path), "the file is damaged", remake(directory.name), got=str(error)) from None
            if not all(isinstance(getattr(record, name), str) for name in texts):
                raise DataError(str(path), "the file is damaged", remake(directory.name), got=record.id)
            yield record


def write_source(directory: Path, kind: str, public: bool) -> None:
    """Write where the raw records are from, and whether anyone can get them: what decides about personal data."""
    (directory / SOURCE_FILE).write_text(canonical({"kind": kind, "public": public}) + "\n", encoding="utf-8")


def is_public(directory: Path) -> bool:
    """Whether the raw records are from a public source; False, the safe side, when nothing says so."""
    path = directory / SOURCE_FILE
    if not path.exists():
        return False
    try:
        return json.loads(path.read_text(encoding="utf-8"))["public"] is True
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(str(path), "the file is damaged", remake(directory.name), got=str(error)) from None


def remake(name: str) -> str:
    """Say how to make a stage's damaged output again, given its directory's or its stage's name; unless forced, DVC sees no reason to."""
    return f"run `dvc repro -f {DIRECTORIES.get(name, name)}`"
