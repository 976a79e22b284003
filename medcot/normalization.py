"""Normalise records and refuse what is not complete and clean: every record's fate, as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medcot.checks import CODES, UNREADABLE_CODES, Refusal, check_raw, check_record, find_lost_superscript
from medcot.ledger import Event, check_stage
from medcot.records import TEXT_FIELDS, RawRecord, Record
from medcot.text import RULES, apply_rule


@dataclass(slots=True)
class Normalized:
    """The stage's result: records that go on, the quarantine rows of those that do not, and what happened to each."""

    kept: list[Record] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def normalize(raws: Iterable[RawRecord]) -> Normalized:
    """Normalise every record, or refuse it with a code; every id that comes in is kept or refused."""
    result = Normalized()
    ids = []
    for raw in raws:
        ids.append(raw.id)
        outcome, events = normalize_record(raw)
        if isinstance(outcome, Record):
            result.kept.append(outcome)
        else:
            result.quarantine.append(_quarantine_row(raw, outcome))
        result.events += events
    refused = [event.id for event in result.events if event.action == "refused"]
    check_stage("normalize", ids, [record.id for record in result.kept], refused)
    return result


def normalize_record(raw: RawRecord) -> tuple[Record | Refusal, list[Event]]:
    """Return the normalised record with one event per rule that changed it, or the refusal with its one event."""
    refusal = check_raw(raw)
    if refusal is None:
        record, events = _apply_rules(Record(raw.id, raw.source, raw.question, raw.reasoning, raw.answer))
        refusal = check_record(raw, record)
    if refusal is not None:
        return refusal, [Event(raw.id, "normalize", "refused", refusal.code, refusal.detail, hash_before=raw.content_hash)]
    damage = find_lost_superscript(record)
    if damage:
        events.append(Event(record.id, "normalize", "flagged", "lost_superscript", damage, hash_after=record.content_hash))
    return record, events


def _apply_rules(record: Record) -> tuple[Record, list[Event]]:
    events = []
    for rule in RULES:
        texts = {name: apply_rule(rule, getattr(record, name)) for name in TEXT_FIELDS}
        changed = [name for name in TEXT_FIELDS if texts[name] != getattr(record, name)]
        if changed:
            before, record = record.content_hash, replace(record, **texts)
            detail = ", ".join(changed)
            event = Event(record.id, "normalize", "changed", rule.name, detail, hash_before=before, hash_after=record.content_hash)
            events.append(event)
    return record, events


def _quarantine_row(raw: RawRecord, refusal: Refusal) -> dict[str, Any]:
    fields = {k: v for k, v in asdict(raw).items() if v is not None and k not in ("id", "error", "detail")}
    return {"id": raw.id, "code": refusal.code, "detail": refusal.detail, **fields}


def summarise(result: Normalized) -> dict[str, Any]:
    """Count input, kept, refused per code, changed per rule and flagged; rates are shares of the input."""
    counts = Counter((event.action, event.rule) for event in result.events)
    num_kept, num_input = len(result.kept), len(result.kept) + len(result.quarantine)
    num_unreadable = sum(counts["refused", code] for code in UNREADABLE_CODES)
    num_changed = len({event.id for event in result.events if event.action == "changed"})
    total = max(num_input, 1)
    return {
        "num_input": num_input,
        "num_kept": num_kept,
        **{f"num_refused_{code}": counts["refused", code] for code in CODES},
        "num_changed": num_changed,
        **{f"num_changed_{rule.name}": counts["changed", rule.name] for rule in RULES},
        "num_flagged_lost_superscript": counts["flagged", "lost_superscript"],
        "kept_rate": num_kept / total,
        "refused_rate": len(result.quarantine) / total,
        "unreadable_rate": num_unreadable / total,
        "changed_rate": num_changed / total,
    }


def find_fault(metrics: dict[str, Any], max_bad_ratio: float) -> str | None:
    """Say why the data as a whole is refused: too many unreadable rows, or no record left."""
    codes = [f"{code} {n}" for code in CODES if (n := metrics[f"num_refused_{code}"])]
    refused = f"{metrics['num_input'] - metrics['num_kept']} of {metrics['num_input']} records refused ({', '.join(codes)})"
    if metrics["unreadable_rate"] > max_bad_ratio:
        return f"{refused}, unreadable rows are {metrics['unreadable_rate']:.2%}, above normalize.max_bad_ratio {max_bad_ratio:.2%}"
    return None if metrics["num_kept"] else f"{refused}, no record is left"
