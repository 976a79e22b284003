"""A ledger part written batch by batch, so that a stage which passes its records on one by one holds none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from medcot.ledger import TERMINAL, Event, events_frame

EVENTS_AT_ONCE = 20_000  # one row group; another number gives other bytes


class LedgerWriter:
    """Writes a part batch by batch; `add` takes all events of one record at a time, records by rising id."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file = file
        self._waiting: list[Event] = []
        self.num_ended = 0

    def add(self, events: Iterable[Event]) -> None:
        """Take one record's events, in the order in which they happened."""
        events = list(events)
        self._waiting += events
        self.num_ended += sum(event.action in TERMINAL for event in events)
        if len(self._waiting) >= EVENTS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group."""
        if self._waiting:
            self._file.write_table(events_frame(self._waiting).to_arrow())
            self._waiting = []


@contextmanager
def ledger_writer(path: Path) -> Iterator[LedgerWriter]:
    """Write a part at a path that is not yet final, holding no more than a row group; `read_frame` reads it like any other."""
    schema = events_frame([]).to_arrow().schema
    with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as file:
        writer = LedgerWriter(file)
        yield writer
        writer.flush()
