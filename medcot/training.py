"""QLoRA on our own tokens and labels: peft's adapter with fp32 masters under TRL's SFTTrainer, on CPU and CUDA alike.

The rows arrive tokenised and labelled (medcot/template.py), so the trainer prepares, cuts and packs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from trl import SFTConfig

from medcot.attention import packs
from medcot.checkpoints import MarkComplete, newest_checkpoint
from medcot.errors import DataError, MachineError
from medcot.llamafactory import Row
from medcot.model import Hardware
from medcot.outcome import Outcome
from medcot.preflight import check_rows, find_batch_that_fits, is_out_of_memory
from medcot.progress import Progress
from medcot.template import Template, encode
from medcot.tokenizer import ChatTokenizer
from medcot.trackers import tracking
from medcot.train_params import TrainParams
from medcot.trainer import Collator, CotTrainer, TrainRow, to_dataset, trainable

log = logging.getLogger("medcot")


def encode_rows(rows: Sequence[Row], tok: ChatTokenizer, template: Template, system: str) -> list[TrainRow]:
    """Tokenise and label rows exactly as convert audited them."""
    encoded = ((row.id, encode(tok, template, row.question, row.reasoning, row.answer, system)) for row in rows)
    return [TrainRow(row_id, item.input_ids, item.labels) for row_id, item in encoded]


# Params that transformers knows by the same name.
PASSED_ON = {
    *("learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "gradient_checkpointing"),
    *("label_smoothing_factor", "load_best_model_at_end", "seed"),
}


def trainer_config(params: TrainParams, hardware: Hardware, num_rows: int, num_eval: int, scratch: Path) -> SFTConfig:
    """Translate the params into TRL's configuration.

    Raises DataError when the best model is to be kept and there are no val rows to tell it by.
    """
    if params.load_best_model_at_end and not num_eval:
        place = "params.yaml: train.load_best_model_at_end"
        raise DataError(place, "there are no val rows to choose by", "raise convert.val_ratio, or set it to false")
    steps = params.num_steps(num_rows)
    save_steps = params.save_steps or (params.eval_steps if params.load_best_model_at_end else 0)
    config = SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        warmup_steps=params.num_warmup_steps(steps),
        gradient_checkpointing_kwargs={"use_reentrant": False} if params.gradient_checkpointing else None,
        neftune_noise_alpha=params.neftune_noise_alpha or None,
        eval_strategy="steps" if params.eval_steps and num_eval else "no",
        eval_steps=params.eval_steps or None,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 1,
        save_total_limit=2,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,  # the patience of early stopping
        bf16=hardware.dtype == "bfloat16",
        fp16=hardware.dtype == "float16",
        use_cpu=hardware.device == "cpu",
        data_seed=params.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default shows the last finite loss in place of a NaN
        disable_tqdm=True,
        **tracking(scratch.name),
        max_length=None,  # TRL would cut rows to 1024 tokens
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=hardware.device == "cuda",
        **params.model_dump(include=PASSED_ON),
    )
    if config.n_gpu > 1:
        config._n_gpu = 1  # the rows of a step are counted for one process: DataParallel would multiply them
    return config


@contextmanager
def _out_of_memory(trainer: CotTrainer) -> Iterator[None]:
    """Give an out-of-memory in the middle of training its line."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        remedy = "halve train.per_device_train_batch_size and double train.gradient_accumulation_steps, or lower per_device_eval_batch_size"
        raise MachineError(f"train: step {trainer.state.global_step + 1}", "out of memory", remedy) from None


def run(
    model: Any, tokenizer: Any, rows: Sequence[TrainRow], eval_rows: Sequence[TrainRow], params: TrainParams, config: SFTConfig
) -> Outcome:
    """Train the model in place and return what happened; resumes from the newest complete checkpoint in config.output_dir.

    Raises TrainingError at a loss or gradient that is not finite, MachineError when the longest batch does not fit.
    """
    check_rows([*rows, *eval_rows] if rows else rows, model)
    stopping = [EarlyStoppingCallback(params.early_stopping_steps)] if params.early_stopping_steps else []
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    # NEFTune scales its noise by the length of what is embedded at once, which must stay that of the rows.
    packed = packs(model) and not params.neftune_noise_alpha
    trainer = CotTrainer(
        model,
        rows=rows,
        args=config,
        eval_dataset=to_dataset(eval_rows) if eval_rows else None,
        data_collator=Collator(pad_id, packed=packed),
        processing_class=tokenizer,
        callbacks=[MarkComplete(), Progress(), *stopping],
    )
    if params.gradient_checkpointing:
        # The trainer turns it on when it starts; the attempt at the longest batch comes before, and must need no more memory than a step.
        trainer.model.gradient_checkpointing_enable(config.gradient_checkpointing_kwargs)
    longest = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    lengths = [len(rows[i].input_ids) for i in longest]
    size, per_step = params.per_device_train_batch_size, params.rows_per_step
    find_batch_that_fits(lengths, size, per_step, lambda positions: trainer.attempt([longest[p] for p in positions]))
    checkpoint = newest_checkpoint(Path(config.output_dir))
    if checkpoint:
        log.info("train: resuming from %s", checkpoint)
    with _out_of_memory(trainer):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        history, eval_loss = final_loss(trainer) if eval_rows else (list(trainer.state.log_history), None)
    num_trainable = sum(p.numel() for _, p in trainable(trainer.model))
    return Outcome(history, trainer.state.global_step, eval_loss, trainer.moved_rate(), num_trainable)


def final_loss(trainer: CotTrainer) -> tuple[list[dict[str, float]], float]:
    """The logged steps, completed by the last one's val loss, and the val loss of the model that is kept."""
    history, step = list(trainer.state.log_history), trainer.state.global_step
    last = [entry["eval_loss"] for entry in history if "eval_loss" in entry and entry["step"] == step]
    if trainer.args.load_best_model_at_end:
        return history, trainer.mean_nll()
    if last:
        return history, last[-1]
    loss = trainer.mean_nll()
    return [*history, {"step": step, "eval_loss": loss}], loss
