"""QLoRA on our own tokens and labels: peft's adapter with fp32 masters under TRL's SFTTrainer, on CPU and CUDA alike.

The rows arrive tokenised and labelled (medcot/template.py), so the trainer prepares, cuts and packs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from medcot.checkpoints import MarkComplete, newest_checkpoint
from medcot.errors import DataError, MachineError, TrainingError
from medcot.model import Hardware
from medcot.template import MASK
from medcot.train_params import TrainParams

log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class TrainRow:
    """A tokenised row: ids, labels (MASK over the prompt) and the record's id, for messages."""

    id: str
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training run leaves besides the weights.

    log         one dict a logged step, as transformers writes them: step, loss, learning_rate, grad_norm, or step, eval_loss
    steps       optimiser steps done
    eval_loss   mean NLL per supervised token on val of the model that is kept, or None without val rows
    moved_rate  share of trainable elements whose value changed, in [0, 1]
    num_trainable
    """

    log: list[dict[str, float]]
    steps: int
    eval_loss: float | None
    moved_rate: float
    num_trainable: int


def to_dataset(rows: Sequence[TrainRow]) -> Dataset:
    """Rows as the trainer takes them; `row` is the position by which a message finds the record."""
    columns = {"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows], "row": list(range(len(rows)))}
    return Dataset.from_dict(columns)


class Collator:
    """Pad rows on the right to the longest of the batch; labels of padding are MASK."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        lengths = torch.tensor([len(row) for row in ids])
        padded = pad_sequence(ids, batch_first=True, padding_value=self.pad_id)
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=MASK),
            "row": torch.tensor([row["row"] for row in rows]),
        }


class CotTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that keeps fp32 masters and stops at the first loss or gradient that is not finite."""

    def __init__(self, model: Any, *, rows: Sequence[TrainRow], **options: Any) -> None:
        # TRL casts the adapter of a quantised model to bfloat16; at a learning rate of 5e-6 most updates then round to
        # nothing. The fp32 tensors are kept aside and put back before the optimiser is made.
        masters = {name: p.data.clone() for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(model=model, train_dataset=to_dataset(rows), **options)
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                p.data = masters[name].float().to(p.device)
        self.record_ids = [row.id for row in rows]
        self.start = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        positions = inputs.pop("row").tolist()
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if not torch.isfinite(loss):
            self._stop("the loss", loss.item(), positions)
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs.pop("row", None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        norm = logs.get("grad_norm")
        if norm is not None and not torch.isfinite(torch.tensor(norm)):
            self._stop("the gradient norm", norm, [])

    def _stop(self, what: str, value: float, positions: list[int]) -> None:
        ids = ", ".join(self.record_ids[p] for p in positions)
        place = f"train: step {self.state.global_step + 1}" + (f", records {ids}" if ids else "")
        raise TrainingError(place, f"{what} is not finite", "lower train.learning_rate or look at these records", got=value)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no generated card: the stage writes down what it did itself."""

    def moved_rate(self) -> float:
        """Share of the trainable elements that differ from where they started."""
        pairs = [(self.start[n], p.detach().cpu()) for n, p in self.model.named_parameters() if p.requires_grad]
        moved, total = sum(int((a != b).sum()) for a, b in pairs), sum(int(a.numel()) for a, _ in pairs)
        return moved / total


