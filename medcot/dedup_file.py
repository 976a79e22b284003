"""One file of any data set, de-duplicated as the pipeline would: what `medcot dedup` does.

With `--against` the file's rows are compared with earlier survivors too, which never change: each new row is new, a copy or near-
duplicate of a row that is kept, or in conflict with one. The earlier signatures are computed again, not stored: that costs about what
reading the rows does, and a stored index can be of another version than its texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcot.dedup_rules import RULES_FILE, Rules, read_rules, write_rules
from medcot.errors import DataError
from medcot.key_index import QUESTION, ROW, KeyParams
from medcot.mapping import MAPPINGS
from medcot.neardup import Pair, Result, deduplicate, rank
from medcot.params import parse_section
from medcot.pii import masked
from medcot.records import RECORDS_FILE, TEXT_FIELDS, assign_ids, canonical, read_jsonl, write_jsonl
from medcot.rows import Row
from medcot.sources import read_rows
from medcot.stage import atomic_file

SEED = 1  # of the MinHash permutations; the verdicts do not depend on it
KEPT_FILE = "kept.jsonl"


@dataclass(frozen=True, slots=True)
class Source:
    """The rows that hold a text to compare by every key, and those that do not.

    hashes   one a row, of its content
    texts    by key, the texts of a row that are compared
    numbers  the row's place in its file, from 1
    """

    hashes: list[str] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    texts: dict[str, list[list[str]]] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)

    def add(self, more: Source) -> None:
        """Append another source's rows."""
        self.hashes.extend(more.hashes)
        self.values.extend(more.values)
        self.numbers.extend(more.numbers)
        self.others.extend(more.others)
        for key, texts in more.texts.items():
            self.texts.setdefault(key, []).extend(texts)


def dedup_file(file: Path, key: str | None, given: dict[str, Any], out: Path | None = None, against: Sequence[Path] = ()) -> dict[str, int]:
    """De-duplicate one file and return the counts by name, in both languages; the rows go to `out` when it is given.

    key      question (the default), row (question, reasoning and answer), or a column's name
    given    the KeyParams that differ from the pipeline's defaults
    against  directories of earlier survivors, data/dedup or an `out`; their keys and params hold, and other ones are refused
    Raises DataError for a file that cannot be read, a key that it has not, and params out of bounds.
    """
    rules = read_rules(against, key, given) if against else Rules({key or "question": key_params(key or "question", given)}, SEED)
    source = Source(texts={name: [] for name in rules.keys})
    for directory in against:
        source.add(_survivors(directory, list(rules.keys)))
    num_old = len(source.hashes)
    source.add(read_source(file, list(rules.keys)))
    ids = assign_ids(source.hashes)
    keys = {name: (["\n".join(texts) for texts in source.texts[name]], params) for name, params in rules.keys.items()}
    ranks = [rank(texts, row_id) for texts, row_id in zip(next(iter(source.texts.values())), ids, strict=True)]
    old = set(ids[:num_old])
    result = deduplicate(ids, keys, ranks, rules.seed, settled=old)
    if out:
        _write(out, source, result, ids, old, rules, {file, *(directory / KEPT_FILE for directory in against)})
    return _counts(source, result, old)


def key_params(key: str, given: dict[str, Any]) -> KeyParams:
    """The pipeline's default params of a key, with those that were given on the command line."""
    return parse_section("dedup", (ROW if key == "row" else QUESTION).model_dump() | given, KeyParams, place="command line")


def read_source(path: Path, keys: Sequence[str]) -> Source:
    """Read a file's rows and what of them each key compares."""
    if not path.is_file():
        raise DataError(str(path), "no such file", "give the path of a file")
    rows = read_rows(path)
    columns = {key: _columns(rows, key, str(path)) for key in keys}
    source = Source(texts={key: [] for key in keys})
    for number, row in enumerate(rows, 1):
        found = {key: [text for name in names if (text := _text((row.values or {}).get(name)))] for key, names in columns.items()}
        if row.values is None or not all(found.values()):
            source.others.append(row)
            continue
        source.hashes.append(row.hash)
        source.values.append(row.values)
        source.numbers.append(number)
        for key, texts in found.items():
            source.texts[key].append(texts)
    return source


