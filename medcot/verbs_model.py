"""The verbs of the finished model: `medcot export`."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from medcot.stage import setup_logging, terminate


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
    from medcot import export as exporting

    setup_logging()
    signal.signal(signal.SIGTERM, terminate)  # so that a half-written directory of many gigabytes goes
    limit = exporting.MAX_KL if args.max_kl is None else args.max_kl
    result = exporting.export(args.out, args.dtype, limit, force=args.force)
    print(f"KL(adapter‖merged)   {result.adapter_merged:.3g} nats a token, limit {limit:g} / 合并误差")
    if result.trained_merged is not None:
        print(f"KL(4-bit‖merged)     {result.trained_merged:.3g} nats a token / 离开 4 位的变化")
    print(f"written / 已写出      {args.out}")
