"""Normalise records one by one: a curator's decision, named text rules, refusals, quality rules, personal data, in this order.

Every record goes on, or is refused or removed under a code. A normalised text is its raw text after the named changes, byte for
byte: `steps` derives each of them again, and the ledger's hashes form the same chain. A decision beats every rule, but for what no
one can decide: a row that is unreadable, has no value or no text in a field, or holds a control character or token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from medcot import pii
from medcot.checks import Refusal, check_raw, check_record, find_lost_superscript
from medcot.decisions import RULE, Decision
from medcot.ledger import Action, Event
from medcot.normalize_params import Policy
from medcot.quality import check_quality
from medcot.records import TEXT_FIELDS, RawRecord, Record, record_row
from medcot.text import RULES, apply_rule

Texts = tuple[str, ...]  # question, reasoning, answer
OVERRULED = "kept by the curator"
DECIDABLE = ("answer_equals_question", "answer_equals_reasoning")  # the refusals of a record that could be trained on


class Step(NamedTuple):
    """One named change of one field."""

    rule: str
    field: str
    before: str
    after: str


class Outcome(NamedTuple):
    """What became of a raw record: the record that goes on, or why it does not; and its events, the last of which says so."""

    record: Record | None
    ended: Refusal | None
    events: list[Event]

    @property
    def changed(self) -> bool:
        """Whether a rule or a curator changed a text."""
        return any(event.action == "changed" for event in self.events)


def steps(raw: RawRecord, decision: Decision | None, policy: Policy) -> list[Step]:
    """Derive again every change from the raw texts to the normalised ones, in order; empty for a row without three texts.

    policy  the rules of the run, NormalizeParams.policy
    """
    edited = _edit(raw, decision)
    if check_raw(raw if edited is None else edited) is not None:
        return []
    before: Texts = tuple(text if isinstance(text, str) else "" for text in _texts(raw))
    result = []
    for rule, after in _versions(raw, decision, policy):
        result += [Step(rule, *each) for each in zip(TEXT_FIELDS, before, after, strict=True) if each[1] != each[2]]
        before = after
    return result


def _versions(raw: RawRecord, decision: Decision | None, policy: Policy) -> Iterator[tuple[str, Texts]]:
    """Every named change of complete texts, with the texts after it."""
    texts: Texts = _texts(_edit(raw, decision))
    if decision is not None and decision.edits:
        yield RULE, texts
    for rule, after in _apply_rules(texts):
        texts = after
        yield rule, after
    if _masks(policy, decision):
        yield from _mask_steps(texts)


def normalize_record(raw: RawRecord, policy: Policy, decision: Decision | None = None) -> Outcome:
    """Apply the decision and the rules to one raw record."""
    if decision is not None and decision.decision == "drop":
        return _end(raw, "removed", Refusal(RULE, decision.detail))
    edited = _edit(raw, decision)
    refusal = check_raw(edited)
    if refusal is not None:
        return _end(raw, "refused", refusal, decision)
    record, events = _change(raw, edited, decision)
    refusal = check_record(edited, record)
    if refusal is not None:
        if decision is None or refusal.code not in DECIDABLE:
            return _end(raw, "refused", refusal, decision)
        events.append(_flag(record, refusal.code, f"{refusal.detail}; {OVERRULED}"))
    damage = find_lost_superscript(record)
    if damage:
        events.append(_flag(record, "lost_superscript", damage))
    removal = _judge_quality(record, policy, events)
    if removal is None:
        record, removal = _treat_personal_data(record, policy, decision, events)
    return Outcome(record, None, events) if removal is None else _end(raw, "removed", removal)


def _texts(record: RawRecord | Record) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in TEXT_FIELDS)


def _edit(raw: RawRecord, decision: Decision | None) -> RawRecord:
    """Put a curator's texts in place of the row's own; a row that could not be read has none."""
    return replace(raw, **decision.edits) if decision is not None and raw.error is None else raw


def _masks(policy: Policy, decision: Decision | None) -> bool:
    """A record that a curator keeps is not removed for its personal data, so it is masked."""
    return policy.pii == "mask" or (policy.pii == "drop" and decision is not None)


def _apply_rules(texts: Texts) -> Iterator[tuple[str, Texts]]:
    """The text rules that change something, with the texts after each."""
    for rule in RULES:
        changed = tuple(apply_rule(rule, text) for text in texts)
        if changed != texts:
            texts = changed
            yield rule.name, texts


def _mask_steps(texts: Texts) -> Iterator[tuple[str, Texts]]:
    """The kinds of personal data that are masked, with the texts after each; all together they are pii.mask_record."""
    numbering, found = pii.Numbering(*texts), pii.find_all(texts)
    places = [
        [(hit, numbering.placeholder(hit.kind, text[hit.start : hit.end])) for hit in hits] for text, hits in zip(texts, found, strict=True)
    ]
    done: set[str] = set()
    for rule in pii.RULES:
        if any(hit.rule == rule for hits in found for hit in hits):
            done.add(rule)
            shown = [[place for place in some if place[0].rule in done] for some in places]
            yield rule, tuple(pii.replace_hits(text, some) for text, some in zip(texts, shown, strict=True))


def _change(raw: RawRecord, edited: RawRecord, decision: Decision | None) -> tuple[Record, list[Event]]:
    """The record after decision and text rules, and one event for each that did something."""
    verb = None if decision is None else decision.decision
    record = Record(raw.id, raw.source, edited.question, edited.reasoning, edited.answer, raw.category, verb)
    events = []
    if decision is not None:
        if edited.content_hash == raw.content_hash:
            events.append(_flag(record, RULE, decision.detail))
        else:
            events.append(_changed(record, RULE, decision.detail, raw.content_hash))
    for rule, texts in _apply_rules(_texts(record)):
        record, event = _step(record, rule, texts)
        events.append(event)
    return record, events


def _step(record: Record, rule: str, texts: Texts, detail: str | None = None) -> tuple[Record, Event]:
    after = replace(record, **dict(zip(TEXT_FIELDS, texts, strict=True)))
    names = [name for name in TEXT_FIELDS if getattr(after, name) != getattr(record, name)]
    return after, _changed(after, rule, detail or ", ".join(names), record.content_hash)


def _judge_quality(record: Record, policy: Policy, events: list[Event]) -> Refusal | None:
    """Add a flag for each finding, or return the first that removes the record."""
    findings = check_quality(record, policy.quality)
    drop = next((finding for finding in findings if finding.action == "drop"), None)
    if drop is not None and record.decision is None:
        others = [finding.rule for finding in findings if finding is not drop]
        return Refusal(drop.rule, drop.detail + (f"; also {', '.join(others)}" if others else ""))
    for finding in findings:
        detail = finding.detail if finding.action == "flag" else f"{finding.detail}; {OVERRULED}"
        events.append(_flag(record, finding.rule, detail))
    return None


def _treat_personal_data(record: Record, policy: Policy, decision: Decision | None, events: list[Event]) -> tuple[Record, Refusal | None]:
    """Flag, mask or remove the record as the policy says; where a hit is not certain, a person shall look."""
    found = pii.find_record(record) if policy.pii != "off" else []
    certain = [hit for hit in found if hit.certain]
    if _masks(policy, decision):
        for rule, texts in _mask_steps(_texts(record)) if found else []:
            record, event = _step(record, rule, texts, "; ".join(hit.detail for hit in found if hit.rule == rule) or None)
            events.append(event)
    elif policy.pii == "drop" and certain:
        return record, Refusal(certain[0].rule, "; ".join(hit.detail for hit in certain))
    else:
        events += [_flag(record, hit.rule, hit.detail) for hit in certain]
    events += [_flag(record, hit.rule, hit.detail) for hit in found if not hit.certain]
    return record, None


def _flag(record: Record, rule: str, detail: str) -> Event:
    return Event(record.id, "normalize", "flagged", rule, detail, hash_after=record.content_hash)


def _changed(record: Record, rule: str, detail: str, before: str) -> Event:
    return Event(record.id, "normalize", "changed", rule, detail, hash_before=before, hash_after=record.content_hash)


def _end(raw: RawRecord, action: Action, refusal: Refusal, beaten: Decision | None = None) -> Outcome:
    """The end of a record, preceded by a word on the decision that it beats."""
    end = Event(raw.id, "normalize", action, refusal.code, refusal.detail, hash_before=raw.content_hash)
    if beaten is None:
        return Outcome(None, refusal, [end])
    detail = f"no effect, {refusal.code} cannot be decided; {beaten.detail}"
    return Outcome(None, refusal, [Event(raw.id, "normalize", "flagged", RULE, detail, hash_after=raw.content_hash), end])


def quarantine_row(raw: RawRecord, ended: Refusal) -> dict[str, Any]:
    """The raw fields of a record that goes no further, under the code and the detail of its end."""
    fields = {name: value for name, value in record_row(raw).items() if name not in ("id", "error", "detail")}
    return {"id": raw.id, "code": ended.code, "detail": ended.detail, **fields}