def _survivors(directory: Path, keys: Sequence[str]) -> Source:
    """The rows that an earlier run kept: the stage's records, or the kept rows of a file."""
    path = directory / RECORDS_FILE
    if not path.is_file():
        rows = directory / KEPT_FILE
        return Source() if rows.is_file() and not rows.stat().st_size else read_source(rows, keys)
    records = read_jsonl(path)
    parts = {"row": TEXT_FIELDS, "question": TEXT_FIELDS[:1]}
    texts = {key: [[record[name] for name in parts[key]] for record in records] for key in keys}
    return Source([record["id"] for record in records], records, texts, list(range(1, len(records) + 1)))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else canonical(value)


def _columns(rows: Sequence[Row], key: str, place: str) -> list[str]:
    """The columns a key stands for: a column of that name, letter case aside, or those of a known mapping."""
    present = list(dict.fromkeys(name for row in rows for name in row.values or {}))
    lowered = {name.lower(): name for name in reversed(present)}
    if key in present:
        return [key]
    for mapping in MAPPINGS.values():
        parts = [mapping.question, mapping.context, *([mapping.reasoning, mapping.answer] if key == "row" else [])]
        found = [lowered[part.lower()] for part in parts if part and part.lower() in lowered]
        if key in ("question", "row") and mapping.question.lower() in lowered and (mapping.answer.lower() in lowered or key == "question"):
            return found
    if key.lower() in lowered:
        return [lowered[key.lower()]]
    shown = masked(", ".join(present)) or "none, no row is readable"
    if present and key in ("question", "row"):  # it may not have been asked for by name
        remedy = "name them question, think and answer, or compare one of them alone by --key"
        raise DataError(place, f"no mapping has these columns, so that there is no {key} to compare", remedy, got=shown)
    raise DataError(f"{place}: --key", "no such column", f"use one of {shown}", got=key)


def _write(out: Path, source: Source, result: Result, ids: Sequence[str], old: set[str], rules: Rules, read: set[Path]) -> None:
    """Write kept.jsonl in file order, what went or conflicts beside what it was compared with, and the rules of this comparison."""
    row_of = dict(zip(ids, source.values, strict=True))
    kept = set(result.kept) - old
    files = {
        "kept": [values for row_id, values in row_of.items() if row_id in kept],
        "removed": [
            {"rule": r.rule, "similarity": r.similarity, "row": row_of[r.id], "kept": row_of[r.related_id]} for r in result.removals
        ],
        "conflicts": list(_conflict_rows(_new_conflicts(result, old), row_of)),
        "not_compared": [row.values or {"error": row.error, "detail": row.detail, "raw": row.raw} for row in source.others],
    }
    written = {(out / name).resolve() for name in (*(f"{name}.jsonl" for name in files), RULES_FILE)}
    if written & {path.resolve() for path in read}:
        raise DataError("--out", "the input itself would be overwritten", "choose another directory", got=str(out))
    for name, rows in files.items():
        with atomic_file(out / f"{name}.jsonl") as path:
            write_jsonl(path, rows)
    with atomic_file(out / RULES_FILE) as path:
        write_rules(path, rules)


def _new_conflicts(result: Result, old: set[str]) -> list[Pair]:
    return [pair for pair in result.conflicts if not {pair.a, pair.b} <= old]


def _conflict_rows(conflicts: Sequence[Pair], row_of: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pair in conflicts:
        yield {"differs": pair.detail, "places": pair.places, "similarity": pair.jaccard, "a": row_of[pair.a], "b": row_of[pair.b]}


def _counts(source: Source, result: Result, old: set[str]) -> dict[str, int]:
    rules = Counter(removal.rule for removal in result.removals)
    counts = {"earlier rows, unchanged / 已有行，不变": len(old)} if old else {}
    return counts | {
        "input / 输入": len(source.hashes) - len(old) + len(source.others),
        "exact copies / 完全重复": rules["exact_copy"],
        **({"exact copies of the question / 问题完全重复": rules["exact_question"]} if len(source.texts) > 1 else {}),
        "near-duplicates / 近似重复": rules["near_duplicate"],
        "conflicts, both kept / 冲突（都保留）": len(_new_conflicts(result, old)),
        "not compared / 未比较（无文本或不可读）": len(source.others),
        "kept / 保留": len(result.kept) - len(old),
    }
