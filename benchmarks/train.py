"""Time training on one GPU: medcot's two paths through its own trainer, TRL and unsloth beside them, over real shapes of random weights.

    python benchmarks/train.py                               both settings, whatever is installed; the tables and the targets
    python benchmarks/train.py --whole-card                  your card as it is, instead of the memory of a 24 GB and a 16 GB card
    python benchmarks/train.py --settings 7b --only fused plain trl --repeat 3
    python benchmarks/train.py --profile                     where the time of a step goes, for both paths
    python benchmarks/train.py --memory                      peak memory of every recipe at its own settings
    python benchmarks/train.py --tiny                        every contender on a toy, a CPU suffices: does it run at all?
    python benchmarks/train.py --show FILE ...               the tables again, out of result files

Rows are log-normal (mean 700 tokens, sd 250, at most 2,048), every token is supervised, LoRA r=8 α=16 on the seven linear layers; ours
takes 48 rows a step. tokens/s counts real tokens of the median optimiser step, after at least two of warm-up; "all steps" has their
pauses in it. Peaks are those of the whole training. MFU = 4 · weights · tokens/s ÷ the rate of a large bfloat16 product (790 TFLOP/s on
an H200; another card's is measured).
Each contender is a process of its own and takes the first of its micro-batches that fits; one that fails costs a line and no more.
A peer that wants other versions is given a directory of them (--unsloth-site); --prototype adds an engine with bench_fused.py's interface.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a file: this directory must not be searched, its statistics.py would hide the library's
    sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

from benchmarks.train_children import Runner, scratch
from benchmarks.train_contenders import CONTENDERS, FASTEST, OURS, PEERS, UNSLOTH, make_job, memory_jobs
from benchmarks.train_setup import GIB, MEAN_TOKENS, ROWS_PER_STEP, SETTINGS, Job
from benchmarks.train_table import (
    Line,
    memory_table,
    peak_flops,
    share_table,
    speed_table,
    speeds,
    target_table,
    versions_line,
)

Planned = list[tuple[Job, str]]


def order(names: Sequence[str], repeat: int) -> list[tuple[int, str]]:
    """Everyone once, then the fastest again, backwards every other time, so that a drift of the card favours nobody."""
    again = [name for name in names if name in FASTEST]
    rounds = [list(names), *(again[::-1] if i % 2 else again for i in range(1, repeat))]
    return [(i, name) for i, turn in enumerate(rounds) for name in turn]


def plan(args: argparse.Namespace, work: Path, result: Path) -> Planned:
    """The device, then the jobs of every setting, or those of the recipes' memory."""
    planned: Planned = [(Job("device", "", "", None, str(result), tiny=args.tiny), PEERS)]
    if args.memory:
        wanted = [job for job in memory_jobs(result, tiny=args.tiny) if any(job.contender.startswith(name) for name in args.only or [""])]
        planned += [(job, OURS) for job in wanted]
    else:
        for setting in args.settings:
            planned += contest(setting, args, work, result)
    return [(replace(job, waits=True), module) for job, module in planned]


def missing(name: str, args: argparse.Namespace) -> str:
    """Why a contender cannot take part, or nothing."""
    if name == "prototype":
        return "" if args.prototype else "there is no --prototype"
    needs = CONTENDERS[name].needs
    elsewhere = needs == "unsloth" and args.unsloth_site
    return "" if elsewhere or importlib.util.find_spec(needs) else f"{needs} is not installed"


def contest(setting: str, args: argparse.Namespace, work: Path, result: Path) -> Planned:
    """The jobs of one setting; a checkpoint is written before the first that loads one."""
    names = [name for name, one in CONTENDERS.items() if setting in one.batches and (not args.only or name in args.only)]
    if args.profile:
        names = [name for name in names if CONTENDERS[name].module == OURS]
    absent = {name: why for name in names if (why := missing(name, args))}
    for name, why in absent.items():
        print(f"{setting} {name}: left out, {why}", flush=True)
    names = [name for name in names if name not in absent]
    checkpoint = work / f"checkpoint-{setting}"
    jobs: Planned = []
    for repeat, name in order(names, args.repeat):
        module = CONTENDERS[name].module
        options: dict[str, object] = {"profile": True} if args.profile else {}
        if module == UNSLOTH:
            options["checkpoint"] = str(checkpoint)
        if name == "prototype":
            options["directory"] = str(args.prototype.resolve())
        tokens = args.steps * ROWS_PER_STEP * MEAN_TOKENS
        job = make_job(name, setting, result, tokens=tokens, tiny=args.tiny, whole_card=args.whole_card, options=options)
        jobs.append((replace(job, repeat=repeat), module))
    first = next((i for i, (_, module) in enumerate(jobs) if module == UNSLOTH), None)
    if first is not None:
        writer = Job(
            "checkpoint", setting, SETTINGS[setting].shape, None, str(result), options={"directory": str(checkpoint)}, tiny=args.tiny
        )
        jobs.insert(first, (writer, PEERS))
    return jobs


