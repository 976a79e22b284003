"""What a training run leaves besides the weights: its log by step, and the metrics drawn from it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

SPIKE, SPIKE_WINDOW = 2.0, 20
GENERATION_SCORES = ("eval_bleu_4", "eval_rouge_l")
VAL_SCORES = ("eval_loss", *GENERATION_SCORES)
"""What an evaluation while training tells; the last two where val rows are answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in a run; the defaults are those of no training at all.

    log         one dict a logged step, as transformers writes them: step, loss, learning_rate, grad_norm, or step and VAL_SCORES
    steps       optimiser steps done
    eval_loss   mean NLL per supervised token on val of the model that is kept, or None without val rows
    moved_rate  share of trainable elements whose value changed, in [0, 1]
    best_step   the step whose model is kept, where the best one is; else None
    generation  GENERATION_SCORES of the model that is kept, each in [0, 1]; empty where nothing was generated
    """

    log: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    eval_loss: float | None = None
    moved_rate: float = 0.0
    num_trainable: int = 0
    best_step: int | None = None
    generation: dict[str, float] = field(default_factory=dict)


def summarise(outcome: Outcome) -> dict[str, Any]:
    """Metrics of a run; losses are mean NLL per supervised token (label smoothing raises the training loss).

    num_loss_spikes     steps whose loss is more than twice the median of the 20 before
    num_zero_gradients  steps without any gradient: nothing was learnt there
    """
    losses = [entry["loss"] for entry in outcome.log if "loss" in entry]
    metrics: dict[str, Any] = {
        "num_steps": outcome.steps,
        "num_trainable_parameters": outcome.num_trainable,
        "moved_rate": outcome.moved_rate,
        "num_loss_spikes": sum(
            losses[i] > SPIKE * median(losses[max(0, i - SPIKE_WINDOW) : i]) for i in range(SPIKE_WINDOW // 4, len(losses))
        ),
        "num_zero_gradients": sum(entry.get("grad_norm") == 0 for entry in outcome.log),
    }
    if losses:
        metrics |= {"train_loss": mean(losses), "final_train_loss": mean(losses[-max(1, len(losses) // 10) :])}
    kept = {"eval_loss": outcome.eval_loss, "best_step": outcome.best_step, **outcome.generation}
    return metrics | {name: value for name, value in kept.items() if value is not None}


def write_logs(directory: Path, outcome: Outcome) -> None:
    """Write train_log.csv and eval_log.csv, a line a logged step, for `dvc plots`."""
    _write_log(directory / "train_log.csv", outcome.log, ("step", "loss", "learning_rate", "grad_norm"))
    scores = VAL_SCORES if outcome.generation else VAL_SCORES[:1]
    _write_log(directory / "eval_log.csv", outcome.log, ("step", *scores))


def _write_log(path: Path, log: Sequence[dict[str, float]], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([entry[column] for column in columns] for entry in log if columns[-1] in entry)
