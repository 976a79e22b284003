"""QLoRA on our own tokens and labels: peft's adapter with fp32 masters under TRL's SFTTrainer, on CPU and CUDA alike.

The rows arrive tokenised and labelled (medcot/template.py), so the trainer prepares, cuts and packs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from trl import SFTConfig

from medcot.checkpoints import newest_checkpoint
from medcot.distributed import check_same, from_main, world
from medcot.errors import DataError
from medcot.finite import CheckWeights
from medcot.generation_metric import GenerationMetric
from medcot.interruption import SaveWhenTerminated
from medcot.llamafactory import Row
from medcot.model import Hardware
from medcot.outcome import VAL_SCORES, Outcome
from medcot.preflight import check_rows, is_out_of_memory
from medcot.progress import Progress
from medcot.template import Template, encode
from medcot.tokenizer import ChatTokenizer
from medcot.trackers import tracking
from medcot.train_params import TrainParams
from medcot.train_rows import TrainRow
from medcot.trainer import CotTrainer, trainable

log = logging.getLogger("medcot")


def encode_rows(rows: Sequence[Row], tok: ChatTokenizer, template: Template, system: str) -> list[TrainRow]:
    """Tokenise and label rows exactly as convert audited them."""
    encoded = ((row.id, encode(tok, template, row.question, row.reasoning, row.answer, system)) for row in rows)
    return [TrainRow(row_id, item.input_ids, item.labels) for row_id, item in encoded]


# Params that transformers knows by the same name.
PASSED_ON = {
    *("learning_rate", "lr_scheduler_type", "per_device_eval_batch_size", "optim", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "label_smoothing_factor", "load_best_model_at_end", "seed"),
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
        # The rows of an optimiser step are one batch to transformers; the trainer cuts it into passes, and turns recomputation on.
        per_device_train_batch_size=params.rows_per_step,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        neftune_noise_alpha=params.neftune_noise_alpha or None,
        eval_strategy="steps" if params.eval_steps and num_eval else "no",
        eval_steps=params.eval_steps or None,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 1,
        save_total_limit=None,  # medcot/checkpoints.py removes older ones, by step: transformers goes by the clock
        metric_for_best_model=params.metric_for_best_model,
        greater_is_better=params.metric_for_best_model != "eval_loss",
        restore_callback_states_from_checkpoint=True,  # the patience of early stopping
        bf16=hardware.dtype == "bfloat16",
        fp16=hardware.dtype == "float16",
        use_cpu=hardware.device == "cpu",
        data_seed=params.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the default shows the last finite loss in place of a NaN
        disable_tqdm=True,
        **(tracking(scratch.name) if world().is_main else {"report_to": "none"}),
        max_length=None,  # TRL would cut rows to 1024 tokens
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=hardware.device == "cuda",
        **params.model_dump(include=PASSED_ON),
    )
    if config.n_gpu > 1:
        config._n_gpu = 1  # the rows of a step are counted for one process: DataParallel would multiply them
    return config


def run(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TrainRow],
    eval_rows: Sequence[TrainRow],
    params: TrainParams,
    config: SFTConfig,
    hardware: Hardware,
    metric: GenerationMetric | None = None,
) -> Outcome:
    """Train the model in place and return what happened; resumes from the newest complete checkpoint in config.output_dir.

    metric  what generated answers are worth, told at each evaluation
    Raises TrainingError at a loss or gradient that is not finite, MachineError when the longest row does not fit.
    """
    check_rows([*rows, *eval_rows] if rows else rows, model)
    if metric:
        metric.check(model)
    stopping = [EarlyStoppingCallback(params.early_stopping_steps)] if params.early_stopping_steps else []
    saving = SaveWhenTerminated()
    trainer = CotTrainer(
        model,
        rows=rows,
        eval_rows=eval_rows,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        params=params,
        hardware=hardware,
        metric=metric,
        args=config,
        processing_class=tokenizer,
        callbacks=[CheckWeights(), saving, *([Progress()] if world().is_main else []), *stopping],
    )
    check_same(trainer.model, "at the start")
    trainer.settle(params)
    checkpoint = from_main(lambda: newest_checkpoint(Path(config.output_dir)))
    if checkpoint:
        log.info("train: resuming from %s", checkpoint)
    out_of_memory = False
    try:
        with saving.listening():
            trainer.resume(checkpoint)
        history, scores = final_scores(trainer) if eval_rows else (list(trainer.state.log_history), {})
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        out_of_memory = True
    if out_of_memory:  # only here is the exception gone, and with it the activations that its frames hold
        raise trainer.explain_out_of_memory()
    check_same(trainer.model, "at the end")
    num_trainable = sum(p.numel() for _, p in trainable(trainer.model))
    kept = trainer.state.best_global_step if params.load_best_model_at_end else None
    return Outcome(history, trainer.state.global_step, scores.pop("eval_loss", None), trainer.moved_rate(), num_trainable, kept, scores)


def final_scores(trainer: CotTrainer) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The logged steps, completed by the last one's val scores, and the val scores of the model that is kept."""
    history, step = list(trainer.state.log_history), trainer.state.global_step
    last = [entry for entry in history if "eval_loss" in entry and entry["step"] == step]
    if trainer.args.load_best_model_at_end:
        return history, trainer.val_scores()
    if last:
        return history, {name: last[-1][name] for name in VAL_SCORES if name in last[-1]}
    scores = trainer.val_scores()
    return [*history, {"step": step, **scores}], scores
