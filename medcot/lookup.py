"""Look single records up in the ledger and in the data stages' files, without reading all of them."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rapidfuzz import process

from medcot.errors import DataError
from medcot.ledger import SCHEMA, TERMINAL
from medcot.records import remake

LEDGER, PAIRS = Path("data/ledger/ledger.parquet"), Path("data/dedup/pairs.parquet")
MIN_PREFIX = 4
MAX_CHAIN = 10  # records that stand for each other, followed to the last


def read_ledger(columns: Sequence[str] = tuple(SCHEMA)) -> pl.LazyFrame:
    """The joined ledger, of which only what is asked for is read; DataError when it is missing or damaged."""
    if not LEDGER.exists():
        raise DataError(
            str(LEDGER), "the file is missing", "`dvc repro convert` makes it, `dvc pull data/ledger/ledger.parquet` fetches it"
        )
    return _scan(LEDGER, columns, "convert")


def _scan(path: Path, columns: Sequence[str], stage: str) -> pl.LazyFrame:
    """Scan these columns of a Parquet file; DataError when it is damaged or has others."""
    frame = pl.scan_parquet(path, glob=False).select(columns)
    try:
        frame.collect_schema()
    except pl.exceptions.PolarsError as error:
        raise DataError(str(path), "the file is damaged", remake(stage), got=str(error)) from None
    return frame


def resolve(wanted: str) -> str:
    """Find the record that an id, the beginning of one, a content hash or `source:row` stands for.

    Raises DataError when it is none, or more than one.
    """
    source, _, row = wanted.rpartition(":")
    is_row = (
        (pl.col("source") == source) & (pl.col("source_row") == int(row)) if source and re.fullmatch("[0-9]{1,15}", row) else pl.lit(False)
    )
    is_hash = (pl.col("hash_before") == wanted) | (pl.col("hash_after") == wanted)
    is_prefix = pl.col("id").str.starts_with(wanted) if len(wanted) >= MIN_PREFIX else pl.lit(False)
    frame = read_ledger(("id", "source", "source_row", "hash_before", "hash_after"))
    for condition in (pl.col("id") == wanted, is_row, is_hash, is_prefix):
        found = frame.filter(condition).select("id").unique().sort("id").collect()["id"].to_list()
        if len(found) > 1:
            shown = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
            raise DataError("medcot why", f"{len(found)} records are meant by this", f"give one of {shown}", got=wanted)
        if found:
            return str(found[0])
    raise DataError("medcot why", "no such record", _remedy(wanted, frame.collect()), got=wanted)


def _remedy(wanted: str, frame: pl.DataFrame) -> str:
    """What to write instead of a name that is no record's."""
    source, _, row = wanted.rpartition(":")
    if source and row.isdecimal():
        places = frame.filter(pl.col("source_row").is_not_null()).group_by("source").agg(pl.col("source_row").max()).sort("source").rows()
        shown = ", ".join(f"{name}:0 to {name}:{last}" for name, last in places[:5]) + (" …" if len(places) > 5 else "")
        return f"the ledger has {shown or 'no row'}"
    short = f"an id's beginning has at least {MIN_PREFIX} characters; " if len(wanted) < MIN_PREFIX else ""
    nearest = ", ".join(match for match, *_ in process.extract(wanted, frame["id"].unique().sort().to_list(), limit=3))
    return f"{short}the nearest ids are {nearest or 'none, the ledger is empty'}; `source:row` and a content hash work too"


def examples(rule: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Events of one rule, of records drawn at random by seed; DataError when the ledger does not have it."""
    frame = read_ledger()
    events = frame.filter(pl.col("rule") == rule).unique("id", keep="first", maintain_order=True).sort("id").collect()
    if events.is_empty():
        rules = frame.select("rule").unique().sort("rule").collect()["rule"].to_list()
        raise DataError("medcot why --rule", "no record met this rule", f"the ledger has {', '.join(rules)}", got=rule)
    return events.sample(min(count, events.height), seed=seed, shuffle=True).to_dicts()


def find_line(path: Path, record_id: str) -> tuple[int, dict[str, Any]] | None:
    """Find a record in a file of one JSON object a line, without parsing the others: (line from 0, object)."""
    needle = f'{{"id": {json.dumps(record_id, ensure_ascii=False)},'.encode()
    if not path.exists() or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 0 if content[: len(needle)] == needle else content.find(b"\n" + needle) + 1
        if not at and content[: len(needle)] != needle:
            return None
        end = content.find(b"\n", at)
        line = content[at : end if end >= 0 else len(content)]
        return content[:at].count(b"\n"), json.loads(line.rstrip(b","))


def ends(record_id: str) -> Iterator[dict[str, Any]]:
    """The ends of a record and of those that stand for it, to the one that was kept or went for a reason of its own."""
    seen: set[str] = set()
    while record_id not in seen and len(seen) < MAX_CHAIN:
        seen.add(record_id)
        found = read_ledger().filter((pl.col("id") == record_id) & pl.col("action").is_in(TERMINAL)).collect().to_dicts()
        if not found:
            return
        yield found[0]
        record_id = found[0]["related_id"] or record_id


def alignment(one: str, other: str, detail: str) -> float | None:
    """How well dedup aligned two records, by the key that the event's detail begins with."""
    if not PAIRS.exists():
        return None
    a, b = sorted((one, other))
    pairs = _scan(PAIRS, ("a", "b", "key", "alignment"), "dedup").filter((pl.col("a") == a) & (pl.col("b") == b)).collect()
    values = [row["alignment"] for row in pairs.to_dicts() if detail.startswith(row["key"])]
    return values[0] if values else None
