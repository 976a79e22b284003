"""Which training rows are used when some sources or classes have too many: caps and balance, by a seeded order of the ids.

Only train is thinned out: val and test stay what they are, so that results before and after can be compared. Adding rows changes
nobody's place in the order. A row that a curator decided to keep stays and takes one of the places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from pydantic import Field

from medcot.ledger import Event
from medcot.params import Params
from medcot.records import Record, seeded_order


class SelectionParams(Params):
    """How train is thinned out; val and test are left alone."""

    max_per_source: int = Field(default=0, ge=0)
    """Most training rows of one source, 0 = all; the seed chooses which."""
    max_class_ratio: float = Field(default=0.0, ge=0)
    """Most rows of a class per row of the smallest one, such as 1.2; 0 = off, below 1 counts as 1. Rows without a class all stay."""


def select(train: Sequence[Record], params: SelectionParams, seed: int) -> list[Event]:
    """The removals by source cap, then by class balance among those left, sorted by id; details name counts, never text."""
    events: list[Event] = []
    if params.max_per_source:
        sources: list[str | None] = [record.source for record in train]
        limits = dict.fromkeys(sources, params.max_per_source)
        events += _thin(train, "source_cap", "source", lambda record: record.source, limits, seed)
    gone = {event.id for event in events}
    left = [record for record in train if record.id not in gone]
    events += _thin(left, "class_balance", "class", lambda record: record.category, class_limits(left, params.max_class_ratio), seed)
    return sorted(events, key=lambda event: event.id)


def class_limits(records: Iterable[Record], ratio: float) -> dict[str | None, int]:
    """The most rows of each class: `ratio` times the smallest class, rounded down; nothing where the ratio is 0."""
    sizes: dict[str | None, int] = {}
    for record in records:
        if record.category is not None:
            sizes[record.category] = sizes.get(record.category, 0) + 1
    if not ratio or not sizes:
        return {}
    limit = math.floor(max(ratio, 1.0) * min(sizes.values()) + 1e-9)  # 1.2 × 5 is 6, whatever binary fractions make of it
    return dict.fromkeys(sizes, limit)


def _thin(
    records: Sequence[Record],
    rule: str,
    kind: str,
    group_of: Callable[[Record], str | None],
    limits: dict[str | None, int],
    seed: int,
) -> list[Event]:
    """Remove what goes beyond each group's limit: decided rows first in line, then by the seeded order."""
    places = dict(limits)
    events = []
    for record in sorted(records, key=lambda record: (not record.decision, seeded_order(record.id, seed))):
        group = group_of(record)
        if group not in places:
            continue
        places[group] -= 1
        if places[group] < 0 and not record.decision:
            events.append(Event(record.id, "convert", "removed", rule, f"{kind} {group}: at most {limits[group]} rows of train"))
    return events
