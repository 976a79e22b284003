"""unsloth for benchmarks/train.py, in a process and with libraries of its own: it wants older ones, and changes those it finds.

    python -m benchmarks.train_unsloth JOB       JOB as benchmarks/train.py makes it

unsloth loads from a disk, so `options.checkpoint` is a model directory, which benchmarks/train.py writes before. Its fastest attention
for packed rows is flash-attn; where that is not installed and torch is older than what its substitute needs, a stand-in of the same
interface over torch's own variable-length kernel is put in its place (`stand_in`), so that it is measured at its best.
"""

from __future__ import annotations

import os
import sys

from benchmarks.train_setup import ALPHA, LEARNING_RATE, RANK, TARGETS, Job, read_job

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

# isort: split
import unsloth  # type: ignore[import-not-found]  # before transformers, which it changes

# isort: split
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

from benchmarks.random_model import num_weights
from benchmarks.train_clock import Clock, Counted, figures, load_tokenizer, measure, on_gpu, random_rows


def load(job: Job) -> tuple[Any, Any]:
    """The checkpoint under LoRA, checkpointed in unsloth's own way unless options.checkpointing is false."""
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        job.options["checkpoint"],
        max_seq_length=job.longest,
        dtype=torch.bfloat16 if on_gpu() else torch.float32,
        load_in_4bit=True,
        local_files_only=True,
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=list(TARGETS),
        use_gradient_checkpointing="unsloth" if job.options.get("checkpointing", True) else False,
        max_seq_length=job.longest,
        random_state=0,
    )
    return model, tokenizer


def trainer_config(job: Job, batch: int, steps: int, directory: str) -> SFTConfig:
    return SFTConfig(
        output_dir=directory,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,  # its default is 2
        max_steps=steps,
        max_length=job.longest,
        packing=job.options["packing"],
        bf16=on_gpu(),
        use_cpu=not on_gpu(),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_8bit" if on_gpu() else "adamw_torch",  # as its notebooks have it
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_num_proc=1,
    )


def run_unsloth(job: Job, batch: int) -> dict[str, Any]:
    """Train for as many steps as the job asks."""
    packing = job.options["packing"]
    model, tokenizer = load(job)
    per_step = batch * (job.longest if packing else job.mean)
    steps = job.schedule(per_step)
    rows = random_rows(job, (steps + 3) * per_step // job.mean + batch, model.config.vocab_size, longest_first=not packing)
    with tempfile.TemporaryDirectory() as directory:
        clock = Clock()
        trainer = SFTTrainer(
            model=model,
            args=trainer_config(job, batch, steps, directory),
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            processing_class=tokenizer or load_tokenizer(Path(directory) / "tokenizer"),
            callbacks=[clock],
        )
        counted = trainer.data_collator = Counted(trainer.data_collator)
        if not packing:
            trainer._get_train_sampler = lambda *_, **__: SequentialSampler(trainer.train_dataset)  # the longest row first
        trainer.train()
    flash = getattr(sys.modules.get("unsloth.models._utils"), "HAS_FLASH_ATTENTION", False)
    print("attention: flash-attn's interface" if flash else "attention: unsloth's own choice", flush=True)
    return {"parameters": num_weights(model.config), **figures(job, clock, counted)}


def main() -> None:
    job = read_job(sys.argv[1])
    datasets.disable_progress_bars()
    measure(job, lambda batch: run_unsloth(job, batch))


if __name__ == "__main__":
    main()