def report(lines: Sequence[Line]) -> None:
    """Print the tables that the lines hold, and what was measured on."""
    device = next((line for line in lines if "device" in line), None)
    peak, found = peak_flops(device), speeds(line for line in lines if line["setting"] in SETTINGS and line["contender"] in CONTENDERS)
    if device:
        total = f", {device['total_bytes'] / GIB:.1f} GiB" if device["total_bytes"] else ""
        rates = f"{device['matmul_flops'] / 1e12:,.1f} TFLOP/s, MFU is counted against {peak / 1e12:,.1f}"
        print(f"\n{device['device']}{total}; a large bfloat16 product runs at {rates}")
    print(versions_line(lines))
    settings = [setting for setting in SETTINGS if any(key[0] == setting for key in found)]
    for setting in settings:
        print(f"\n{speed_table(found, setting, peak)}")
    if settings:
        print(f"\n{target_table(found, settings, peak)}")
    if any("shares" in line for line in lines):
        print(f"\n{share_table(lines)}")
    recipes = [line for line in lines if "seconds" in line and line["contender"] not in CONTENDERS]
    if recipes:
        print(f"\n{memory_table(recipes)}")
    print("\nOf this card and these versions; a figure for any other card is projected until this runs there.")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help=f"contenders: {', '.join(CONTENDERS)}; or recipes with --memory"
    )
    parser.add_argument("--steps", type=int, default=4, help="timed steps of 48 rows; a peer is timed on about as many tokens")
    parser.add_argument("--repeat", type=int, default=1, help="runs of the fastest contenders; the tables give median and range")
    parser.add_argument("--whole-card", action="store_true", help="do not cap the card's memory")
    parser.add_argument("--tiny", action="store_true", help="toy shapes and rows")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes, for medcot's paths")
    parser.add_argument("--memory", action="store_true", help="peak memory of the recipes")
    parser.add_argument("--prototype", type=Path, help="directory of a prototype: bench_fused.py, engine.py, common.py")
    parser.add_argument("--unsloth-site", type=Path, help="directory of unsloth and the versions of trl and datasets that it wants")
    parser.add_argument("--ahead", action="store_true", help="all import their libraries first, at once: saves minutes, takes memory")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one contender")
    parser.add_argument("--seconds", type=float, help="seconds for all; what has not started by then is left out")
    parser.add_argument("--out", type=Path, help="directory for result.jsonl and the contenders' logs; default: a temporary one")
    parser.add_argument("--show", nargs="+", type=Path, help="run nothing, print the tables of these result files")
    return parser.parse_args(arguments)


def read_lines(paths: Sequence[Path]) -> list[Line]:
    return [json.loads(line) for path in paths if path.is_file() for line in path.read_text(encoding="utf-8").splitlines()]


def has_gpu() -> bool:
    import torch  # takes seconds, and --show does without

    return torch.cuda.is_available()


def main() -> None:
    args = parse()
    if args.show:
        report(read_lines(args.show))
        return
    if not args.tiny and not has_gpu():
        raise SystemExit("benchmarks/train.py needs a GPU; --tiny runs every contender on a toy without one")
    with scratch() as work:
        out = (args.out or Path(tempfile.mkdtemp(prefix="medcot-train-"))).resolve()
        out.mkdir(parents=True, exist_ok=True)
        result = out / "result.jsonl"
        result.unlink(missing_ok=True)
        site = args.unsloth_site.resolve() if args.unsloth_site else None
        Runner(work, out, site, args.limit, args.seconds, args.ahead).run(plan(args, work, result))
    report(read_lines([result]))
    print(f"Lines and logs: {out}")


if __name__ == "__main__":
    main()
