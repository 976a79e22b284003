"""Killed at any place, a run ends with the bytes it would have reached; damaged checkpoints, full disks and signals have their line."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kill_points
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from train_factory import Base, write_train_workspace

from medcot import stage
from medcot.checkpoints import checkpoint_steps, mark_complete
from medcot.model import describe_model_dir
from medcot.paths import PlainPath

# Seven steps end inside an epoch of four; the best model is not the last.
RUN = {
    "max_steps": 7,
    "save_steps": 2,
    "eval_steps": 2,
    "learning_rate": 1e-2,
    "lora_dropout": 0.3,
    "load_best_model_at_end": True,
}

LATE_ROW = 9  # in the third or fourth step: there is a checkpoint by then


@dataclass(frozen=True)
class Whole:
    """A workspace, and what an uninterrupted run leaves in it."""

    root: Path
    params: bytes
    files: dict[str, bytes]


def results(root: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in (root / "models/adapter").iterdir()}
    return {**files, "metrics": (root / "metrics/train.json").read_bytes()}


def run_whole(root: Path, base: Base, path: str) -> Whole:
    write_train_workspace(root, base, **{**RUN, "lora_dropout": 0.3 if path == "plain" else 0.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MEDCOT_TRAIN_PATH", path)
        assert kill_points.fork_train() == 0
    return Whole(root, (root / "params.yaml").read_bytes(), results(root))


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    base = Base(tmp_path_factory.mktemp("base"))
    return {path: run_whole(tmp_path_factory.mktemp(path), base, path) for path in ("plain", "fused")}


@pytest.fixture
def path() -> str:
    """The path of a test that does not ask for another."""
    return "plain"


@pytest.fixture
def workspace(wholes: dict[str, Whole], path: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace of a path, without results and checkpoints."""
    root = wholes[path].root
    (root / "params.yaml").write_bytes(wholes[path].params)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", path)
    for directory in ("models/adapter", "metrics", ".medcot"):
        shutil.rmtree(root / directory, ignore_errors=True)
    return root


def kill(place: str) -> None:
    assert kill_points.fork_train(lambda: kill_points.install(place)) == -signal.SIGKILL


def limit_files() -> None:
    """Let the system refuse every file of more than 20 kB, as a full disk would; what the run says is shorter."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def old_adapter(root: Path) -> None:
    (root / "models/adapter").mkdir()
    (root / "models/adapter/old").touch()


def assert_only_the_old_adapter(root: Path) -> None:
    assert [path.name for path in (root / "models/adapter").iterdir()] == ["old"]
    assert sorted(path.name for path in (root / "models").iterdir()) == ["adapter", "base"]


def run_dir(root: Path) -> Path:
    (directory,) = (root / ".medcot/checkpoints").iterdir()
    return directory


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


# ---- killed; benchmarks/resume.py does it at random


@pytest.mark.parametrize(
    ("path", "place", "resumed"),
    [
        ("plain", "file:10", 4),
        ("plain", "end:7", 7),
        ("fused", "step:5", 4),
        ("fused", "marker:3", 4),
    ],
)
def test_a_run_killed_at_any_place_ends_with_the_bytes_of_one_that_was_not(
    wholes: dict[str, Whole], workspace: Path, path: str, place: str, resumed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    kill(place)
    assert not (workspace / "models/adapter").exists()
    lines(capfd)
    assert kill_points.fork_train() == 0
    said = [line for line in lines(capfd) if "resuming" in line]
    assert [int(line.rpartition("-")[2]) for line in said] == [resumed]
    assert results(workspace) == wholes[path].files
    assert not list((workspace / ".medcot/checkpoints").iterdir())


def test_a_full_fine_tune_killed_at_its_end_is_saved_as_it_would_have_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files hold more than weights: the special tokens, which the trainer sets when it starts."""
    monkeypatch.chdir(tmp_path)
    write_train_workspace(tmp_path, Base(tmp_path / "made"), "none", finetuning_type="full", max_steps=3, save_steps=3)
    assert kill_points.fork_train() == 0
    expected = results(tmp_path)
    shutil.rmtree(tmp_path / "models/adapter")
    kill("end:3")
    assert kill_points.fork_train() == 0
    assert results(tmp_path) == expected


# ---- damaged, or changed


