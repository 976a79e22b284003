"""The verb `medcot dedup`: copies, near-duplicates and conflicts in one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FORMATS = ".json .jsonl .csv .parquet"  # medcot.sources.READERS, which is slow to import


def add_dedup(verbs: Any) -> None:
    """Describe `medcot dedup`."""
    parser = verbs.add_parser(
        "dedup",
        help="find copies and near-duplicates in one file / 查找一个文件中的重复与近似重复",
        description="Count exact copies and near-duplicates; rows that look alike but state another fact (dose, age, side, negation) are "
        "conflicts, and both are kept. / 统计完全重复与近似重复；文字相近但事实不同（剂量、年龄、左右、否定）的两条记为冲突，都保留。",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=f"{FORMATS}; only read, never changed / 只读取，不修改")
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="question (the default), row (question, reasoning and answer), or a column's name "
        "/ 比较的内容：question（默认）、row（整行）或列名",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write kept, removed and conflicts there / 结果写入此目录")
    parser.add_argument(
        "--threshold", type=float, help="exact Jaccard from which texts are near, 0 to 1 / 近似阈值（精确 Jaccard，0 到 1）"
    )
    parser.add_argument("--shingle-size", type=int, help="tokens a shingle / 每个片段的词元数")
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="compare with earlier survivors too, which never change: data/dedup or an earlier --out; may be repeated "
        "/ 同时与先前保留的行比较，那些行不变：data/dedup 或先前的 --out，可重复",
    )
    parser.set_defaults(run=dedup)


def dedup(args: argparse.Namespace) -> None:
    """Deduplicate one file by one key, print the counts, and write the rows when `--out` is given."""
    from medcot.dedup_file import dedup_file

    given = {name: value for name in ("threshold", "shingle_size") if (value := getattr(args, name)) is not None}
    counts = dedup_file(args.file, args.key, given, args.out, args.against)
    for name, count in counts.items():
        print(f"{count:>8}  {name}")
