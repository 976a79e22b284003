"""The metrics of a run, its CSV logs, and what a watcher sees meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medcot.outcome import Outcome, summarise, write_logs


def log(losses: list[float], **extra: Any) -> list[dict[str, float]]:
    return [{"step": i + 1, "loss": loss, "learning_rate": 1e-4, "grad_norm": 1.0, **extra} for i, loss in enumerate(losses)]


def test_losses_are_means_over_all_and_over_the_last_tenth_of_the_steps() -> None:
    metrics = summarise(Outcome(log([4.0] * 18 + [2.0, 1.0]), 20, 1.5, 0.5, 100))
    assert metrics["train_loss"] == pytest.approx((18 * 4 + 3) / 20)
    assert metrics["final_train_loss"] == 1.5
    assert metrics["eval_loss"] == 1.5
    assert (metrics["num_steps"], metrics["moved_rate"], metrics["num_trainable_parameters"]) == (20, 0.5, 100)


def test_no_training_has_no_loss_rather_than_a_made_up_one() -> None:
    assert summarise(Outcome()) == {
        "num_steps": 0,
        "num_trainable_parameters": 0,
        "moved_rate": 0.0,
        "num_loss_spikes": 0,
        "num_zero_gradients": 0,
    }


@pytest.mark.parametrize(
    ("losses", "spikes"), [([2.0] * 30, 0), ([2.0] * 10 + [4.1] + [2.0] * 9, 1), ([9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], 0)]
)
def test_a_spike_is_twice_the_recent_median(losses: list[float], spikes: int) -> None:
    assert summarise(Outcome(log(losses)))["num_loss_spikes"] == spikes


def test_steps_without_a_gradient_are_counted() -> None:
    assert summarise(Outcome(log([2.0, 2.0], grad_norm=0.0) + log([2.0])))["num_zero_gradients"] == 2


def test_the_logs_are_csv_with_a_header_even_when_empty(tmp_path: Path) -> None:
    write_logs(tmp_path, Outcome([*log([2.5]), {"step": 1, "eval_loss": 2.25, "epoch": 0.5}]))
    assert (tmp_path / "train_log.csv").read_text() == "step,loss,learning_rate,grad_norm\n1,2.5,0.0001,1.0\n"
    assert (tmp_path / "eval_log.csv").read_text() == "step,eval_loss\n1,2.25\n"
    write_logs(tmp_path, Outcome())
    assert (tmp_path / "eval_log.csv").read_text() == "step,eval_loss\n"
