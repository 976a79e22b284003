"""Which checkpoint a run resumes from: the newest that is as it was written, whatever happened to the others."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medcot import checkpoints
from medcot.checkpoints import checkpoint_steps, mark_complete, newest_checkpoint, remove, remove_older, why_unusable


def write_checkpoint(root: Path, step: int, *, best: int | None = None, complete: bool = True) -> Path:
    """A checkpoint with a file of every kind that transformers writes, readable as its own are."""
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"lora_A": torch.full((4, 8), float(step))}, path / "adapter_model.safetensors")
    torch.save({"state": {0: torch.ones(8)}}, path / "optimizer.pt")
    torch.save({"numpy": np.random.default_rng(step).bit_generator.state, "cpu": torch.arange(8)}, path / "rng_state.pth")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    state = {"global_step": step, "best_model_checkpoint": str(root / f"checkpoint-{best}") if best else None}
    (path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    torch.save([step], path / "training_args.bin")
    if complete:
        mark_complete(path)
    return path


def test_the_newest_by_number_is_taken_and_only_newer_broken_ones_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_checkpoint(tmp_path / "无") is None
    old, newest = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    cut = write_checkpoint(tmp_path, 11, complete=False)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "run.json").touch()
    os.utime(newest, (0, 0))  # the clock says nothing
    assert newest_checkpoint(tmp_path) == newest
    assert old.exists()
    assert not cut.exists()
    assert caplog.messages == [f"train: {cut} is not used and removed: it was cut short while it was written"]


def test_the_marker_records_every_file_and_the_pickle_of_settings_is_gone(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 5)
    files = json.loads((path / "complete").read_text())["files"]
    assert sorted(files) == ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "tokenizer.json", "trainer_state.json"]
    assert files["tokenizer.json"] == {"size": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
    assert sorted(name.name for name in path.iterdir()) == sorted([*files, "complete"])


def test_the_marker_comes_last_and_after_everything_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = write_checkpoint(tmp_path, 5, complete=False), []

    def fsync(handle: int) -> None:
        names = {file.stat().st_ino: file.name for file in (*path.iterdir(), path, tmp_path)}
        synced.append((names[os.fstat(handle).st_ino], (path / "complete").exists()))

    monkeypatch.setattr(checkpoints.os, "fsync", fsync)
    mark_complete(path)
    names = ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "tokenizer.json", "trainer_state.json", ".complete"]
    assert synced[: len(names)] == [(name, False) for name in names]
    assert {(path.name, True), (tmp_path.name, True)} <= set(synced[len(names) :])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite_marker(path: Path, text: str) -> None:
    (path / "complete").write_text(text, encoding="utf-8")


def replace_by_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.replace(target)
    path.symlink_to(target)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    (lambda c: os.truncate(c / "optimizer.pt", 10), r"optimizer.pt has 10 bytes, [\d,]+ were written"),
    (lambda c: os.truncate(c / "adapter_model.safetensors", 0), r"adapter_model.safetensors has 0 bytes, [\d,]+ were written"),
    (lambda c: flip(c / "adapter_model.safetensors"), r"adapter_model.safetensors is not what was written \(sha256\)"),
    (lambda c: flip(c / "trainer_state.json"), r"trainer_state.json is not what was written \(sha256\)"),
    (lambda c: (c / "pytorch_model.bin").touch(), "pytorch_model.bin was not written with it"),
    (lambda c: replace_by_link(c / "optimizer.pt"), "optimizer.pt is a link"),
    (lambda c: rewrite_marker(c, ""), "its marker complete is damaged, or of another version of medcot"),
    (lambda c: rewrite_marker(c, '{"files": {"a": 1}}'), "its marker complete is damaged, or of another version of medcot"),
    (lambda c: rewrite_marker(c, '{"files": []}'), "its marker complete is damaged, or of another version of medcot"),
    (lambda c: rewrite_marker(c, '{"files": {"a": {"size": Infinity, "sha256": ""}}}'), "its marker complete is damaged, .*"),
    (lambda c: rewrite_marker(c, "[" * 100_000), "its marker complete is damaged, or of another version of medcot"),
    (lambda c: (c / "complete").unlink(), "it was cut short while it was written"),
    (lambda c: [(c / "complete").unlink(), (c / "complete").mkdir()], "it was cut short while it was written"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGE)
def test_a_damaged_newest_one_is_removed_with_one_line_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], why: str
) -> None:
    good, bad = write_checkpoint(tmp_path / "run", 20), write_checkpoint(tmp_path / "run", 40)
    damage(bad)
    assert newest_checkpoint(tmp_path / "run") == good
    assert not bad.exists()
    (line,) = caplog.messages
    assert line.startswith(f"train: {bad} is not used and removed: ")
    assert re.fullmatch(why, line.split("removed: ")[1])


def test_none_left_starts_fresh_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        rewrite_marker(write_checkpoint(tmp_path, step), "")  # as medcot marked them once
    assert newest_checkpoint(tmp_path) is None
    assert len(caplog.messages) == 3
    assert caplog.messages[-1] == "train: no checkpoint of this run is left, so it starts from the beginning"
    assert not checkpoint_steps(tmp_path)


def test_a_file_or_a_link_in_place_of_a_checkpoint_is_removed_and_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    target = write_checkpoint(tmp_path / "theirs", 8)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint-7").touch()
    (tmp_path / "run/checkpoint-8").symlink_to(target)
    assert newest_checkpoint(tmp_path / "run") is None
    assert not list((tmp_path / "run").iterdir())
    assert why_unusable(target) is None


class Hostile:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile()))


def saved_by_torch(path: Path) -> None:
    torch.save(Hostile(), path)


def with_state(path: Path, **values: object) -> None:
    state = json.loads((path / "trainer_state.json").read_text())
    (path / "trainer_state.json").write_text(json.dumps({**state, **values}), encoding="utf-8")


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (lambda c: pickled(c / "optimizer.pt"), "optimizer.pt cannot be read"),
    (lambda c: saved_by_torch(c / "rng_state.pth"), "rng_state.pth cannot be read"),
    (lambda c: saved_by_torch(c / "pytorch_model.bin"), "pytorch_model.bin is a pickle, which can run code"),
    (lambda c: (c / "scheduler.pt").touch(), "scheduler.pt cannot be read"),
    (lambda c: (c / "scheduler.pt").write_bytes(b"PK\x03\x04" + b"x" * 99), "scheduler.pt cannot be read"),
    (lambda c: (c / "adapter_model.safetensors").write_bytes(b"\xff" * 99), "adapter_model.safetensors cannot be read"),
    (lambda c: (c / "trainer_state.json").write_text("[" * 100_000), "trainer_state.json cannot be read"),
    (lambda c: (c / "trainer_state.json").write_text("[]"), "trainer_state.json cannot be read"),
    (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    (lambda c: with_state(c, global_step=float("inf")), "trainer_state.json cannot be read"),
    (lambda c: with_state(c, best_model_checkpoint=5), "trainer_state.json cannot be read"),
    (lambda c: with_state(c, global_step=7), "trainer_state.json is of step 7"),
    (
        lambda c: with_state(c, best_model_checkpoint="/etc/checkpoint-3"),
        "trainer_state.json names a best model in another place, /etc/checkpoint-3",
    ),
]


@pytest.mark.parametrize(("put", "why"), HOSTILE)
def test_files_from_elsewhere_run_nothing_and_are_refused_although_the_marker_agrees(
    in_tmp: Path, put: Callable[[Path], object], why: str
) -> None:
    path = write_checkpoint(in_tmp / "run", 20)
    put(path)
    mark_complete(path)
    assert why_unusable(path) == why
    assert not (in_tmp / "pwned").exists()


def test_a_checkpoint_whose_best_model_is_gone_is_no_checkpoint(tmp_path: Path) -> None:
    best, newest = write_checkpoint(tmp_path, 20), write_checkpoint(tmp_path, 60, best=20)
    assert why_unusable(newest) is None
    assert why_unusable(write_checkpoint(tmp_path, 80, best=80)) is None, "the best one is itself"
    flip(best / "adapter_model.safetensors")
    assert why_unusable(newest) == "of the best model so far, checkpoint-20, adapter_model.safetensors is not what was written (sha256)"
    remove(best)
    assert why_unusable(newest) == "of the best model so far, checkpoint-20, it is not a directory"


def test_what_may_not_be_read_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, 20)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints, "_sha256", refuse)
    with pytest.raises(PermissionError):
        newest_checkpoint(tmp_path)
    assert path.exists()

    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(checkpoints, "_sha256", fail)
    assert why_unusable(path) == f"{path}/adapter_model.safetensors: Input/output error"


def test_the_two_newest_complete_ones_and_the_best_stay_whatever_the_clock_says(tmp_path: Path) -> None:
    paths = {step: write_checkpoint(tmp_path, step, complete=step != 70) for step in (8, 9, 10, 20, 70, 100)}
    for age, path in enumerate(paths.values()):
        os.utime(path, (10_000 - age, 10_000 - age))  # the clock ran backwards
    remove_older(tmp_path, Path("elsewhere/checkpoint-9"))
    assert list(checkpoint_steps(tmp_path)) == [9, 20, 70, 100]
    remove_older(tmp_path, None)
    assert list(checkpoint_steps(tmp_path)) == [20, 70, 100]


def test_the_marker_goes_first_when_one_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, 20)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda path: None)  # killed here
    remove(path)
    assert path.exists()
    assert why_unusable(path) == "it was cut short while it was written"
