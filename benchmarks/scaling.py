"""Train the same rows on one GPU and on two: tokens per second, their ratio, and how far the losses are apart.

    python benchmarks/scaling.py --out scaling.json            stage train itself on a small model, then the 7B shape, fused and plain
    python benchmarks/scaling.py --tiny                        the same in a minute on a CPU, with two processes in place of two GPUs

The models have random weights (benchmarks/random_model.py), the rows realistic lengths; an optimiser step is 48 rows, about 34 thousand
tokens. Floats are added in another order on two GPUs; what another size of passes on one GPU changes shows how much that is.
The first part runs `python -m stages.train` with MEDCOT_PROCESSES=1 and 2 on a model directory, and asks it for a GPU that is taken.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from factories import write_qwen3_tokenizer  # noqa: E402
from gpu import write_data, write_model  # noqa: E402

from benchmarks.random_model import config_of  # noqa: E402
from benchmarks.train_setup import LEARNING_RATE, ROWS_PER_STEP  # noqa: E402

CAP_GIB = 22.5
OTHER_PASSES = 3072
STAGE_ROWS = 96


def start(command: Sequence[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command under this repository, as a user would."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": paths, **env}, capture_output=True, text=True, check=False)


def train(job: dict[str, Any], work: Path, **env: str) -> dict[str, Any]:
    """One training of benchmarks/scaling_job.py; its result, or the last words of the one that failed."""
    name = f"{job['path']}-{job['processes']}{'-other-passes' if job.get('other_passes') else ''}"
    job = {**job, "result": str(work / f"{name}.json")}
    begin = time.monotonic()
    environment = {"SCALING_JOB": json.dumps(job), "MEDCOT_TRAIN_PATH": job["path"], "MEDCOT_GPU_MEMORY_GIB": str(CAP_GIB), **env}
    done = start([sys.executable, "-m", "benchmarks.scaling_job"], ROOT, **environment)
    words = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    if done.returncode:
        print(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}", flush=True)
        return {**job, "failed": done.stderr[-3000:]}
    found: dict[str, Any] = json.loads(Path(job["result"]).read_text(encoding="utf-8"))
    print(f"{name}: {found['tokens_per_s']:,.0f} tokens/s, {time.monotonic() - begin:.0f} s in all; {'; '.join(words[:4])}", flush=True)
    return {**found, "said": words}


def speed(args: argparse.Namespace, work: Path, found: dict[str, Any]) -> None:
    """Every path on one GPU and on two, one after the other: what is bound by the host would disturb its neighbour."""
    first, *others = args.paths
    for path, processes in [(first, 1), (first, 2), *((path, n) for path in others for n in (2, 1))]:
        found["training"].append(train({**job_of(args), "path": path, "processes": processes}, work))
        save(args.out, found)


def job_of(args: argparse.Namespace) -> dict[str, Any]:
    rows = 8 if args.tiny else ROWS_PER_STEP
    return {"shape": args.shape, "layers": args.layers, "steps": args.steps, "rows_per_step": rows, "tiny": args.tiny}


def other_passes(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The first path on one GPU in passes of another size, for its losses; it runs beside the stage, so its speed is not looked at."""
    job = {**job_of(args), "path": args.paths[0], "processes": 1, "other_passes": True}
    last = str(max(0, torch.cuda.device_count() - 1))
    return train(job, work, CUDA_VISIBLE_DEVICES=last, MEDCOT_TOKENS_PER_PASS=str(64 if args.tiny else OTHER_PASSES))


