"""The ledger: what happened to every record, and why.

Each data stage writes one part under `data/ledger/parts/`; `convert`, the last of them, joins the parts into
`data/ledger/ledger.parquet` and checks that every record that came in has exactly one terminal event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from medcot.errors import DataError, MedcotError
from medcot.records import remake
from medcot.stage import atomic_file

Action = Literal["read", "changed", "conflict", "flagged", "kept", "removed", "refused"]
TERMINAL = ("kept", "removed", "refused")
STAGES = ("download", "normalize", "dedup", "decontaminate", "convert")

SCHEMA = {
    "id": pl.String,
    "source": pl.String,
    "source_row": pl.Int64,
    "stage": pl.String,
    "seq": pl.Int64,
    "action": pl.String,
    "rule": pl.String,
    "detail": pl.String,
    "related_id": pl.String,
    "similarity": pl.Float64,
    "hash_before": pl.String,
    "hash_after": pl.String,
    "split": pl.String,
    "num_tokens": pl.Int64,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one record.

    action      read, changed, conflict and flagged leave the record in; kept, removed and refused end its story
    rule        the named rule or refusal code
    detail      one line for a person, with no personal data in it
    related_id  the kept witness of a duplicate, or the other side of a conflict
    similarity  exact Jaccard in [0, 1] with related_id
    """

    id: str
    stage: str
    action: Action
    rule: str
    detail: str | None = None
    related_id: str | None = None
    similarity: float | None = None
    hash_before: str | None = None
    hash_after: str | None = None
    split: str | None = None
    num_tokens: int | None = None
    source: str | None = None
    source_row: int | None = None


def events_frame(events: Iterable[Event]) -> pl.DataFrame:
    """Events as a frame sorted by id; `seq` counts a record's events in the order given."""
    frame = pl.DataFrame([asdict(event) for event in events], schema={k: v for k, v in SCHEMA.items() if k != "seq"})
    frame = frame.with_columns(seq=pl.int_range(pl.len()).over("id").cast(pl.Int64)).select(list(SCHEMA))
    return frame.sort("id", "seq")


def write_ledger(path: Path, frame: pl.DataFrame) -> None:
    """Write a ledger part or the joined ledger; equal frames give equal bytes."""
    with atomic_file(path) as out:
        frame.write_parquet(out, compression="zstd", statistics=False)


def read_frame(path: Path, columns: Sequence[str], stage: str) -> pl.DataFrame:
    """Read these columns of a parquet file that an earlier stage wrote; raises DataError when it is missing or damaged."""
    if not path.exists():
        raise DataError(str(path), "the file is missing", "run `dvc repro`, or the stage that writes it, first")
    try:
        return pl.read_parquet(path, glob=False).select(columns)
    except pl.exceptions.PolarsError as error:
        raise DataError(str(path), "the file is damaged", remake(stage), got=str(error)) from None


def join_parts(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Join stage parts into one ledger: source and source_row filled in for every event, seq counted through all stages."""
    frame = pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)
    order = pl.col("stage").replace_strict({name: i for i, name in enumerate(STAGES)}, return_dtype=pl.Int64)
    frame = frame.with_columns(order=order).sort("id", "order", "seq")
    origin = [pl.col(name).drop_nulls().first().over("id") for name in ("source", "source_row")]
    frame = frame.with_columns(*origin, seq=pl.int_range(pl.len()).over("id").cast(pl.Int64))
    return frame.select(list(SCHEMA))


def check_stage(stage: str, ids_in: Sequence[str], ids_out: Sequence[str], ended: Sequence[str]) -> None:
    """Check one stage's bookkeeping: every record that came in went on or ended, and none did both or neither.

    Raises MedcotError (exit 4): a broken sum is a bug of the stage, never of the data.
    """
    balance = Counter(ids_in)
    balance.subtract(ids_out)
    balance.subtract(ended)
    wrong = sorted(key for key, count in balance.items() if count)
    if wrong:
        raise MedcotError(f"ledger: {stage}", f"{len(wrong)} records are lost or counted twice", "report this as a bug", got=wrong[0])


def check_counts(stage: str, num_in: int, num_out: int, num_ended: int) -> None:
    """Check the bookkeeping of a stage that passes its records on one by one and holds none: the counts add up; see check_stage."""
    if num_in != num_out + num_ended:
        cause = f"{num_in} records came in, {num_out} went on and {num_ended} ended"
        raise MedcotError(f"ledger: {stage}", cause, "report this as a bug")


def check_complete(frame: pl.DataFrame) -> None:
    """Check the joined ledger: exactly one terminal event per id, and kept + removed + refused == read."""
    terminal = pl.col("action").is_in(TERMINAL)
    wrong = frame.group_by("id").agg(n=terminal.sum()).filter(pl.col("n") != 1).sort("id")
    if wrong.height:
        raise MedcotError(
            "ledger", f"{wrong.height} records do not have exactly one terminal event", "report this as a bug", got=wrong["id"][0]
        )
    num_read, num_ended = frame.filter(pl.col("action") == "read").height, frame.filter(terminal).height
    if num_read != num_ended:
        raise MedcotError("ledger", f"{num_read} records were read but {num_ended} ended", "report this as a bug")
