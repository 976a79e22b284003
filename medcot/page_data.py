"""What the curator's page shows, as values: records, events, texts with personal data masked, samples, clusters, decisions.

Two parts: the core, which the page needs to open (every record with its fate and first characters, every event), and the texts
of the records that something happened to and of the samples, which a page of 25,000 records can still carry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import polars as pl

from medcot.ledger import STAGES, TERMINAL
from medcot.page_texts import HEAD, Steps, clean, field_texts, head, size, text_entry
from medcot.pii import find_all, masked
from medcot.records import TEXT_FIELDS, RawRecord, Record, seeded_order

TEXT_BUDGET = 24_000_000  # characters of text in one page: about 25 MB of file, which a browser opens in a second or two
SPLITS = ("train", "val", "test")
# What a curator has to judge comes first, should the texts not all fit.
URGENCY = {"sample": 0, "conflict": 1, "flagged": 2, "removed": 3, "refused": 4, "changed": 5}

Key = tuple[str, str, str]  # stage, action, rule


@dataclass(frozen=True)
class Inputs:
    """What the stages wrote.

    ledger     the joined ledger
    raw        raw records; rows that were not sampled have none
    records    the normalised records, those too that a later stage removed
    conflicts  rows of conflicts.jsonl
    decisions  rows of decisions.csv, its columns as text
    steps      derives a raw record's changes again, see medcot.normalization.steps
    searched   whether normalize looked for personal data, so that what it found in its records is in the ledger
    """

    ledger: pl.DataFrame
    raw: Sequence[RawRecord]
    records: Sequence[Record]
    conflicts: Sequence[Mapping[str, Any]] = ()
    hits: Sequence[Mapping[str, Any]] = ()
    lengths: Sequence[Mapping[str, Any]] = ()
    similarities: Sequence[Mapping[str, Any]] = ()
    decisions: Sequence[Mapping[str, str]] = ()
    steps: Steps = field(default=lambda raw: ())
    searched: bool = False


@dataclass(frozen=True)
class PageData:
    """The page's two parts, ready for JSON, and what the stage's metrics say of them."""

    core: dict[str, Any]
    texts: dict[str, Any]
    metrics: dict[str, Any]


def build(inputs: Inputs, sample_size: int, seed: int) -> PageData:
    """Gather the page's data; every text in it is masked, and equal inputs give equal values in any order of rows."""
    raw, records = {r.id: r for r in inputs.raw}, {r.id: r for r in inputs.records}
    read = inputs.ledger.filter(pl.col("action") == "read").sort("id")
    ids = read["id"].to_list()
    number = {record_id: i for i, record_id in enumerate(ids)}
    rules, events = _events(inputs.ledger, number)
    personal = set(_personal(inputs, records))
    samples = _samples(rules, events, ids, sample_size, seed)
    texts = _choose_texts(rules, events, samples, personal, inputs, raw, records, ids, seed)
    clusters = {event[3] for event in events if rules[event[1]][1] == "removed" and event[3] is not None}
    known = set(read["hash_after"].to_list())
    decisions = [_decision(row, row["content_hash"] in known) for row in inputs.decisions]
    core: dict[str, Any] = {
        "sources": sorted(set(read["source"].to_list())),
        "head": HEAD,
        "rules": [list(key) for key in rules],
        "stages": _stages(inputs.ledger),
        "records": _columns(inputs.ledger, read, raw, personal),
        "events": [list(column) for column in zip(*events, strict=True)] or [[], [], [], [], []],
        "samples": samples,
        "conflicts": [_conflict(row, number) for row in inputs.conflicts],
        "hits": [dict(row) for row in inputs.hits],
        "lengths": [dict(row) for row in inputs.lengths],
        "similarities": [dict(row) for row in inputs.similarities],
        "decisions": decisions,
    }
    num_ended = sum(stage["ended"] for stage in core["stages"])
    metrics = {
        "num_read": len(ids),
        "num_left_out": num_ended,
        "num_kept": len(ids) - num_ended,
        "num_changed": len({event[0] for event in events if rules[event[1]][1] == "changed"}),
        "num_flagged": len({event[0] for event in events if rules[event[1]][1] == "flagged"}),
        "num_clusters": len(clusters),
        "num_conflicts": len({(row["a"]["id"], row["b"]["id"]) for row in inputs.conflicts}),
        "num_decisions": len(decisions),
        "num_decisions_unknown": sum(not row["known"] for row in decisions),
        "num_texts": len(texts),
        "num_characters": sum(size(entry) for entry in texts.values()),
    }
    return PageData(core, {str(number[i]): entry for i, entry in sorted(texts.items())}, metrics)


def _personal(inputs: Inputs, records: Mapping[str, Record]) -> Iterator[str]:
    """The records whose texts must be masked: as the ledger has it, and by looking where normalize did not look at these very texts."""
    yield from inputs.ledger.filter(pl.col("rule").str.starts_with("pii_"))["id"]
    for raw in inputs.raw:
        record, texts = records.get(raw.id), field_texts(raw)
        after = [getattr(record, name) for name in TEXT_FIELDS] if record else texts
        known = inputs.searched and record is not None
        if (not (known and after == texts) and any(find_all(texts))) or (not known and after != texts and any(find_all(after))):
            yield raw.id


