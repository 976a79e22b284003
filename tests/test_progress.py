"""The lines a run prints: steps, losses, tokens per second without the first step, and time left, by a clock of the test."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from medcot.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(steps: int, seconds: list[float], tokens_a_step: int = 500, start: int = 0, pause: float = 0.0) -> None:
    """Play a trainer: a step of each duration, a log entry after it, a pause that is no step's."""
    clock, state, control = Clock(), SimpleNamespace(max_steps=steps, global_step=start), SimpleNamespace()
    progress, args = Progress(clock), SimpleNamespace()
    progress.on_train_begin(args, state, control)
    for i, duration in enumerate(seconds, 1):
        progress.on_step_begin(args, state, control)
        clock.now += duration
        state.global_step += 1
        progress.on_step_end(args, state, control)
        progress.on_log(args, state, control, logs={"loss": 2.0 / i, "num_tokens": float(i * tokens_a_step)})
        clock.now += pause
        progress.on_log(args, state, control, logs={"eval_loss": 3.0})
    progress.on_train_end(args, state, control)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_speed_leaves_out_the_first_step_and_all_that_is_no_step(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medcot"):
        run(4, [60.0, 2.0, 2.0, 1.0], pause=7.0)
    assert lines(caplog)[-1].startswith("train: 300 tokens/s over 3 steps")


def test_lines_show_step_losses_speed_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medcot"):
        run(4, [10.0, 10.0, 10.0, 10.0])
    assert lines(caplog)[:4] == [
        "train: step 1 of 4, loss 2.0000, 00:30 left",
        "train: step 2 of 4, loss 1.0000, val 3.0000, 50 tokens/s, 00:20 left",
        "train: step 3 of 4, loss 0.6667, val 3.0000, 50 tokens/s, 00:10 left",
        "train: step 4 of 4, loss 0.5000, val 3.0000, 50 tokens/s",
    ]


def test_a_resumed_run_counts_its_own_steps_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medcot"):
        run(12, [10.0, 10.0], start=10)
    assert lines(caplog)[0] == "train: step 11 of 12, loss 2.0000, 00:10 left"
    assert lines(caplog)[-1].startswith("train: 50 tokens/s over 1 steps")


def test_a_long_run_says_so_ten_times(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medcot"):
        run(100, [1.0] * 100)
    assert len([line for line in lines(caplog) if "step" in line and " of " in line]) == 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_with_the_same_facts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with caplog.at_level(logging.INFO, logger="medcot"):
        run(40, [1.0] * 30, start=10)
    assert "40/40" in stderr.getvalue()
    assert "loss 0.0667 val 3.0000 500 tokens/s" in stderr.getvalue()
    assert not [line for line in lines(caplog) if "step" in line and " of " in line]


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    run(200, [1.0] * 200)
    assert stderr.getvalue() == ""
