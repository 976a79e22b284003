"""The `medcot` command: one verb a function, for work on single files outside the pipeline.

A verb is a function `add_<verb>` that describes its arguments and a function that runs it; add the first to VERBS.
Exit codes: 0 ok, 2 invalid arguments or data, 3 the machine does not allow it, 4 internal.
"""

from __future__ import annotations

import argparse
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
from medcot.sources import READERS, read_rows
from medcot.stage import atomic_file, report

SEED = 1  # of the MinHash permutations; the verdicts do not depend on it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    parser = argparse.ArgumentParser(prog="medcot", description="Tools for medical reasoning data. / 医学推理数据工具。")
    verbs = parser.add_subparsers(title="verbs / 命令", required=True, metavar="VERB")
    for add in VERBS:
        add(verbs)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except Exception as error:
        return report(error, "medcot")
    return 0


def add_dedup(verbs: Any) -> None:
    """Describe `medcot dedup`."""
    parser = verbs.add_parser(
        "dedup",
        help="find copies and near-duplicates in one file / 查找一个文件中的重复与近似重复",
        description="Count exact copies and near-duplicates; rows that look alike but state another fact (dose, age, side, negation) are "
        "conflicts, and both are kept. / 统计完全重复与近似重复；文字相近但事实不同（剂量、年龄、左右、否定）的两条记为冲突，都保留。",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=f"{' '.join(READERS)}; only read, never changed / 只读取，不修改")
    parser.add_argument(
        "--key",
        default="question",
        metavar="KEY",
        help="question, row (question, reasoning and answer), or a column's name / 比较的内容：question、row（整行）或列名",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write kept, removed and conflicts there / 结果写入此目录")
    parser.add_argument(
        "--threshold", type=float, help="exact Jaccard from which texts are near, 0 to 1 / 近似阈值（精确 Jaccard，0 到 1）"
    )
    parser.add_argument("--shingle-size", type=int, help="tokens a shingle / 每个片段的词元数")
    parser.set_defaults(run=dedup)


class _Source(NamedTuple):
    """The rows of a file that hold a text to compare, and how many rows do not."""

    ids: list[str]
    values: list[dict[str, Any]]
    texts: list[list[str]]
    others: list[Row]


def dedup(args: argparse.Namespace) -> None:
    """Deduplicate one file by one key, print the counts, and write the rows when `--out` is given."""
    if not args.file.is_file():
        raise DataError(str(args.file), "no such file", "give the path of a file")
    source = _read(args.file, args.key)
    given = {"threshold": args.threshold, "shingle_size": args.shingle_size}
    defaults = ROW if args.key == "row" else QUESTION
    values = defaults.model_dump() | {name: value for name, value in given.items() if value is not None}
    params = parse_section("dedup", values, KeyParams, place="command line")
    keys = {args.key: (["\n".join(texts) for texts in source.texts], params)}
    ranks = [rank(texts, row_id) for texts, row_id in zip(source.texts, source.ids, strict=True)]
    result = deduplicate(source.ids, keys, ranks, SEED)
    if args.out:
        _write(args.out, source, result, args.file)
    _print_counts(source, result)


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


def _print_counts(source: _Source, result: Result) -> None:
    rules = Counter(removal.rule for removal in result.removals)
    counts = {
        "input / 输入": len(source.ids) + len(source.others),
        "exact copies / 完全重复": rules["exact_copy"],
        "near-duplicates / 近似重复": rules["near_duplicate"],
        "conflicts, both kept / 冲突（都保留）": len(result.conflicts),
        "not compared / 未比较（无文本或不可读）": len(source.others),
        "kept / 保留": len(result.kept),
    }
    for name, count in counts.items():
        print(f"{count:>8}  {name}")


VERBS = (add_dedup,)

if __name__ == "__main__":
    raise SystemExit(main())