def trainer_config(params: TrainParams, hardware: Hardware, num_rows: int, num_eval: int, scratch: Path, *, bar: bool) -> SFTConfig:
    """Translate the params into TRL's configuration."""
    steps = params.num_steps(num_rows)
    save_steps = params.save_steps or (params.eval_steps if params.load_best_model_at_end else 0)
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        warmup_steps=params.num_warmup_steps(steps),
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.lr_scheduler_type,
        per_device_train_batch_size=params.per_device_train_batch_size,
        per_device_eval_batch_size=params.per_device_eval_batch_size,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        optim=params.optim,
        weight_decay=params.weight_decay,
        adam_beta1=params.adam_beta1,
        adam_beta2=params.adam_beta2,
        adam_epsilon=params.adam_epsilon,
        max_grad_norm=params.max_grad_norm,
        gradient_checkpointing=params.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if params.gradient_checkpointing else None,
        neftune_noise_alpha=params.neftune_noise_alpha or None,
        label_smoothing_factor=params.label_smoothing_factor,
        eval_strategy="steps" if params.eval_steps and num_eval else "no",
        eval_steps=params.eval_steps or None,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 1,
        save_total_limit=2,
        load_best_model_at_end=params.load_best_model_at_end,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        bf16=hardware.dtype == "bfloat16",
        fp16=hardware.dtype == "float16",
        use_cpu=hardware.device == "cpu",
        seed=params.seed,
        data_seed=params.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default shows the last finite loss in place of a NaN
        disable_tqdm=not bar,
        report_to="none",
        max_length=None,  # TRL would cut rows to 1024 tokens
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=hardware.device == "cuda",
    )


def check_rows(rows: Sequence[TrainRow], model: Any) -> None:
    """Refuse a run that could learn nothing: no rows, all labels masked, no trainable parameter."""
    if not rows:
        raise DataError("data/llamafactory/train.json", "no training rows", "look at metrics/convert.json for where they went")
    empty = [row.id for row in rows if all(label == MASK for label in row.labels)]
    if empty:
        raise DataError("train", f"{len(empty)} rows have every label masked", "run stage convert again", got=empty[0])
    if not any(p.requires_grad for p in model.parameters()):
        raise DataError("params.yaml: train", "no parameter would be trained", "see lora_target")


def preflight(trainer: CotTrainer, rows: Sequence[TrainRow], params: TrainParams) -> None:
    """Run the longest batch once, forward and backward, before the first step.

    Raises MachineError on an out-of-memory, naming the largest batch size that fits with the same rows per step.
    """
    longest = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    size = params.per_device_train_batch_size
    if _fits(trainer, longest[:size]):
        return
    tokens = len(rows[longest[0]].input_ids)
    while size > 1:
        size //= 2
        if _fits(trainer, longest[:size]):
            steps = -(-params.rows_per_step // size)
            remedy = f"set train.per_device_train_batch_size={size} and train.gradient_accumulation_steps={steps}"
            raise MachineError("train", f"out of memory on the longest batch (rows of {tokens} tokens)", remedy)
    remedy = "set train.gradient_checkpointing=true, or lower model.cutoff_len"
    raise MachineError("train", f"out of memory on a single row of {tokens} tokens", remedy)


def _fits(trainer: CotTrainer, positions: Sequence[int]) -> bool:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in positions])
    batch.pop("row")
    try:
        with trainer.compute_loss_context_manager():
            trainer.compute_loss(trainer.model.train(), trainer._prepare_inputs(batch)).backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        trainer.model.zero_grad(set_to_none=True)
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def run(
    model: Any, tokenizer: Any, rows: Sequence[TrainRow], eval_rows: Sequence[TrainRow], params: TrainParams, config: SFTConfig
) -> Outcome:
    """Train the model in place and return what happened; resumes from the newest complete checkpoint in config.output_dir.

    Raises TrainingError at a loss or gradient that is not finite, MachineError when the longest batch does not fit.
    """
    check_rows(rows, model)
    callbacks: list[TrainerCallback] = [MarkComplete()]
    if params.early_stopping_steps:
        callbacks.append(EarlyStoppingCallback(params.early_stopping_steps))
    trainer = CotTrainer(
        model,
        rows=rows,
        args=config,
        eval_dataset=to_dataset(eval_rows) if eval_rows else None,
        data_collator=Collator(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    preflight(trainer, rows, params)
    checkpoint = newest_checkpoint(Path(config.output_dir))
    if checkpoint:
        log.info("train: resuming from %s", checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    eval_loss = trainer.evaluate()["eval_loss"] if eval_rows else None
    num_trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return Outcome(list(trainer.state.log_history), trainer.state.global_step, eval_loss, trainer.moved_rate(), num_trainable)
