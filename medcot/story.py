"""The story of one record: what happened to it and why, with the texts before and after, gathered from what the stages wrote.

Only the ledger is needed; where a text is not on this machine the story says so. Everything shown is masked (medcot/pii.py), and a
value that both sides of a comparison hold has one placeholder on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from medcot.decisions import Decision, read_decisions
from medcot.ledger import TERMINAL
from medcot.lookup import alignment, ends, find_line, read_ledger
from medcot.normalization import Step, steps
from medcot.normalize_params import NormalizeParams
from medcot.params import load_section
from medcot.pii import Numbering, mask, placeholders
from medcot.records import TEXT_FIELDS, RawRecord, is_public
from medcot.sentences import Sentence, sentence, show
from medcot.textdiff import Segment, diff

RAW, NORMALIZED = Path("data/raw"), Path("data/normalized")
RECORDS, QUARANTINE = NORMALIZED / "records.jsonl", NORMALIZED / "quarantine.jsonl"
LLAMAFACTORY = Path("data/llamafactory")
DECISIONS = Path("data/curation/decisions.csv")


@dataclass
class Comparison:
    """What differs between two versions of a record's texts, by field; a field that is the same has an empty list."""

    title: Sentence
    fields: dict[str, list[Segment]]


@dataclass
class Entry:
    """One event, what it means, the texts that it compares, and remarks."""

    event: dict[str, Any]
    sentence: Sentence
    comparison: Comparison | None = None
    notes: list[Sentence] = field(default_factory=list)


@dataclass
class Story:
    """A record's events in order, and its texts as they are in the end; text fields that are no text are missing."""

    id: str
    source: str
    source_row: int | None
    content_hash: str | None
    entries: list[Entry]
    texts: dict[str, str]

    @property
    def end(self) -> dict[str, Any]:
        """The event that ended the record's way, or the last one that there is."""
        return next((entry.event for entry in self.entries if entry.event["action"] in TERMINAL), self.entries[-1].event)


def tell(record_id: str) -> Story:
    """Gather the story of one record, whose id is in the ledger."""
    events = read_ledger().filter(pl.col("id") == record_id).sort("seq").collect().to_dicts()
    return _Teller(record_id, [show(event) for event in events]).story()


