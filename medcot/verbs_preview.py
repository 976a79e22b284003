"""The verb `medcot dedup-preview`: what several thresholds would do, without running a stage."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcot.errors import DataError

if TYPE_CHECKING:
    from medcot.neardup import Pair
    from medcot.preview import Preview

NEAREST = 3  # pairs that are named for each threshold
LABELS = {
    "pairs": "pairs compared by this key / 按此键比较过的数据对",
    "duplicates": "  duplicates / 其中重复",
    "conflicts": "  conflicts: another fact / 其中冲突：事实不同",
    "similar": "  similar: a shared frame / 其中相似：只是框架相同",
    "removed": "rows removed, by all keys / 移除的行（所有键合计）",
    "kept": "rows kept / 保留的行",
    "conflicts_kept": "conflicts, both kept / 冲突（都保留）",
    "largest_cluster": "largest cluster / 最大的重复簇",
}


def add_dedup_preview(verbs: Any) -> None:
    """Describe `medcot dedup-preview`."""
    parser = verbs.add_parser(
        "dedup-preview",
        help="compare several thresholds of dedup, running no stage / 不运行任何阶段，比较去重的多个阈值",
        description="What dedup would find and remove at several thresholds of one key, the present one among them (*), and the pairs "
        "whose fate hangs on it. Reads data/normalized and params.yaml, or a FILE as `medcot dedup` does; changes nothing. / "
        "按一个键的多个阈值（含当前值，标 *），去重会找到并移除什么，以及取决于它的数据对。"
        "读取 data/normalized 与 params.yaml；给出 FILE 时与 `medcot dedup` 相同。不修改任何文件。",
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="instead of data/normalized / 代替 data/normalized")
    parser.add_argument("--key", default="question", metavar="KEY", help="question or row; of a FILE also a column's name / 文件还可用列名")
    parser.add_argument(
        "--thresholds", default="", metavar="T,T,…", help="such as 0.4,0.5,0.6; default: around the present one / 默认：当前值附近"
    )
    parser.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help="show both texts of N pairs for each threshold, personal data masked / 每个阈值显示 N 对文本，个人信息已遮盖",
    )
    parser.add_argument("--csv", action="store_true", help="the counts alone, as CSV / 只输出计数，CSV 格式")
    parser.set_defaults(run=dedup_preview)


def dedup_preview(args: argparse.Namespace) -> None:
    """Print a column of counts for each threshold, and the pairs next to it."""
    thresholds = [_number(text) for text in args.thresholds.split(",") if text.strip()]
    if args.examples is not None and args.examples < 1:
        raise DataError("--examples", "no pair is shown", "give 1 or more", got=args.examples)
    from medcot.preview import preview_data, preview_file

    found = preview_file(args.file, args.key, thresholds) if args.file else preview_data(args.key, thresholds)
    if args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("threshold", "current", *LABELS))
        writer.writerows((c.threshold, c.threshold == found.current, *c.counts) for c in found.columns)
        return
    print("\n".join([*_table(found), "", *_pairs(found, args.examples or 0)]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError("--thresholds", "not a number", "give numbers above 0 and up to 1, parted by commas", got=text.strip()) from None


def _table(found: Preview) -> Iterator[str]:
    heads = [f"{column.threshold:g}{'*' if column.threshold == found.current else ''}" for column in found.columns]
    yield "".join(f"{head:>9}" for head in heads) + "  threshold, * = now / 阈值，* 为当前值"
    for name, label in LABELS.items():
        yield "".join(f"{getattr(column.counts, name):>9}" for column in found.columns) + f"  {label}"


def _pairs(found: Preview, examples: int) -> Iterator[str]:
    yield "pairs that a threshold lets in and the next one does not / 达到某阈值、但未达到下一个阈值的数据对"
    limit = examples or NEAREST
    for column in found.columns:
        for pair in column.nearest[:limit]:
            verdict = f"{pair.verdict} ({pair.detail})" if pair.detail else pair.verdict
            yield f"{column.threshold:>9g}  {pair.jaccard:.4f}  {verdict:<34}  {found.names[pair.a]}  {found.names[pair.b]}"
            if examples:
                yield from _side_by_side(pair, found)
        if (rest := len(column.nearest) - limit) > 0:
            yield f"{'':>11}… {rest} more; --examples {len(column.nearest)} shows all / 另有 {rest} 对"


def _side_by_side(pair: Pair, found: Preview) -> Iterator[str]:
    """Both texts, one below the other, with what differs marked and what is far from it left out."""
    from medcot.pii import masked
    from medcot.textdiff import diff, render_terminal, trim, wants_colour

    one, other = (" ".join(masked(found.texts[row_id]).split()) for row_id in (pair.a, pair.b))
    segments = trim(diff(one, other))
    for name, hidden in ((found.names[pair.a], "insert"), (found.names[pair.b], "delete")):
        shown = render_terminal([segment for segment in segments if segment.tag != hidden], wants_colour(sys.stdout))
        yield f"{'':>11}{name}: {shown}"
