"""The texts of one record as the curator's page holds them: masked, and its changes as short replacements rather than whole texts."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from itertools import groupby
from typing import Any

from medcot.normalization import Step
from medcot.pii import Numbering, mask, masked
from medcot.records import TEXT_FIELDS, RawRecord, Record, canonical

HEAD = 60  # characters of the question that a list shows

Steps = Callable[[RawRecord], Iterable[Step]]


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def field_texts(record: RawRecord) -> list[str]:
    """The three fields as text: another type as its JSON, nothing as an empty text; of an unreadable row its raw text."""
    if record.raw is not None:
        return [clean(record.raw)]
    values = [getattr(record, name) for name in TEXT_FIELDS]
    return ["" if value is None else clean(value if isinstance(value, str) else canonical(value)) for value in values]


def head(record: RawRecord | None, personal: Container[str]) -> str:
    """The first characters of what a list shows: the question, or the raw text of an unreadable row; masked before it is cut.

    personal  ids of the records that hold personal data
    """
    if record is None:
        return ""
    texts = field_texts(record)
    text = mask(texts[0], Numbering(*texts)) if record.id in personal else texts[0]
    return " ".join(text[: 4 * HEAD].split())[:HEAD]


def text_entry(raw: RawRecord, record: Record | None, personal: bool, steps: Steps | None) -> dict[str, Any]:
    """One record's texts: raw, the steps to the normalised ones (or these, as now), and which fields are missing or shown masked.

    personal  whether there is personal data in any of them
    """
    if raw.raw is not None:
        return {"unreadable": masked(clean(raw.raw))}
    values = field_texts(raw)
    after = [getattr(record, name) for name in TEXT_FIELDS] if record else values
    numbering = Numbering(*values) if personal else None  # one for all versions, so that a value has the same placeholder in each

    def mask_of(texts: Iterable[str]) -> list[str]:
        return [text if numbering is None else mask(text, numbering) for text in texts]

    entry: dict[str, Any] = {"raw": mask_of(values)}
    hidden = [i for i, value in enumerate(values) if entry["raw"][i] != value]
    missing = [i for i, name in enumerate(TEXT_FIELDS) if not isinstance(getattr(raw, name), str)]
    entry |= {name: places for name, places in (("masked", hidden), ("missing", missing)) if places}
    now, reached = mask_of(after), list(entry["raw"])
    if steps is not None:
        groups = groupby(steps(raw), key=lambda step: step.rule)
        entry["steps"] = [[rule, _replacements(reached, some, lambda text: mask_of([clean(text)])[0])] for rule, some in groups]
    return entry if reached == now else entry | {"now": now}


def _replacements(texts: list[str], steps: Iterable[Step], mask_of: Callable[[str], str]) -> dict[str, list[Any]]:
    """By number of the field: where the text before changes (characters from, to) and what stands there after; advances the texts."""
    found = {}
    for step in steps:
        place, after = TEXT_FIELDS.index(step.field), mask_of(step.after)
        before, texts[place] = texts[place], after
        start = _shared(before, after)
        end = _shared(before[start:][::-1], after[start:][::-1])
        found[str(place)] = [start, len(before) - end, after[start : len(after) - end]]
    return found


def _shared(one: str, two: str) -> int:
    """How many characters two texts begin with in common, by halving."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def size(entry: Mapping[str, Any]) -> int:
    """The characters of text in an entry."""
    texts = [entry.get("unreadable", ""), *entry.get("raw", ()), *entry.get("now", ())]
    return sum(map(len, texts)) + sum(len(text) for _, fields in entry.get("steps", ()) for _, _, text in fields.values())