def test_a_broken_newest_checkpoint_costs_a_few_steps_and_one_line(
    wholes: dict[str, Whole], workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kill("step:5")
    os.truncate(run_dir(workspace) / "checkpoint-4/optimizer.pt", 100)
    lines(capfd)
    assert kill_points.fork_train() == 0
    said = [line for line in lines(capfd) if "checkpoint" in line]
    assert re.fullmatch(r"train: \S+/checkpoint-4 is not used and removed: optimizer.pt has 100 bytes, [\d,]+ were written", said[0])
    assert said[1].endswith("/checkpoint-2")
    assert len(said) == 2
    assert results(workspace) == wholes["plain"].files


def test_a_checkpoint_of_another_model_is_one_line(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kill("step:3")
    checkpoint = run_dir(workspace) / "checkpoint-2"
    tensors = load_file(checkpoint / "adapter_model.safetensors")
    save_file({name: torch.zeros(3, 3) for name in tensors}, checkpoint / "adapter_model.safetensors")
    mark_complete(checkpoint)
    lines(capfd)
    assert kill_points.fork_train() == 2
    error = lines(capfd)[-1]
    assert error.startswith(f"error: {checkpoint.relative_to(workspace)}: the checkpoint does not fit this run, got ")
    assert error.endswith("; remove it, then run again")


def edit(root: Path, section: str, **values: Any) -> None:
    content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    content[section] = content.get(section, {}) | values
    (root / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def test_another_path_starts_fresh_and_says_what_changed(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kill("step:3")
    monkeypatch.setenv("MEDCOT_TRAIN_PATH", "fused")
    edit(workspace, "train", lora_dropout=0.0)
    lines(capfd)
    kill("step:1")
    (said,) = [line for line in lines(capfd) if "checkpoint" in line]
    start = r"train: starts from the beginning; \S+/checkpoint-2 is of another run: changed "
    assert re.fullmatch(start + "machine.path, medcot.fused.*, [0-9]+ more", said)


# ---- what stops a run


def test_sigterm_finishes_the_step_writes_a_checkpoint_and_ends(
    wholes: dict[str, Whole], workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def terminate() -> None:
        kill_points.after_event("on_step_begin", 4, lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert kill_points.fork_train(terminate) == 143
    said = lines(capfd)
    assert said[-2:] == ["train: SIGTERM: checkpoint-5 is written", "error: train: terminated; run the same command again to resume"]
    assert not (workspace / "models/adapter").exists()
    assert kill_points.fork_train() == 0
    assert any(line.endswith("/checkpoint-5") for line in lines(capfd))
    assert results(workspace) == wholes["plain"].files


@pytest.mark.parametrize(
    ("event", "signals", "code"),
    [
        ("on_step_begin", (signal.SIGTERM, signal.SIGTERM), 143),
        ("on_step_begin", (signal.SIGINT,), 130),
    ],
)
def test_a_second_sigterm_one_outside_a_step_and_ctrl_c_end_at_once(
    workspace: Path, event: str, signals: tuple[signal.Signals, ...], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask() -> None:
        kill_points.after_event(event, 4, lambda: [os.kill(os.getpid(), each) for each in signals])  # type: ignore[arg-type, return-value]

    assert kill_points.fork_train(ask) == code
    assert lines(capfd)[-1] == f"error: train: {'interrupted' if code == 130 else 'terminated'}; run the same command again to resume"
    assert max(checkpoint_steps(run_dir(workspace))) == (4 if event == "on_step_begin" else 2)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_gone_on_from(
    wholes: dict[str, Whole], workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fill_the_disk() -> None:
        kill_points.after_event("on_step_end", 3, limit_files)

    assert kill_points.fork_train(fill_the_disk) == 3
    directory = run_dir(workspace)
    error = lines(capfd)[-1]
    assert error.startswith(f"error: {directory.relative_to(workspace)}/checkpoint-4: the checkpoint could not be written, got ")
    assert error.endswith("; free space there, then run the same command again: it goes on from checkpoint-2")
    assert list(checkpoint_steps(directory)) == [2]
    assert kill_points.fork_train() == 0
    assert results(workspace) == wholes["plain"].files


def test_a_full_disk_under_the_adapter_is_one_line_and_the_old_one_stays(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old_adapter(workspace)

    def fill_the_disk() -> None:
        kill_points.after_event("on_train_end", 7, limit_files)

    assert kill_points.fork_train(fill_the_disk) == 3
    error = lines(capfd)[-1]
    assert error.startswith("error: models/.adapter.building: the weights could not be written, got ")
    assert error.endswith("; free space there, then run the same command again: it goes on from the last checkpoint")
    assert_only_the_old_adapter(workspace)


@pytest.mark.parametrize(("path", "what", "name"), [("plain", "gradient", "gradient norm"), ("fused", "nan", "loss")])
def test_a_row_that_gives_no_number_stops_the_run_and_is_among_the_records_named(
    workspace: Path, what: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    old_adapter(workspace)
    assert kill_points.fork_train(lambda: kill_points.plant(LATE_ROW, what)) == 4
    error = lines(capfd)[-1]
    checkpoint = run_dir(workspace).relative_to(workspace) / "checkpoint-2"
    found = re.fullmatch(
        rf"error: train: step [34], records (.+): the {name} is not finite, got (?:nan|inf); .+ checkpoint is {checkpoint}", error
    )
    assert found, error
    assert f"{LATE_ROW:016x}" in found[1].split(", ")
    assert len(found[1].split(", ")) == 4
    assert_only_the_old_adapter(workspace)


@pytest.mark.parametrize("path", ["plain", "fused"])
def test_a_base_with_a_wrong_weight_is_named_before_any_row_is(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = workspace / "models/base/model"
    weights, record = (directory / name for name in ("model.safetensors", "base.json"))
    kept = {file: file.read_bytes() for file in (weights, record)}
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    describe_model_dir("demo", directory, path=".").write(directory)
    try:
        assert kill_points.fork_train() == 2
    finally:
        for file, content in kept.items():
            file.write_bytes(content)
    error = lines(capfd)[-1]
    assert error.startswith(
        "error: models/base/model: weights of the base are not finite, got base_model.model.model.layers.1.mlp.up_proj."
    )
    assert not (workspace / "models/adapter").exists()


def break_update(step: int) -> None:
    """Let the optimiser's update of a step leave an infinite weight."""

    def overflow() -> None:
        next(p for p in OPTIMISERS[-1].param_groups[0]["params"]).data.view(-1)[0] = float("inf")

    original = torch.optim.AdamW.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        OPTIMISERS.append(self)

    torch.optim.AdamW.__init__ = init  # type: ignore[method-assign]
    kill_points.after_event("on_optimizer_step", step - 1, overflow)  # the step is counted after this


OPTIMISERS: list[Any] = []


@pytest.mark.parametrize(("step", "records"), [(4, 0), (5, 4)])
def test_an_update_that_breaks_the_weights_is_never_saved_and_its_own_rows_are_named(
    workspace: Path, step: int, records: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Step 4 would be saved; what step 5 leaves shows in the loss of step 6."""
    assert kill_points.fork_train(lambda: break_update(step)) == 4
    error = lines(capfd)[-1]
    found = re.fullmatch(
        r"error: train: step (\d)(?:, records (.+))?: the optimiser's update is not finite, got .+lora_A.+; lower .+", error
    )
    assert found, error
    assert int(found[1]) == step
    assert len((found[2] or "").split()) == records
    assert max(checkpoint_steps(run_dir(workspace))) == (2 if step == 4 else 4)


def test_out_of_memory_late_in_a_run_keeps_the_checkpoint_and_what_the_line_says_finishes_the_run(
    wholes: dict[str, Whole], workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def memory_shrinks() -> None:
        original = PlainPath.run_pass

        def run_pass(self: Any, batch: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if self.trainer.state.global_step >= 4 and batch["input_ids"].numel() > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(self, batch, *args, **kwargs)

        PlainPath.run_pass = run_pass  # type: ignore[method-assign]

    assert kill_points.fork_train(memory_shrinks) == 3
    error = lines(capfd)[-1]
    assert error.startswith("error: train: step 5: out of memory")
    assert "checkpoint-4" in error
    # What only changes how a step is computed may change in between: the run is still the same.
    edit(workspace, "train", per_device_train_batch_size=1, gradient_accumulation_steps=4, gradient_checkpointing=True)
    fits = int(re.findall(r"MEDCOT_TOKENS_PER_PASS=([\d]+)", error)[0])
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", str(fits))
    assert kill_points.fork_train(memory_shrinks) == 0
    assert any(line.endswith("/checkpoint-4") for line in lines(capfd))
    metrics, expected = (json.loads(files["metrics"]) for files in (results(workspace), wholes["plain"].files))
    assert metrics["num_steps"] == expected["num_steps"]


def test_inputs_that_change_during_a_run_make_no_adapter_and_lose_none(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DVC hashes inputs after the run: it would record this learning rate and these rows for an adapter made from others."""
    files = [workspace / "params.yaml", workspace / "data/llamafactory/val.json"]
    kept = {file: file.read_bytes() for file in files}

    def change() -> None:
        edit(workspace, "train", learning_rate=0.5, gradient_checkpointing=True)
        files[1].write_bytes(kept[files[1]] + b"\n")

    old_adapter(workspace)
    try:
        assert kill_points.fork_train(lambda: kill_points.after_event("on_step_end", 6, change)) == 2
    finally:
        for file, content in kept.items():
            file.write_bytes(content)
    trained = run_dir(workspace).relative_to(workspace) / "trained"
    assert lines(capfd)[-1] == (
        "error: train: train.learning_rate, val.json changed while it ran; put it back and run again to go on from the last checkpoint, "
        f"or train anew; the result is in {trained}"
    )
    assert_only_the_old_adapter(workspace)
    assert (trained / "adapter_model.safetensors").is_file()
    assert kill_points.fork_train() == 0
    assert any(line.endswith("/checkpoint-7") for line in lines(capfd))


def test_a_scratch_that_cannot_be_written_and_a_second_run_at_once_are_one_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (workspace / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("MEDCOT_SCRATCH", "file/scratch")
        assert kill_points.fork_train() == 3
    assert lines(capfd) == ["error: file/scratch/locks: Not a directory; free space, or fix the path and its permissions, then run again"]
    monkeypatch.setattr(stage, "LOCK_SECONDS", 0.1)
    with stage.stage_lock("train"):
        assert kill_points.fork_train() == 3
    assert lines(capfd) == ["error: .medcot/locks/train.lock: another process is running stage train; wait for it to end, or stop it"]
