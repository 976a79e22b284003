"""Killed at any place, a run ends with the bytes it would have reached; damaged checkpoints, full disks and signals have their line."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kill_points
import pytest
from train_factory import Base, write_train_workspace

# Seven steps end inside an epoch of four; the best model is not the last.
RUN = {
    "max_steps": 7,
    "save_steps": 2,
    "eval_steps": 2,
    "learning_rate": 1e-2,
    "lora_dropout": 0.3,
    "load_best_model_at_end": True,
}
PATHS = ["plain", "fused"]


@dataclass(frozen=True)
class Whole:
    """A workspace, and what an uninterrupted run leaves in it."""

    root: Path
    files: dict[str, bytes]


def results(root: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in (root / "models/adapter").iterdir()}
    return {**files, "metrics": (root / "metrics/train.json").read_bytes()}


def settings(path: str) -> dict[str, Any]:
    return {**RUN, "lora_dropout": 0.0} if path == "fused" else RUN


@pytest.fixture(scope="module", params=PATHS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp(request.param)
    base = Base(tmp_path_factory.mktemp("base"))
    write_train_workspace(root, base, **settings(request.param))
    before = Path.cwd()
    os.chdir(root)
    os.environ["MEDCOT_TRAIN_PATH"] = request.param
    try:
        assert kill_points.fork_train() == 0
    finally:
        os.chdir(before)
    return Whole(root, results(root))


@pytest.fixture
def workspace(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace without results and checkpoints."""
    monkeypatch.chdir(whole.root)
    for directory in ("models/adapter", "metrics", ".medcot"):
        shutil.rmtree(whole.root / directory, ignore_errors=True)
    return whole.root


def kill(place: str) -> None:
    assert kill_points.fork_train(lambda: kill_points.install(place)) == -signal.SIGKILL


def run_dir(root: Path) -> Path:
    (directory,) = (root / ".medcot/checkpoints").iterdir()
    return directory


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


# ---- killed


@pytest.mark.parametrize(
    ("place", "resumed"),
    [("step:1", 0), ("step:5", 4), ("file:10", 4), ("marker:3", 4), ("remove:1", 6), ("end:7", 7), ("adapter:1", 7)],
)
def test_a_run_killed_at_any_place_ends_with_the_bytes_of_one_that_was_not(
    whole: Whole, workspace: Path, place: str, resumed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    kill(place)
    assert not (workspace / "models/adapter").exists()
    lines(capfd)
    assert kill_points.fork_train() == 0
    said = [line for line in lines(capfd) if "resuming" in line]
    assert [line.rpartition("-")[2] for line in said] == ([str(resumed)] if resumed else [])
    assert results(workspace) == whole.files
    assert not list((workspace / ".medcot/checkpoints").iterdir())
