"""The verb `medcot sweep`: a list of experiments."""

from __future__ import annotations

import argparse
import shlex
import signal
from pathlib import Path
from typing import Any

from medcot.stage import setup_logging, stage_lock, terminate


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
    from medcot.params import PARAMS_FILE
    from medcot.sweep import check_params, check_queue, commands, read_sweep, run_sweep

    setup_logging()
    signal.signal(signal.SIGTERM, terminate)  # so that the run that is under way ends too
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
