"""Synthetic rows: made by hooks from rows of train, checked, marked, and structurally unable to reach val or test.

The only place that makes a synthetic row takes rows of train and gives rows for train. On top of that each one must earn its place:
it states the facts of its parent (the guard finds no difference in any of the three texts), its question belongs to train by the
same hash as every other, and it is near no row of val or test, by exact Jaccard. What fails is refused with an event.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from medcot.errors import DataError
from medcot.guard import compare
from medcot.hooks import HOOKS, Hook
from medcot.ledger import Event
from medcot.matching import matching_key, shingles, stem
from medcot.overlap import shared_runs
from medcot.records import TEXT_FIELDS, Record
from medcot.splits import Split

NEAR_QUESTION, QUESTION_SHINGLE = 0.5, 3  # what dedup calls near, by question and by whole row
NEAR_ROW, ROW_SHINGLE = 0.8, 5
REFUSALS = ("synthetic_fact", "synthetic_split", "synthetic_near", "synthetic_copy")
_NUMBER = re.compile(r"\d+")


class Synthetic(NamedTuple):
    """A synthetic record, the training row that it was made from, and its hook."""

    record: Record
    parent: Record
    hook: str


@dataclass(frozen=True)
class Augmented:
    """The synthetic rows that joined train, their hooks by id, and the events of all that were made: two each."""

    rows: list[Record] = field(default_factory=list)
    hooks: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def num_refused(self) -> int:
        """Synthetic rows that did not join."""
        return sum(event.action in ("refused", "removed") for event in self.events)


Audit = Callable[[Sequence[Record]], tuple[Mapping[str, Event], Mapping[str, int]]]


def get_hooks(names: Sequence[str]) -> dict[str, Hook]:
    """The hooks of these names, in this order; DataError for one that does not exist or stands twice."""
    place = "params.yaml: convert.augment"
    for name, count in Counter(names).items():
        if name not in HOOKS:
            raise DataError(place, "no such hook", f"known are {', '.join(sorted(HOOKS))}; add yours to medcot/hooks.py", got=name)
        if count > 1:
            raise DataError(place, "a hook stands twice", "name it once", got=name)
    return {name: HOOKS[name] for name in names}


def augment(
    train: Sequence[Record], held_out: Sequence[Record], hooks: Mapping[str, Hook], assign: Callable[[str], Split], audit: Audit
) -> Augmented:
    """Make every hook's row of every row of train, and keep those that pass.

    held_out  the rows of val and test
    assign    gives a question its split
    audit     the label audit: events of the rows that it stops, and all lengths
    """
    if not hooks:
        return Augmented()
    made = list(_make(train, hooks))
    refused = _refusals(made, held_out, assign)
    stopped, lengths = audit([row.record for row in made if row.record.id not in refused])
    result = Augmented()
    for row in made:
        new = row.record.id
        result.events.append(Event(new, "convert", "read", "synthetic", row.hook, row.parent.id, source=row.record.source))
        if new in refused:
            result.events.append(Event(new, "convert", "refused", refused[new], row.hook, row.parent.id))
        elif new in stopped:
            result.events.append(replace(stopped[new], related_id=row.parent.id))
        else:
            result.events.append(Event(new, "convert", "kept", "kept", None, row.parent.id, split="train", num_tokens=lengths[new]))
            result.rows.append(row.record)
            result.hooks[new] = row.hook
    return result


def _make(train: Sequence[Record], hooks: Mapping[str, Hook]) -> Iterator[Synthetic]:
    for parent in sorted(train, key=lambda record: record.id):
        for name, function in hooks.items():
            texts = function(parent.question, parent.reasoning, parent.answer)
            if texts is None:
                continue
            if len(texts) != len(TEXT_FIELDS) or not all(isinstance(text, str) and text.strip() for text in texts):
                cause = "the hook gave something other than three texts that are not empty"
                raise DataError(f"medcot/hooks.py: {name}", cause, "mend the hook, or take it out of convert.augment", got=parent.id)
            new = Record(f"{parent.id}-aug-{name}", f"augment:{name}", *texts, category=parent.category)
            yield Synthetic(new, parent, name)


def _refusals(made: Sequence[Synthetic], held_out: Sequence[Record], assign: Callable[[str], Split]) -> dict[str, str]:
    """Why rows are refused, by id."""
    refused: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    near = _near_any([row.record for row in made], held_out)
    for row in made:
        content = (row.parent.id, row.record.content_hash)
        if row.record.content_hash == row.parent.content_hash or content in seen:
            refused[row.record.id] = "synthetic_copy"
        elif not all(_same_facts(getattr(row.parent, name), getattr(row.record, name)) for name in TEXT_FIELDS):
            refused[row.record.id] = "synthetic_fact"
        elif assign(row.record.question) != "train":
            refused[row.record.id] = "synthetic_split"
        elif row.record.id in near:
            refused[row.record.id] = "synthetic_near"
        seen.add(content)
    return refused


def _same_facts(one: str, other: str) -> bool:
    """Whether the guard finds no other fact and the numbers are the same ones in the same order."""
    keys = matching_key(one), matching_key(other)
    return not compare(*keys, strict_below=0).kinds and _NUMBER.findall(keys[0]) == _NUMBER.findall(keys[1])


def _near_any(records: Sequence[Record], held_out: Sequence[Record]) -> set[str]:
    """The records with a near row in held_out, by question or by all three texts; exact, since this is a promise."""
    return {
        records[row].id
        for text, size, threshold in ((_question, QUESTION_SHINGLE, NEAR_QUESTION), (_row, ROW_SHINGLE, NEAR_ROW))
        for row in _near_rows(map(text, records), map(text, held_out), size, threshold)
    }


def _near_rows(texts: Iterable[str], others: Iterable[str], size: int, threshold: float) -> Iterator[int]:
    ours, theirs = ([stem(matching_key(text)) for text in side] for side in (texts, others))
    lengths = [[len(shingles(key, size)) for key in side] for side in (ours, theirs)]
    for row, other, shared in shared_runs(ours, theirs, size):
        if shared >= threshold * (lengths[0][row] + lengths[1][other] - shared):
            yield row


def _question(record: Record) -> str:
    return record.question


def _row(record: Record) -> str:
    return "\n".join(getattr(record, name) for name in TEXT_FIELDS)