class _Teller:
    """Gathers one story: the texts of the record and of those it was compared with, and one numbering of placeholders for all."""

    def __init__(self, record_id: str, events: list[dict[str, Any]]) -> None:
        self.id, self.events = record_id, events
        self.raw = _raw_record(record_id)
        related = [event["related_id"] for event in events if event["related_id"]]
        self.normalized = {each: texts for each in (record_id, *related) if (texts := _texts(each))}
        self.steps = self._steps()
        own, every = _fields(self.raw).values(), [text for texts in self.normalized.values() for text in texts.values()]
        # Numbered as normalize did it: the placeholders that it put into the normalised texts must not count as given out.
        self.numbering = Numbering(*own, context=every) if own else Numbering(*every)

    def _steps(self) -> list[Step]:
        if self.raw is None or not any(event["action"] == "changed" for event in self.events):
            return []
        read = next((event["hash_after"] for event in self.events if event["action"] == "read"), None)
        return steps(self.raw, _decision(read), load_section("normalize", NormalizeParams).policy(is_public(RAW)))

    def story(self) -> Story:
        entries = [Entry(event, sentence(event)) for event in self.events]
        told: set[str] = set()
        for entry in entries:
            match entry.event["action"]:
                case "changed":
                    self._add_change(entry)
                case "refused" | "removed" if entry.event["stage"] == "normalize":
                    self._add_quarantine(entry)
                case "kept":
                    self._add_place(entry)
            if entry.event["related_id"] and entry.event["related_id"] not in told:
                told.add(entry.event["related_id"])
                self._add_related(entry)
        first = self.events[0]
        texts = {name: text for name, text in (self.normalized.get(self.id) or {}).items() if text} or _fields(self.raw)
        masked = {name: mask(text, self.numbering) for name, text in texts.items()}
        return Story(self.id, first["source"], first["source_row"], first["hash_after"], entries, masked)

    def _compare(self, title: Sentence, pairs: Iterator[tuple[str, str, str]]) -> Comparison:
        return Comparison(title, {name: diff(mask(before, self.numbering), mask(after, self.numbering)) for name, before, after in pairs})

    def _add_change(self, entry: Entry) -> None:
        mine = [step for step in self.steps if step.rule == entry.event["rule"]]
        if mine:
            title = Sentence("before and after", "前后对照")
            comparison = self._compare(title, ((step.field, step.before, step.after) for step in mine))
            if any(segment.tag != "equal" for segments in comparison.fields.values() for segment in segments):
                entry.comparison = comparison
            else:
                entry.notes.append(_masked(mine))
        elif self.raw is None:
            entry.notes.append(_not_here(RAW))
        else:
            entry.notes.append(
                Sentence("The present rules and params do not make this change any more.", "现在的规则和参数不再产生这一改动。")
            )

    def _add_quarantine(self, entry: Entry) -> None:
        if QUARANTINE.exists():
            entry.notes.append(Sentence(f"Its raw fields are kept in {QUARANTINE}.", f"原始字段保存在 {QUARANTINE}。"))
        else:
            entry.notes.append(_not_here(NORMALIZED))

    def _add_place(self, entry: Entry) -> None:
        path = LLAMAFACTORY / f"{entry.event['split']}.json"
        found = find_line(path, self.id)
        if found:
            line, _ = found
            entry.notes.append(
                Sentence(
                    f"It is row {line - 1} of {path} (the first is 0), on line {line + 1} of the file.",
                    f"即 {path} 的第 {line - 1} 行数据（从 0 起），在文件的第 {line + 1} 行。",
                )
            )
        else:
            entry.notes.append(
                _not_here(LLAMAFACTORY) if not path.exists() else Sentence(f"{path} is of another run.", f"{path} 来自另一次运行。")
            )

    def _add_related(self, entry: Entry) -> None:
        other = entry.event["related_id"]
        chain = list(ends(other))
        if not chain:
            return  # no record: the item of a benchmark
        mine, theirs = self.normalized.get(self.id), self.normalized.get(other)
        if mine and theirs:
            title = Sentence(f"from this record to {other}", f"由本条到 {other}")
            entry.comparison = self._compare(title, ((name, mine[name], theirs[name]) for name in TEXT_FIELDS))
        elif not RECORDS.exists():
            entry.notes.append(_not_here(NORMALIZED))
        agreement = alignment(self.id, other, entry.event["detail"] or "")
        if agreement is not None:
            key = "whole row" if (entry.event["detail"] or "").startswith("row") else "question"
            chinese = {"whole row": "整行", "question": "问题"}[key]
            entry.notes.append(
                Sentence(f"By the {key}, the two align to {agreement:.2f}.", f"按{chinese}对齐，一致程度为 {agreement:.2f}。")
            )
        entry.notes += [_fate(end) for end in chain]


def _masked(steps: list[Step]) -> Sentence:
    """Say of a change that masking hides what stands there now."""
    put = " ".join(dict.fromkeys(place for step in steps for place in placeholders(step.after) if place not in step.before))
    if not put:
        return Sentence("The change lies in personal data, which is not shown here.", "改动位于个人信息之内，此处不显示。")
    return Sentence(f"In its place stands {put}; the value is not shown here either.", f"原处改为 {put}；原值在此也不显示。")


def _fate(end: dict[str, Any]) -> Sentence:
    said = sentence(end)
    return Sentence(f"{end['id']} itself: {said.en}", f"{end['id']} 自身：{said.zh}")


def _raw_record(record_id: str) -> RawRecord | None:
    found = find_line(RAW / "records.jsonl", record_id)
    return RawRecord(**found[1]) if found else None


def _texts(record_id: str) -> dict[str, str] | None:
    """A record's texts as normalised, or those of a record that did not get so far."""
    found = find_line(RECORDS, record_id) or find_line(QUARANTINE, record_id)
    if not found:
        return None
    return {name: found[1][name] if isinstance(found[1].get(name), str) else "" for name in TEXT_FIELDS}


def _fields(raw: RawRecord | None) -> dict[str, str]:
    """What text a raw record has: its fields, or the row that could not be read."""
    if raw is None:
        return {}
    return {name: value for name in (*TEXT_FIELDS, "raw") if isinstance(value := getattr(raw, name), str)}


def _decision(content_hash: str | None) -> Decision | None:
    return read_decisions(DECISIONS).get(content_hash or "") if DECISIONS.exists() else None


def _not_here(place: Path) -> Sentence:
    return Sentence(
        f"{place} is not here, so its text cannot be shown: `dvc pull {place}`.", f"本机没有 {place}，无法显示文本：`dvc pull {place}`。"
    )
