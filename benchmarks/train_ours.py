"""medcot's own training for benchmarks/train.py: the trainer that stage train runs, on a model of random weights.

    python -m benchmarks.train_ours JOB       JOB as benchmarks/train.py makes it

options.path        plain, fused or auto, as MEDCOT_TRAIN_PATH
options.params      params of section `train` beside those of the benchmark
options.row_tokens  rows of this length instead of realistic ones; options.tokens_per_pass as MEDCOT_TOKENS_PER_PASS
options.profile     attribute the device time of one step (benchmarks/train_profile.py) instead of timing
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before transformers

# isort: split
from transformers.trainer import DEFAULT_CALLBACKS

from benchmarks.random_model import build, num_weights
from benchmarks.train_clock import Clock, cap_memory, fresh_peaks, load_tokenizer, peaks, random_rows, versions
from benchmarks.train_profile import Profiler
from benchmarks.train_setup import ALPHA, LEARNING_RATE, RANK, ROWS_PER_STEP, Job, read_job, timed
from medcot.adapters import add_adapter
from medcot.libraries import quiet_libraries
from medcot.model import choose_hardware
from medcot.outcome import Outcome
from medcot.train_params import TrainParams
from medcot.trainer import TrainRow
from medcot.training import run, trainer_config


def make_params(job: Job, steps: int) -> TrainParams:
    """The benchmark's params, under those of a recipe where the job has them."""
    shape = {"lora_rank": RANK, "lora_alpha": ALPHA, "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant"}
    rows = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": ROWS_PER_STEP // 4}
    if job.tiny:
        rows["gradient_accumulation_steps"] = 2
    return TrainParams(**{**shape, **rows, **job.options.get("params", {}), "max_steps": steps})


def make_rows(job: Job, count: int, vocabulary: int) -> list[TrainRow]:
    """Rows with every token supervised."""
    if "row_tokens" in job.options:
        ids = [[10 + i % 200 for i in range(job.options["row_tokens"])]] * count
    else:
        ids = random_rows(job, count, vocabulary)
    return [TrainRow(f"row-{i}", row, row) for i, row in enumerate(ids)]


class Said(logging.Handler):
    """What the trainer says of its path and its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().removeprefix("train: ")
        if " path: " in message or message.startswith("passes of"):
            self.words.append(message)


def train(job: Job, params: TrainParams, model: Any, rows: list[TrainRow]) -> Outcome:
    """Run the trainer of stage train over the rows."""
    with tempfile.TemporaryDirectory() as directory:
        hardware = choose_hardware()
        config = trainer_config(params, hardware, len(rows), 0, Path(directory) / "scratch")
        return run(model, load_tokenizer(Path(directory) / "tokenizer"), rows, [], params, config, hardware)


def set_environment(job: Job) -> None:
    """What a user would set to choose the path, a smaller card, or the size of a pass."""
    os.environ["MEDCOT_TRAIN_PATH"] = job.options["path"]
    if job.cap_gib:
        os.environ["MEDCOT_GPU_MEMORY_GIB"] = str(job.cap_gib)
    if "tokens_per_pass" in job.options:
        os.environ["MEDCOT_TOKENS_PER_PASS"] = str(job.options["tokens_per_pass"])


def main() -> None:
    job = read_job(sys.argv[1])
    set_environment(job)
    quiet_libraries()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    said = Said()
    logging.getLogger("medcot").addHandler(said)
    job.wait_for_turn()
    cap_memory(job.cap_gib)
    base = build(job.shape, tiny=job.tiny)
    rows_per_step = make_params(job, 1).rows_per_step
    steps = job.options.get("steps") or job.schedule(rows_per_step * job.mean)
    params = make_params(job, steps)
    rows = make_rows(job, steps * rows_per_step, base.config.vocab_size)
    model = add_adapter(base, params, "random")
    fresh_peaks()
    clock, profiler = Clock(), Profiler(step=job.warm_up + 1)
    DEFAULT_CALLBACKS.extend([clock, profiler] if job.options.get("profile") else [clock])
    train(job, params, model, rows)
    tokens = [after - before for before, after in zip([0, *clock.logged], clock.logged, strict=False)]
    assert sum(tokens) == sum(len(row.input_ids) for row in rows), "every row is trained on once, and no padding is counted"
    fields = {
        "batch": rows_per_step,
        "said": said.words,
        "filled": 1.0,
        "parameters": num_weights(base.config),
        "versions": versions(),
        **peaks(),
    }
    if job.options.get("profile"):
        job.write(shares=profiler.shares(base.config.vocab_size), **fields)
        return
    counted, seconds = timed(tokens, clock.marks, job.warm_up)
    job.write(tokens=counted, seconds=seconds, **fields)


if __name__ == "__main__":
    main()
