"""The `medcot` command: one verb a function, for work outside the pipeline.

A verb is a function `add_<verb>` that describes its arguments and a function that runs it; add the first to VERBS.
Exit codes: 0 ok, 2 invalid arguments or data, 3 the machine does not allow it, 4 internal.
"""

from __future__ import annotations

import argparse
import shlex
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medcot.errors import DataError
from medcot.mapping import MAPPINGS
from medcot.neardup import QUESTION, ROW, KeyParams, Pair, Result, deduplicate, rank
from medcot.params import PARAMS_FILE, parse_section
from medcot.records import assign_ids, canonical, write_jsonl
from medcot.rows import Row
from medcot.sources import READERS, read_rows
from medcot.stage import Terminated, atomic_file, report, setup_logging, stage_lock, terminate
from medcot.sweep import check_params, check_queue, commands, read_sweep, run_sweep

SEED = 1  # of the MinHash permutations; the verdicts do not depend on it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    description = (
        "What stands beside the pipeline: one file of data, sweeps, the finished model. / "
        "流水线之外的工具：处理单个数据文件、批量实验、导出模型。"
    )
    parser = argparse.ArgumentParser(prog="medcot", description=description)
    verbs = parser.add_subparsers(title="verbs / 命令", required=True, metavar="VERB")
    for add in VERBS:
        add(verbs)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (Exception, KeyboardInterrupt, Terminated) as error:
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


def add_export(verbs: Any) -> None:
    """Describe `medcot export`."""
    parser = verbs.add_parser(
        "export",
        help="write the fine-tune as one model directory / 将微调结果导出为完整的模型目录",
        description="Merge models/adapter into the 16-bit base and write a directory that transformers, vLLM and llama.cpp load, with the "
        "prompt of training as its chat template. Run it in the repository root. / "
        "将 models/adapter 合并进 16 位基座，写出 transformers、vLLM、llama.cpp 可加载的目录，对话模板即训练时的提示。在仓库根目录运行。",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory that does not exist yet / 尚不存在的目录")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of the written weights / 写出权重的数据类型"
    )
    parser.add_argument(
        "--max-kl",
        type=float,
        metavar="NATS",
        help="refuse a merge whose KL(adapter‖merged) per token is above this / 每词元 KL 超过此值则拒绝导出",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export / 覆盖先前的导出")
    parser.set_defaults(run=export)


def export(args: argparse.Namespace) -> None:
    """Export the fine-tune and print how far the merge moved it."""
    from medcot import export as exporting  # lazily: it loads torch, which no other verb needs

    setup_logging()
    signal.signal(signal.SIGTERM, terminate)  # so that a half-written directory of many gigabytes goes
    limit = exporting.MAX_KL if args.max_kl is None else args.max_kl
    result = exporting.export(args.out, args.dtype, limit, force=args.force)
    print(f"KL(adapter‖merged)   {result.adapter_merged:.3g} nats a token, limit {limit:g} / 合并误差")
    if result.trained_merged is not None:
        print(f"KL(4-bit‖merged)     {result.trained_merged:.3g} nats a token / 离开 4 位的变化")
    print(f"written / 已写出      {args.out}")


def add_sweep(verbs: Any) -> None:
    """Describe `medcot sweep`."""
    parser = verbs.add_parser(
        "sweep",
        help="run a list of experiments, one after the other / 逐个运行一组实验",
        description="Run every experiment that the file names and show the table of all; what is there already is not run again. "
        "/ 运行文件中列出的每个实验，最后显示总表；已有的实验不会重复运行。",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="such as recipes/sweeps/demo.yaml / 例如 recipes/sweeps/demo.yaml")
    parser.add_argument("--queue", action="store_true", help="in DVC's queue, one at a time / 放入 DVC 队列，一次一个")
    parser.add_argument("--csv", action="store_true", help="the table as CSV, not Markdown / 总表用 CSV 而不是 Markdown")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands / 只打印命令")
    parser.set_defaults(run=sweep)


def sweep(args: argparse.Namespace) -> None:
    """Run a sweep, or with `--dry-run` print its commands."""
    setup_logging()
    plan, form = read_sweep(args.file), "csv" if args.csv else "md"
    # What a dry run shows is what would run after the recipe has been copied.
    check_params(plan, str(args.file), Path(plan.params) if args.dry_run and plan.params else PARAMS_FILE)
    if args.dry_run:
        for command in commands(plan, list(plan.runs), args.queue, form):
            print(shlex.join(command))
        return
    if args.queue:
        check_queue(plan)
    with stage_lock("sweep"):  # two at once would overwrite each other's params.yaml
        run_sweep(plan, str(args.file), args.queue, form)


VERBS = (add_dedup, add_sweep, add_export)

if __name__ == "__main__":
    raise SystemExit(main())
