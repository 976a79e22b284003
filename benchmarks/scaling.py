"""Train the same rows on one GPU and on two: tokens per second, their ratio, and how far the losses are apart.

    python benchmarks/scaling.py --out scaling.json            7B shape, fused and plain path, then stage train itself on a small model
    python benchmarks/scaling.py --tiny                        the same in a minute on a CPU, with two processes in place of two GPUs

The models have random weights (benchmarks/random_model.py), the rows realistic lengths; an optimiser step is 48 rows, about 34 thousand
tokens. Floats are added in another order on two GPUs; what another size of passes on one GPU changes shows how much that is.
The last part runs `python -m stages.train` with MEDCOT_PROCESSES=1 and 2 on a model directory, and asks it for a GPU that is taken.
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


def speed(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Every path on one GPU and on two; the first also in other passes. What needs one GPU runs on both at once."""
    job = {
        "shape": args.shape,
        "layers": args.layers,
        "steps": args.steps,
        "rows_per_step": 8 if args.tiny else ROWS_PER_STEP,
        "tiny": args.tiny,
    }
    alone = [{**job, "path": path, "processes": 1} for path in args.paths]
    passes = {"MEDCOT_TOKENS_PER_PASS": str(64 if args.tiny else OTHER_PASSES)}
    lanes: list[list[tuple[dict[str, Any], dict[str, str]]]] = [[(alone[0], {}), ({**alone[0], "other_passes": True}, passes)]]
    lanes.append([(one, {}) for one in alone[1:]])

    def run_lane(gpu: int) -> list[dict[str, Any]]:
        return [train(one, work, CUDA_VISIBLE_DEVICES=str(gpu), **env) for one, env in lanes[gpu]]

    with ThreadPoolExecutor(len(lanes)) as pool:  # one GPU each
        lines = [line for lane in pool.map(run_lane, range(len(lanes))) for line in lane]
    return lines + [train({**one, "processes": 2}, work) for one in alone]


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
        alone = next((one for one in lines if one["path"] == line["path"] and one["processes"] == 1 and "failed" not in one), line)
        difference = apart([*alone["losses"], alone["eval_loss"]], [*line["losses"], line["eval_loss"]])
        ratio = "" if line.get("other_passes") else f"{line['tokens_per_s'] / alone['tokens_per_s']:.3f}"
        cells = [name, line["processes"], f"{line['tokens_per_s']:,.0f}", ratio, f"{line['reserved_gib']:.1f}"]
        rows.append("| " + " | ".join(map(str, [*cells, f"{difference:.1e}", f"{line['eval_loss']:.5f}"])) + " |")
    return "\n".join([*rows, *(f"{key}: {value}" for key, value in stages.items())])


def stage(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Stage train on a model directory with one process and with two, and with two where a GPU is taken."""
    tokenizer = write_qwen3_tokenizer(work / "tokenizer", vocab_size=1000)
    write_model(work / "models/import/small", config_of("1.7b", layers=4, tiny=args.tiny), tokenizer)
    write_data(work, tokenizer, 16 if args.tiny else STAGE_ROWS)
    (work / "models/import_adapter").mkdir(parents=True)
    rows = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2 if args.tiny else 12}
    content = {
        "base": {"source": "local", "path": "small"},
        "model": {"template": "qwen3", "cutoff_len": 2048, "quantization": "nf4"},
        "train": {"max_steps": 2 if args.tiny else 10, "learning_rate": LEARNING_RATE, "eval_steps": 2 if args.tiny else 5, **rows},
    }
    (work / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, "-m", "stages.train"]
    found: dict[str, Any] = {"stage base": start([sys.executable, "-m", "stages.base"], work).returncode}
    logs = []
    for processes in ("1", "2"):
        done = start(command, work, MEDCOT_PROCESSES=processes)
        if done.returncode:
            return found | {f"stage, {processes} processes": f"exit {done.returncode}: {done.stderr[-3000:]}"}
        logs.append([float(row[key]) for key, name in COLUMNS for row in read_table(work / "models/adapter" / name)])
        found[f"stage, {processes} processes"] = done.stderr.splitlines()[-1]
    found["stage, losses apart, at most"] = f"{apart(*logs):.1e} over {len(logs[0])} training and val losses"
    if torch.cuda.is_available():
        from medcot.gpu_lock import gpu_uuid, lock_dir, take

        name = gpu_uuid(1)
        held = take(lock_dir() / name, name, wait=False)
        done = start(command, work, MEDCOT_PROCESSES="2", MEDCOT_GPU_LOCK="refuse")
        os.close(held)
        found["stage, the second GPU taken"] = f"exit {done.returncode}: {done.stderr.splitlines()[-1]}"
    return found


COLUMNS = (("loss", "train_log.csv"), ("eval_loss", "eval_log.csv"))


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7b", help="a shape of benchmarks/random_model.py")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of each training; the first two warm up")
    parser.add_argument("--paths", nargs="+", choices=["fused", "plain"], default=["fused", "plain"])
    parser.add_argument("--tiny", action="store_true", help="a model and rows small enough for a CPU")
    parser.add_argument("--out", type=Path, help="write every figure as JSON there")
    args = parser.parse_args()
    if torch.cuda.device_count() < 2 and not args.tiny:
        raise SystemExit("benchmarks/scaling.py needs two GPUs, or --tiny")
    with tempfile.TemporaryDirectory() as directory:
        lines = speed(args, Path(directory))
        stages = stage(args, Path(directory))
    if args.out:
        args.out.write_text(json.dumps({"training": lines, "stage": stages}, indent=1) + "\n", encoding="utf-8")
    print(table(lines, stages))


if __name__ == "__main__":
    main()