def save(out: Path | None, found: dict[str, Any]) -> None:
    """Write what is known so far, so that a run that is cut short has not been for nothing."""
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two lists of losses."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def table(lines: Sequence[dict[str, Any]], stages: dict[str, Any]) -> str:
    rows = [
        "| path | GPUs | tokens/s | ratio | peak GiB of a GPU | losses apart from one GPU's, at most | val loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        name = f"{line['path']}{', other passes' if line.get('other_passes') else ''}"
        if "failed" in line:
            rows.append(f"| {name} | {line['processes']} | failed | | | | |")
            continue
        alone = next(
            (
                one
                for one in lines
                if one["path"] == line["path"] and one["processes"] == 1 and "failed" not in one and not one.get("other_passes")
            ),
            line,
        )
        difference = apart([*alone["losses"], alone["eval_loss"]], [*line["losses"], line["eval_loss"]])
        timed = not line.get("other_passes")
        figures = [f"{line['tokens_per_s']:,.0f}", f"{line['tokens_per_s'] / alone['tokens_per_s']:.3f}"] if timed else ["", ""]
        cells = [name, line["processes"], *figures, f"{line['reserved_gib']:.1f}"]
        rows.append("| " + " | ".join(map(str, [*cells, f"{difference:.1e}", f"{line['eval_loss']:.5f}"])) + " |")
    return "\n".join([*rows, *(f"{key}: {value}" for key, value in stages.items())])


def stage(args: argparse.Namespace, work: Path, found: dict[str, Any]) -> None:
    """Stage train on a model directory with one process and with two, and with two where a GPU is taken."""
    write_workspace(args, work)
    command = [sys.executable, "-m", "stages.train"]
    found["stage base"] = start([sys.executable, "-m", "stages.base"], work).returncode
    logs = []
    for processes in ("1", "2"):
        done = start(command, work, MEDCOT_PROCESSES=processes)
        found[f"stage, {processes} processes"] = f"exit {done.returncode}: {done.stderr[-3000:].splitlines()[-1]}"
        if done.returncode:
            print(done.stderr[-3000:], flush=True)
            return
        logs.append([float(row[key]) for key, name in COLUMNS for row in read_table(work / "models/adapter" / name)])
    found["stage, losses apart, at most"] = f"{apart(*logs):.1e} over {len(logs[0])} training and val losses"
    if torch.cuda.is_available():
        from medcot.gpu_lock import gpu_uuid, lock_dir, take

        name = gpu_uuid(1)
        held = take(lock_dir() / name, name, wait=True)
        done = start(command, work, MEDCOT_PROCESSES="2", MEDCOT_GPU_LOCK="refuse")
        os.close(held)
        found["stage, the second GPU taken"] = f"exit {done.returncode}: {done.stderr.splitlines()[-1]}"
    for key, value in found.items():
        print(f"{key}: {value}", flush=True)


def write_workspace(args: argparse.Namespace, work: Path) -> None:
    """What stage train reads: a small model in hub layout, rows and params."""
    tokenizer = write_qwen3_tokenizer(work / "tokenizer", vocab_size=1000)
    write_model(work / "models/import/small", config_of("1.7b", layers=4, tiny=args.tiny), tokenizer)
    write_data(work, tokenizer, 16 if args.tiny else STAGE_ROWS, full=False)
    (work / "models/import_adapter").mkdir(parents=True)
    rows = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2 if args.tiny else 12}
    content = {
        "base": {"source": "local", "path": "small"},
        "model": {"template": "qwen3", "cutoff_len": 2048, "quantization": "nf4"},
        "train": {"max_steps": 2 if args.tiny else 6, "learning_rate": LEARNING_RATE, "eval_steps": 2 if args.tiny else 3, **rows},
    }
    (work / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


COLUMNS = (("loss", "train_log.csv"), ("eval_loss", "eval_log.csv"))


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7b", help="a shape of benchmarks/random_model.py")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps of each training; the first two warm up")
    parser.add_argument("--paths", nargs="+", choices=["fused", "plain"], default=["fused", "plain"])
    parser.add_argument("--tiny", action="store_true", help="a model and rows small enough for a CPU")
    parser.add_argument("--out", type=Path, help="write every figure as JSON there")
    args = parser.parse_args()
    if torch.cuda.device_count() < 2 and not args.tiny:
        raise SystemExit("benchmarks/scaling.py needs two GPUs, or --tiny")
    found: dict[str, Any] = {"stage": {}, "training": []}
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as pool:
        beside = pool.submit(other_passes, args, Path(directory))
        stage(args, Path(directory), found["stage"])
        found["training"].append(beside.result())
        save(args.out, found)
        speed(args, Path(directory), found)
    print(table(found["training"], found["stage"]))


if __name__ == "__main__":
    main()
