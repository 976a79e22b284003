"""One file of any data set, de-duplicated as the pipeline would: what `medcot dedup` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medcot.errors import DataError
from medcot.mapping import MAPPINGS
from medcot.neardup import QUESTION, ROW, KeyParams, Pair, Result, deduplicate, rank
from medcot.params import parse_section
from medcot.records import assign_ids, canonical, write_jsonl
from medcot.rows import Row
from medcot.sources import read_rows
from medcot.stage import atomic_file

SEED = 1  # of the MinHash permutations; the verdicts do not depend on it


class _Source(NamedTuple):
    """The rows of a file that hold a text to compare, and how many rows do not."""

    ids: list[str]
    values: list[dict[str, Any]]
    texts: list[list[str]]
    others: list[Row]


def dedup_file(file: Path, key: str, given: dict[str, Any], out: Path | None = None) -> dict[str, int]:
    """Deduplicate one file by one key and return the counts by name, in both languages; the rows go to `out` when it is given.

    key    question, row (question, reasoning and answer), or a column's name
    given  the KeyParams that differ from the pipeline's defaults
    Raises DataError for a file that cannot be read, a key that it has not, and params out of bounds.
    """
    if not file.is_file():
        raise DataError(str(file), "no such file", "give the path of a file")
    source = _read(file, key)
    defaults = ROW if key == "row" else QUESTION
    params = parse_section("dedup", defaults.model_dump() | given, KeyParams, place="command line")
    keys = {key: (["\n".join(texts) for texts in source.texts], params)}
    ranks = [rank(texts, row_id) for texts, row_id in zip(source.texts, source.ids, strict=True)]
    result = deduplicate(source.ids, keys, ranks, SEED)
    if out:
        _write(out, source, result, file)
    return _counts(source, result)


def _read(path: Path, key: str) -> _Source:
    rows = read_rows(path)
    columns = _columns(rows, key, str(path))
    source = _Source([], [], [], [])
    for row_id, row in zip(assign_ids(row.hash for row in rows), rows, strict=True):
        texts = [text for column in columns if (text := _text((row.values or {}).get(column)))]
        if row.values is None or not texts:
            source.others.append(row)
            continue
        source.ids.append(row_id)
        source.values.append(row.values)
        source.texts.append(texts)
    return source


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
    raise DataError(f"{place}: --key", "no such column", f"use one of {', '.join(present) or 'none, no row is readable'}", got=key)


def _write(out: Path, source: _Source, result: Result, read_from: Path) -> None:
    """Write kept.jsonl in file order, and what went or conflicts beside what it was compared with."""
    row_of = dict(zip(source.ids, source.values, strict=True))
    kept = set(result.kept)
    files = {
        "kept": [values for row_id, values in row_of.items() if row_id in kept],
        "removed": [
            {"rule": r.rule, "similarity": r.similarity, "row": row_of[r.id], "kept": row_of[r.related_id]} for r in result.removals
        ],
        "conflicts": list(_conflict_rows(result.conflicts, row_of)),
        "not_compared": [row.values or {"error": row.error, "detail": row.detail, "raw": row.raw} for row in source.others],
    }
    if read_from.resolve() in {(out / f"{name}.jsonl").resolve() for name in files}:
        raise DataError("--out", "the input itself would be overwritten", "choose another directory", got=str(out))
    for name, rows in files.items():
        with atomic_file(out / f"{name}.jsonl") as path:
            write_jsonl(path, rows)


def _conflict_rows(conflicts: Sequence[Pair], row_of: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pair in conflicts:
        yield {"differs": pair.detail, "places": pair.places, "similarity": pair.jaccard, "a": row_of[pair.a], "b": row_of[pair.b]}


def _counts(source: _Source, result: Result) -> dict[str, int]:
    rules = Counter(removal.rule for removal in result.removals)
    return {
        "input / 输入": len(source.ids) + len(source.others),
        "exact copies / 完全重复": rules["exact_copy"],
        "near-duplicates / 近似重复": rules["near_duplicate"],
        "conflicts, both kept / 冲突（都保留）": len(result.conflicts),
        "not compared / 未比较（无文本或不可读）": len(source.others),
        "kept / 保留": len(result.kept),
    }
