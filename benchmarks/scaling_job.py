"""One training of benchmarks/scaling.py: on a model of random weights, in as many processes as its job says.

    SCALING_JOB='{...}' python -m benchmarks.scaling_job       the job as benchmarks/scaling.py makes it

A process that is asked to share starts the others as stage train does; the main one writes the result.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before transformers

# isort: split
from transformers.trainer import DEFAULT_CALLBACKS

from benchmarks.random_model import build
from benchmarks.train_clock import Clock, fresh_peaks, load_tokenizer, peaks, random_rows, versions
from benchmarks.train_setup import ALPHA, LEARNING_RATE, RANK, Job
from medcot.adapters import add_adapter
from medcot.distributed import world
from medcot.gpu_lock import lock_gpu
from medcot.gpu_memory import cap_memory
from medcot.launcher import launch
from medcot.libraries import quiet_libraries
from medcot.model import choose_hardware
from medcot.stage import setup_logging
from medcot.train_params import TrainParams
from medcot.trainer import TrainRow
from medcot.training import run, trainer_config

WARM_UP = 2
NUM_VAL = 16


def main() -> None:
    """Train and let the main process write tokens and seconds of each step, losses and peaks."""
    job = json.loads(os.environ["SCALING_JOB"])
    quiet_libraries()
    hardware = choose_hardware()
    if hardware.device == "cuda":
        cap_memory()
        lock_gpu()
    params = TrainParams(
        max_steps=job["steps"],
        per_device_train_batch_size=job["rows_per_step"],
        learning_rate=LEARNING_RATE,
        lora_rank=RANK,
        lora_alpha=ALPHA,
        lr_scheduler_type="constant",
    )
    base = build(job["shape"], job["layers"], tiny=job["tiny"])
    count = job["steps"] * job["rows_per_step"]
    sizes = Job("", "", job["shape"], None, "", tiny=job["tiny"])
    rows = [TrainRow(f"row-{i}", ids, ids) for i, ids in enumerate(random_rows(sizes, count + NUM_VAL, base.config.vocab_size))]
    model = add_adapter(base, params, "random")
    clock = Clock()
    DEFAULT_CALLBACKS.append(clock)
    fresh_peaks()
    with tempfile.TemporaryDirectory() as directory:
        config = trainer_config(params, hardware, count, NUM_VAL, Path(directory) / "scratch")
        outcome = run(model, load_tokenizer(Path(directory) / "tokenizer"), rows[:count], rows[count:], params, config, hardware)
    if world().is_main:
        Path(job["result"]).write_text(json.dumps({**job, **result(clock, outcome), **peaks(), "versions": versions()}), encoding="utf-8")


def result(clock: Clock, outcome: Any) -> dict[str, Any]:
    """Speed after the warm-up, and every loss."""
    tokens = [after - before for before, after in zip([0, *clock.logged], clock.logged, strict=False)]
    seconds = [after - before for before, after in zip(clock.marks, clock.marks[1:], strict=False)]
    speed = sum(tokens[WARM_UP:]) / sum(seconds[WARM_UP:])
    losses = [entry["loss"] for entry in outcome.log if "loss" in entry]
    return {"tokens": tokens, "seconds": seconds, "tokens_per_s": speed, "losses": losses, "eval_loss": outcome.eval_loss}


if __name__ == "__main__":
    processes = json.loads(os.environ["SCALING_JOB"])["processes"]
    setup_logging()
    if processes > 1:
        launch("benchmarks.scaling_job", processes)
    else:
        main()
