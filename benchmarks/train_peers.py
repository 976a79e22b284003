"""The other trainers of benchmarks/train.py, each in a process of its own: TRL's SFTTrainer in three ways, and a prototype.

    python -m benchmarks.train_peers JOB       JOB as benchmarks/train.py makes it

TRL is measured as it comes (padded batches, its fused output layer, gradient checkpointing), with packing under variable-length
attention (medcot/attention.py, so that no packed row sees another), and with Liger's layers on top, with and without checkpointing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

from benchmarks.random_model import build, num_weights
from benchmarks.train_clock import Clock, Counted, cap_memory, figures, fresh_peaks, load_tokenizer, measure, on_gpu, random_rows, versions
from benchmarks.train_setup import ALPHA, LEARNING_RATE, RANK, TARGETS, Job, read_job
from medcot.attention import NAME as VARLEN
from medcot.libraries import quiet_libraries


def lora() -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=list(TARGETS), task_type="CAUSAL_LM")


def trainer_config(job: Job, batch: int, steps: int, directory: str) -> SFTConfig:
    options = {key: value for key, value in job.options.items() if key != "pack_tokens"}
    if options.get("packing"):
        options["packing_strategy"] = "bfd"
    return SFTConfig(
        output_dir=directory,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        max_steps=steps,
        max_length=pack_tokens(job),
        bf16=on_gpu(),
        use_cpu=not on_gpu(),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused" if on_gpu() else "adamw_torch",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    )


def pack_tokens(job: Job) -> int:
    """Most tokens of a row, or of a pack."""
    return job.longest if job.tiny else job.options.get("pack_tokens", job.longest)


def tokens_per_step(job: Job, batch: int) -> int:
    """Real tokens of a batch, about: a pack is nearly full, a row has the mean length."""
    return batch * (pack_tokens(job) if job.options.get("packing") else job.mean)


def run_trl(job: Job, batch: int) -> dict[str, Any]:
    """Train for as many steps as the job asks, a micro-batch a step: accumulation would cost TRL nothing and gain it nothing."""
    packing = bool(job.options.get("packing"))
    model = build(job.shape, attention=VARLEN if packing else "sdpa", tiny=job.tiny)
    per_step = tokens_per_step(job, batch)
    steps = job.schedule(per_step)
    rows = random_rows(job, (steps + 3) * per_step // job.mean + batch, model.config.vocab_size, longest_first=not packing)
    with tempfile.TemporaryDirectory() as directory:
        clock = Clock()
        trainer = SFTTrainer(
            model=model,
            args=trainer_config(job, batch, steps, directory),
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            processing_class=load_tokenizer(Path(directory) / "tokenizer"),
            peft_config=lora(),
            callbacks=[clock],
        )
        counted = trainer.data_collator = Counted(trainer.data_collator)
        if not packing:
            trainer._get_train_sampler = lambda *_, **__: SequentialSampler(trainer.train_dataset)  # the longest row first
        trainer.train()
    return {"parameters": num_weights(model.config), **figures(job, clock, counted)}


def run_prototype(job: Job) -> None:
    """Time the prototype in options.directory with its own code: full micro-batches of options.budget tokens, one optimiser step."""
    directory = job.options["directory"]
    sys.path.insert(0, directory)
    import torch.nn.attention.varlen  # noqa: F401 - the prototype calls its operators by name

    os.environ |= {"OUT": str(Path(job.result).parent), "RES": f"{job.contender}-{job.setting}.own.jsonl", "TINY": "1" if job.tiny else "0"}
    import bench_fused  # type: ignore[import-not-found]
    import common  # type: ignore[import-not-found]
    import engine  # type: ignore[import-not-found]

    reports: list[dict[str, Any]] = []
    bench_fused.report = lambda *args, **kwargs: reports.append(common.report(*args, **kwargs))
    job.wait_for_turn()
    cap_memory(job.cap_gib)
    engine.TDEQ = 4 if on_gpu() else 0  # its faster dequantisation
    config = {"7b": common.cfg7b, "1.7b": common.cfg17b}[job.shape]()
    model = get_peft_model(common.build(config), LoraConfig(**common.LORA))
    fresh_peaks()
    budget = 128 if job.tiny else job.options["budget"]
    bench_fused.bench(job.contender, model, config, job.cap_gib, budget, max(3, job.tokens // budget))
    if not reports:
        raise SystemExit("the prototype ended without a figure: see its output")
    own = reports[0]
    job.write(
        batch=budget,
        tokens=[own["toks"]],
        seconds=[own["secs"]],
        filled=1.0,
        allocated_gib=own["peak_alloc"],
        reserved_gib=own["peak_resv"],
        parameters=sum(common.nmat(config)),
        versions=versions(),
    )


def write_checkpoint(job: Job) -> None:
    """Write the model of random weights, quantised, with a tokenizer, to options.directory: unsloth loads from a disk."""
    job.wait_for_turn()
    model, directory = build(job.shape, attention="sdpa", tiny=job.tiny), Path(job.options["directory"])
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(directory)
    load_tokenizer(directory / "tokenizer").save_pretrained(directory)


def run_device(job: Job) -> None:
    """Write the GPU's name, its memory, and the rate of a large bfloat16 product of random numbers, the median of ten."""
    job.wait_for_turn()
    size, times = (8192, 10) if on_gpu() else (256, 3)
    device = "cuda" if on_gpu() else "cpu"
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    clock = Clock()
    for _ in range(3):
        left @ right
    clock._mark()
    for _ in range(times):
        left @ right
        clock._mark()
    seconds = sorted(after - before for before, after in zip(clock.marks, clock.marks[1:], strict=False))
    name = torch.cuda.get_device_name(0) if on_gpu() else "CPU"
    total = torch.cuda.get_device_properties(0).total_memory if on_gpu() else 0
    job.write(device=name, total_bytes=total, matmul_flops=2 * size**3 / seconds[len(seconds) // 2], versions=versions())


def main() -> None:
    job = read_job(sys.argv[1])
    quiet_libraries()
    datasets.disable_progress_bars()
    special = {"device": run_device, "checkpoint": write_checkpoint, "prototype": run_prototype}
    if job.contender in special:
        special[job.contender](job)
    else:
        measure(job, lambda batch: run_trl(job, batch))


if __name__ == "__main__":
    main()
