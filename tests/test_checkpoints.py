"""Which checkpoint a run resumes from, and what makes two runs the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medcot import checkpoints
from medcot.checkpoints import MarkComplete, newest_checkpoint, run_fingerprint


class State:
    global_step = 20


class Arguments:
    def __init__(self, output_dir: Path) -> None:
        self.output_dir = str(output_dir)


def checkpoint(root: Path, step: int, *, complete: bool) -> Path:
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").touch()
    if complete:
        (path / "complete").touch()
    return path


def test_the_newest_complete_checkpoint_is_by_number_and_the_others_that_were_cut_short_go(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    old, newest = checkpoint(tmp_path, 9, complete=True), checkpoint(tmp_path, 10, complete=True)
    cut = checkpoint(tmp_path, 11, complete=False)
    assert newest_checkpoint(tmp_path) == newest
    assert old.exists()
    assert not cut.exists()


def test_only_what_was_marked_is_complete(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 20, complete=False)
    MarkComplete().on_save(Arguments(tmp_path), State(), None)
    assert newest_checkpoint(tmp_path) == path


def fingerprint(tmp_path: Path, params: Any = None, data: str = "a", code: str = "b") -> str:
    (tmp_path / "data").write_text(data, encoding="utf-8")
    (tmp_path / "code").write_text(code, encoding="utf-8")
    return run_fingerprint(params=params or {"lr": 1e-4, "r": 8}, files={"train.json": tmp_path / "data"}, code={"m": tmp_path / "code"})


def test_params_data_code_and_libraries_make_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fingerprint(tmp_path)
    assert fingerprint(tmp_path, {"r": 8, "lr": 1e-4}) == one
    others = {fingerprint(tmp_path, {"lr": 2e-4, "r": 8}), fingerprint(tmp_path, data="胸"), fingerprint(tmp_path, code="c")}
    monkeypatch.setattr(checkpoints, "version", lambda name: "0")
    others.add(fingerprint(tmp_path))
    assert len(others | {one}) == 5
