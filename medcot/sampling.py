"""A seeded subset of records that depends neither on their order nor on how many others there are, with an event for every record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from medcot.ledger import Event, check_stage
from medcot.records import RawRecord, seeded_order


class Sampled(NamedTuple):
    """Raw records that go on, and the events of all."""

    kept: list[RawRecord]
    events: list[Event]


def sample(records: Sequence[RawRecord], rule: str, max_samples: int, seed: int) -> Sampled:
    """Keep at most max_samples records (0 = all) by seeded order of their ids; `rule` names the mapping that read them."""
    order = sorted((record.id for record in records), key=lambda record_id: seeded_order(record_id, seed))
    chosen = set(order[: max_samples or None])
    events = []
    for position, record in enumerate(records):
        events.append(_read_event(record, rule, position))
        if record.id not in chosen:
            events.append(Event(record.id, "download", "removed", "max_samples", hash_before=record.content_hash))
    kept = [record for record in records if record.id in chosen]
    check_stage("download", order, [record.id for record in kept], [event.id for event in events if event.action == "removed"])
    return Sampled(kept, events)


def _read_event(record: RawRecord, rule: str, position: int) -> Event:
    read = Event(record.id, "download", "read", record.error or rule, record.detail, hash_after=record.content_hash)
    return replace(read, source=record.source, source_row=position)