def _events(ledger: pl.DataFrame, number: Mapping[str, int]) -> tuple[list[Key], list[tuple[Any, ...]]]:
    """The rules in the order of the stages, and each event as (record, rule, detail, related record, similarity)."""
    frame = ledger.filter(~pl.col("action").is_in(["read", "kept"])).sort("id", "seq")
    found = set(frame.select("stage", "action", "rule").unique().iter_rows())
    rules = sorted(found, key=lambda key: (STAGES.index(key[0]), key[1], key[2]))
    place = {key: i for i, key in enumerate(rules)}
    columns = ("id", "stage", "action", "rule", "detail", "related_id", "similarity")
    return rules, [
        (number[i], place[stage, action, rule], _detail(detail, related, number), number.get(related), _rounded(similarity))
        for i, stage, action, rule, detail, related, similarity in frame.select(columns).iter_rows()
    ]


def _detail(detail: str | None, related: str | None, number: Mapping[str, int]) -> str | None:
    """The event's line; what it is related to joins it where that is no record, but a benchmark's item."""
    parts = [detail, None if related in number else related]
    return _masked_line(" · ".join(part for part in parts if part)) or None


@cache
def _masked_line(text: str) -> str:
    return masked(clean(text))


def _rounded(similarity: float | None) -> float | None:
    return None if similarity is None else round(similarity, 4)


def _samples(rules: Sequence[Key], events: Iterable[tuple[Any, ...]], ids: Sequence[str], size: int, seed: int) -> list[list[int]]:
    """Seeded samples of record numbers, one a rule, and a last one of the records to which nothing happened."""
    members: defaultdict[int, set[int]] = defaultdict(set)
    touched = set()
    for record, rule, *_ in events:
        members[rule].add(record)
        touched.add(record)
    members[len(rules)] = set(range(len(ids))) - touched
    names = [*("/".join(key) for key in rules), "untouched"]
    return [sorted(members[i], key=lambda record: seeded_order(f"{name}:{ids[record]}", seed))[:size] for i, name in enumerate(names)]


def _stages(ledger: pl.DataFrame) -> list[dict[str, Any]]:
    """The funnel: what each stage that appears in the ledger got, ended and passed on; the numbers add up by construction."""
    ended = dict(ledger.filter(pl.col("action").is_in([a for a in TERMINAL if a != "kept"])).group_by("stage").len().iter_rows())
    read = dict(ledger.filter(pl.col("action") == "read").group_by("stage").len().iter_rows())
    going, rows = 0, []
    for stage in STAGES:
        row = {"name": stage, "in": going, "read": read.get(stage, 0), "ended": ended.get(stage, 0)}
        going = row["out"] = row["in"] + row["read"] - row["ended"]
        rows.append(row)
    return rows


def _columns(ledger: pl.DataFrame, read: pl.DataFrame, raw: Mapping[str, RawRecord], personal: Container[str]) -> dict[str, list[Any]]:
    """Every record in a few columns: id, content hash (empty: the id's), source, row, split (-1: left out), tokens, first characters."""
    last = ledger.filter(pl.col("action").is_in(TERMINAL)).sort("id")
    sources = {name: i for i, name in enumerate(sorted(set(read["source"].to_list())))}
    ids, hashes = read["id"].to_list(), read["hash_after"].to_list()
    return {
        "id": ids,
        "hash": ["" if value == i else value for i, value in zip(ids, hashes, strict=True)],
        "source": [sources[name] for name in read["source"].to_list()],
        "row": read["source_row"].to_list(),
        "split": [SPLITS.index(split) if split in SPLITS else -1 for split in last["split"].to_list()],
        "tokens": last["num_tokens"].to_list(),
        "head": [head(raw.get(i), personal) for i in ids],
    }


def _choose_texts(
    rules: Sequence[Key],
    events: Sequence[tuple[Any, ...]],
    samples: Sequence[Sequence[int]],
    personal: Container[str],
    inputs: Inputs,
    raw: Mapping[str, RawRecord],
    records: Mapping[str, Record],
    ids: Sequence[str],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The texts of all records with an event and of the samples, the most urgent first, until TEXT_BUDGET is spent."""
    urgency = {record: 0 for sample in samples for record in sample}
    for record, rule, _, related, _ in events:
        for one in (record, related):
            if one is not None:
                urgency[one] = min(urgency.get(one, 9), URGENCY[rules[rule][1]])
    decided = {row["content_hash"] for row in inputs.decisions}
    urgency |= {i: 0 for i, record in enumerate(ids) if record.split("-")[0] in decided}
    changed = {record for record, rule, *_ in events if rules[rule][1] == "changed"}
    chosen: dict[str, dict[str, Any]] = {}
    left = TEXT_BUDGET
    for record in sorted(urgency, key=lambda record: (urgency[record], seeded_order(ids[record], seed))):
        one = ids[record]
        if one not in raw or sum(map(len, field_texts(raw[one]))) > left:
            continue  # before it costs more than a look
        entry = text_entry(raw[one], records.get(one), one in personal, inputs.steps if record in changed else None)
        if size(entry) <= left:
            chosen[one] = entry
            left -= size(entry)
    return chosen


def _conflict(row: Mapping[str, Any], number: Mapping[str, int]) -> list[Any]:
    return [number[row["a"]["id"]], number[row["b"]["id"]], row["key"], row["differs"], _rounded(row["jaccard"])]


def _decision(row: Mapping[str, str], known: bool) -> dict[str, Any]:
    """A curator's decision; `masked` where the page shows less than the file holds, so that an export does not overwrite it."""
    safe = {name: masked(clean(value)) for name, value in row.items()}
    return {**safe, "known": known, "masked": safe != dict(row)}
