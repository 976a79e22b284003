"""What makes two trainings the same run, what a fresh one says about the last, and which unfinished ones are kept."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from medcot import run_identity
from medcot.errors import DataError
from medcot.run_identity import EXECUTION, check_unchanged, fused_code, loaded_code, open_run, run_parts, shaping_params
from medcot.train_params import TrainParams

PARAMS = TrainParams(per_device_train_batch_size=2, gradient_accumulation_steps=8)


def parts(root: Path, params: TrainParams = PARAMS, data: str = "胸痛", code: str = "b", **sections: Any) -> dict[str, str]:
    """The parts of a small run; `sections` replace one of its own."""
    (root / "train.json").write_text(data, encoding="utf-8")
    (root / "m.py").write_text(code, encoding="utf-8")
    machine = {"device": "cuda", "dtype": "bfloat16", "path": "fused"}
    own = {
        "train": shaping_params(params),
        "model": {"system": ""},
        "base": {"base": "b", "template": "t", "tokenizer": "k"},
        "machine": machine,
    }
    return run_parts({**own, **sections}, {"train.json": root / "train.json"}, {"medcot.m": root / "m.py"})


def test_what_shapes_the_weights_makes_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = parts(tmp_path)
    assert parts(tmp_path) == one
    base, machine = {"base": "b", "template": "t", "tokenizer": "k"}, {"device": "cuda", "dtype": "bfloat16", "path": "fused"}
    others = {
        "train.learning_rate": parts(tmp_path, PARAMS.model_copy(update={"learning_rate": 1e-5})),
        "train.rows_per_step": parts(tmp_path, PARAMS.model_copy(update={"per_device_train_batch_size": 4})),
        "train.json": parts(tmp_path, data="腹痛"),
        "medcot.m": parts(tmp_path, code="c"),
        "model.system": parts(tmp_path, model={"system": "你是医生。"}),
        **{f"base.{key}": parts(tmp_path, base={**base, key: "x"}) for key in base},
        **{f"machine.{key}": parts(tmp_path, machine={**machine, key: "x"}) for key in machine},
    }
    for name, other in others.items():
        assert {key for key in one if one[key] != other[key]} == {name}
    monkeypatch.setattr(run_identity, "version", lambda name: "0")
    assert {key for key, value in parts(tmp_path).items() if value != one[key]} == set(run_identity.LIBRARIES) - {
        name for name, value in one.items() if value == "0"
    }


def test_a_library_that_is_not_there_is_a_part_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise run_identity.PackageNotFoundError(name)

    monkeypatch.setattr(run_identity, "version", version)
    assert parts(tmp_path)["liger-kernel"] == "not installed"


@pytest.mark.parametrize(
    "changed",
    [
        {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
        {"gradient_checkpointing": True},
        {"per_device_eval_batch_size": 1},
    ],
)
def test_how_the_rows_of_a_step_are_computed_does_not(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert parts(tmp_path, PARAMS.model_copy(update=changed)) == parts(tmp_path)


def test_every_other_param_shapes_the_run() -> None:
    assert set(shaping_params(PARAMS)) == (set(TrainParams.model_fields) - EXECUTION) | {"rows_per_step"}
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]) >= EXECUTION


def test_the_code_of_the_fused_path_counts_only_where_it_runs() -> None:
    assert not [name for name in loaded_code() if name.startswith("medcot.fused")]
    assert loaded_code()["medcot.run_identity"] == Path(run_identity.__file__)
    assert set(fused_code().values()) == set((ROOT / "medcot/fused").glob("*.py"))


def started(root: Path, run: dict[str, str], step: int, age: int) -> Path:
    """A run with one checkpoint, last written so many seconds ago."""
    path = open_run(root, run)
    (path / f"checkpoint-{step}").mkdir()
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_a_run_finds_its_own_directory_again_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "medcot")
    path = started(tmp_path, {"train.seed": "1"}, 20, 0)
    assert open_run(tmp_path, {"train.seed": "1"}) == path
    assert json.loads((path / "run.json").read_text()) == {"train.seed": "1"}
    assert not caplog.messages


def test_a_fresh_run_says_what_changed_since_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "medcot")
    old = started(tmp_path, {"train.seed": "1", "medcot.trainer": "a", "gone": "x"}, 20, 0)
    assert open_run(tmp_path, {"train.seed": "2", "medcot.trainer": "b", "new": "y"}) != old
    assert caplog.messages == [
        f"train: starts from the beginning; {old}/checkpoint-20 is of another run: changed gone, medcot.trainer, new, train.seed"
    ]


def test_many_changes_are_counted_and_a_run_that_does_not_say_is_said_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "medcot")
    old = started(tmp_path, {f"part{i}": "1" for i in range(8)}, 20, 0)
    open_run(tmp_path, {f"part{i}": "2" for i in range(8)})
    assert caplog.messages[-1].endswith("changed part0, part1, part2, part3, part4, 3 more")
    for broken in ("[", "[1]"):
        (old / "run.json").write_text(broken, encoding="utf-8")
        open_run(tmp_path, {"a": broken})
        assert caplog.messages[-1].endswith("is of another run: it does not say of which")


def test_two_unfinished_runs_are_kept_and_no_checkpoint_goes_without_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "medcot")
    first, second, third = (started(tmp_path, {"train.seed": str(i)}, 20, age=9 - i) for i in range(3))
    assert all(path.exists() for path in (first, second, third))
    assert not caplog.messages
    empty = open_run(tmp_path, {"train.seed": "no checkpoint yet"})
    line = "train: removed {}/checkpoint-20 of a run that was not finished; the last 2 are kept"
    assert caplog.messages == [line.format(first)]
    now = open_run(tmp_path, {"train.seed": "now"})
    assert sorted(tmp_path.iterdir()) == sorted([second, third, now])
    assert not empty.exists()
    assert open_run(tmp_path, {"train.seed": "1"}) == second, "its own is not counted"
    assert third.exists()
    assert len(caplog.messages) == 1


def test_only_directories_of_runs_are_removed(tmp_path: Path) -> None:
    own = tmp_path / "我的模型"
    own.mkdir()
    (own / "model.safetensors").write_text("mine", encoding="utf-8")
    (tmp_path / "0123456789abcdef").symlink_to(own)
    (tmp_path / "fedcba9876543210").mkdir()
    now = open_run(tmp_path, {"train.seed": "1"})
    assert sorted(tmp_path.iterdir()) == sorted([own, tmp_path / "0123456789abcdef", now])
    assert (own / "model.safetensors").read_text() == "mine"


def test_an_unchanged_run_saves_nothing_and_a_changed_one_is_refused_with_its_result_kept(tmp_path: Path) -> None:
    def save(directory: Path) -> None:
        directory.mkdir()

    check_unchanged({"train.json": "a"}, lambda: {"train.json": "a"}, tmp_path, save)
    assert not (tmp_path / "trained").exists()
    line = r"^train: train.json, 新 changed while it ran; put it back and run again .* the result is in .*/trained$"
    with pytest.raises(DataError, match=line):
        check_unchanged({"train.json": "a", "same": "s"}, lambda: {"train.json": "b", "same": "s", "新": "n"}, tmp_path, save)
    assert (tmp_path / "trained").is_dir()


def test_params_that_are_being_edited_have_changed(tmp_path: Path) -> None:
    def look() -> dict[str, str]:
        raise DataError("params.yaml: train.seed", "not a whole number", "write one")

    with pytest.raises(DataError, match=r"^train: params.yaml: train.seed changed while it ran; "):
        check_unchanged({}, look, tmp_path, lambda directory: None)


def test_a_result_without_checkpoints_is_kept_as_a_checkpoint_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = open_run(tmp_path, {"train.seed": "0"})
    (first / "trained").mkdir()
    os.utime(first, (1, 1))
    started(tmp_path, {"train.seed": "1"}, 20, 0)
    assert first.is_dir()
    started(tmp_path, {"train.seed": "2"}, 20, 0)
    open_run(tmp_path, {"train.seed": "3"})
    assert not first.exists()
    assert caplog.messages[-1] == f"train: removed {first}/trained of a run that was not finished; the last 2 are kept"


def test_a_file_that_is_gone_has_changed(tmp_path: Path) -> None:
    assert run_parts({}, {"val.json": tmp_path / "val.json"}, {})["val.json"] == "missing"
