"""Trackers: none unless asked for, named errors, files under the scratch directory only, and the same weights with or without."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_factory import CPU, Base, write_train_workspace
from transformers.integrations import integration_utils

from medcot import trackers
from medcot.errors import DataError, MachineError
from medcot.stage import run_stage
from medcot.trackers import TRACKERS, StartedSwanlab, StartedWandb, chosen_trackers, tracking
from medcot.train_params import TrainParams
from medcot.training import trainer_config
from stages import train

FOREIGN = {"WANDB_API_KEY": "k", "WANDB_PROJECT": "p", "SWANLAB_API_KEY": "k", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
KUBEFLOW = {"KUBEFLOW_TRAINER_SERVER_URL": "http://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """An environment that a test may fill, and transformers' own table of trackers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDCOT_REPORT", "DVC_EXP", "DVC_ROOT"))}
    before, table = dict(os.environ), dict(integration_utils.INTEGRATION_TO_CALLBACK)
    os.environ.clear()
    os.environ.update(kept)
    yield
    os.environ.clear()
    os.environ.update(before)
    integration_utils.INTEGRATION_TO_CALLBACK.clear()
    integration_utils.INTEGRATION_TO_CALLBACK.update(table)


@pytest.fixture
def _all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: ModuleSpec(name, None, origin="there"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def config(run: str = "0123456789abcdef") -> Any:
    return trainer_config(TrainParams(max_steps=2), CPU, 8, 4, Path(".medcot/checkpoints") / run)


@pytest.mark.parametrize("value", [None, "", "  ", " , "])
def test_without_the_variable_nothing_is_reported_whatever_else_is_set(in_tmp: Path, value: str | None) -> None:
    os.environ.update(FOREIGN | KUBEFLOW | ({} if value is None else {"MEDCOT_REPORT_TO": value}))
    assert config().report_to == []
    assert {name: os.environ[name] for name in FOREIGN} == FOREIGN
    assert not Path(".medcot/trackers").exists()


@pytest.mark.usefixtures("_all_installed")
def test_the_list_is_passed_on_in_order_and_once(in_tmp: Path) -> None:
    os.environ["MEDCOT_REPORT_TO"] = " wandb, TensorBoard,swanlab ,wandb,mlflow,,dvclive"
    settings = config("0123456789abcdef")
    assert settings.report_to == ["wandb", "tensorboard", "swanlab", "mlflow", "dvclive"]
    assert settings.run_name == "0123456789abcdef"
    assert set(settings.report_to) == set(TRACKERS) <= set(integration_utils.INTEGRATION_TO_CALLBACK)


@pytest.mark.usefixtures("_all_installed")
def test_the_run_has_the_name_of_its_dvc_experiment() -> None:
    os.environ |= {"MEDCOT_REPORT_TO": "mlflow", "DVC_EXP_NAME": "lr-5e-6", "MEDCOT_SCRATCH": "unused"}
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///elsewhere.db"
    assert tracking("0123456789abcdef")["run_name"] == "lr-5e-6"


@pytest.mark.usefixtures("_all_installed")
def test_files_go_under_the_scratch_directory_and_only_settings_that_are_missing_are_made(in_tmp: Path) -> None:
    os.environ |= {"MEDCOT_REPORT_TO": ",".join(TRACKERS), "MEDCOT_SCRATCH": "暂存", "WANDB_PROJECT": "ours"}
    tracking("run")
    directory = in_tmp / "暂存" / "trackers"
    expected = {
        "WANDB_PROJECT": "ours",
        "WANDB_DIR": str(directory),
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_CODE": "true",
        "SWANLAB_PROJ_NAME": "medcot",
        "SWANLAB_LOG_DIR": str(directory / "swanlab"),
        "MLFLOW_EXPERIMENT_NAME": "medcot",
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory / 'mlflow' / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TENSORBOARD_LOGGING_DIR": str(directory / "tensorboard" / "run"),
    }
    assert {name: os.environ.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("tensorbord", "did you mean `tensorboard`?"),
        ("张量板", "known trackers: dvclive, mlflow, swanlab, tensorboard, wandb"),
        ("all", "known trackers: "),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(value: str, remedy: str) -> None:
    os.environ["MEDCOT_REPORT_TO"] = value
    with pytest.raises(DataError) as caught:
        chosen_trackers()
    assert str(caught.value).startswith(f"environment: MEDCOT_REPORT_TO: unknown tracker, got {value}; {remedy}")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_named_before_anything_is_loaded(
    in_tmp: Path, base: Base, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_train_workspace(in_tmp, base)
    os.environ["MEDCOT_REPORT_TO"] = name
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(train, "load_trainable", lambda *_: pytest.fail("the model was loaded"))
    assert run_stage("train", train.main) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    expected = f"the package of tracker {name} is not installed; run `pip install {name}`, or take it out of the list"
    assert error == f"error: environment: MEDCOT_REPORT_TO: {expected}"


def test_a_directory_with_a_trackers_name_is_not_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["MEDCOT_REPORT_TO"] = "wandb"
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    with pytest.raises(MachineError, match="the package of tracker wandb is not installed"):
        chosen_trackers()


class NoKeyError(Exception):
    """Stands in for wandb.errors.Error, and its parent in SwanLab is RuntimeError."""


@pytest.mark.parametrize(("name", "error"), [("wandb", NoKeyError("No API key configured.")), ("swanlab", RuntimeError("no TTY 无终端"))])
def test_a_tracker_that_cannot_log_in_is_one_line(name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    callback: Any = object.__new__({"wandb": StartedWandb, "swanlab": StartedSwanlab}[name])
    callback._wandb = SimpleNamespace(errors=SimpleNamespace(Error=NoKeyError))
    callback._swanlab = SimpleNamespace(has_run=lambda: False, init=refuse)
    monkeypatch.setattr(integration_utils.WandbCallback, "setup", refuse)
    with pytest.raises(MachineError) as caught:
        callback.setup(SimpleNamespace(run_name="r"), None, None)
    remedy = f"run `{name} login`, set {name.upper()}_API_KEY, or set {name.upper()}_MODE=offline"
    assert str(caught.value) == f"tracker {name}: it did not start, got {error}; {remedy}"


def test_swanlab_has_a_run_with_our_name_before_transformers_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    callback: Any = object.__new__(StartedSwanlab)
    callback._swanlab = SimpleNamespace(has_run=lambda: bool(calls), init=lambda **options: calls.append(options))
    monkeypatch.setattr(integration_utils.SwanLabCallback, "setup", lambda *_, **__: calls.append("transformers"))
    for _ in range(2):
        callback.setup(SimpleNamespace(run_name="运行 1"), None, None)
    assert calls == [{"experiment_name": "运行 1"}, "transformers", "transformers"]


def weights(root: Path) -> bytes:
    return (root / "models/adapter/adapter_model.safetensors").read_bytes()


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout


def test_tensorboard_and_dvclive_write_under_the_scratch_directory_and_change_nothing(base: Base, in_tmp: Path) -> None:
    write_train_workspace(in_tmp, base, max_steps=3, eval_steps=2, save_steps=2)
    (in_tmp / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (in_tmp / ".gitignore").write_text(".medcot/\nmodels/\n", encoding="utf-8")
    git("init", "-q")
    subprocess.run(["dvc", "init", "-q"], check=True)
    git("add", "-A")
    git("commit", "-qm", "start")
    hardware = train.choose_hardware()
    identity, params, model = base.identity(), TrainParams(), train.ModelParams()
    assert run_stage("train", train.main) == 0
    alone, metrics = weights(in_tmp), Path("metrics/train.json").read_bytes()
    parts = train.identify(params, model, hardware, identity, {}, "plain")
    os.environ["MEDCOT_REPORT_TO"] = "tensorboard,dvclive"
    assert train.identify(params, model, hardware, identity, {}, "plain") == parts
    assert run_stage("train", train.main) == 0
    assert (weights(in_tmp), Path("metrics/train.json").read_bytes()) == (alone, metrics)
    assert git("status", "--porcelain").split() == ["??", "metrics/"]
    assert (git("log", "--format=%s"), git("for-each-ref", "refs/exps")) == ("start\n", "")
    (events,) = Path(".medcot/trackers/tensorboard").iterdir()
    board = EventAccumulator(str(events)).Reload()
    assert [point.step for point in board.Scalars("train/loss")] == [1, 2, 3]
    assert {"train/learning_rate", "train/grad_norm", "eval/loss"} <= set(board.Tags()["scalars"])
    (live,) = Path(".medcot/trackers/dvclive").iterdir()
    assert live.name == events.name
    assert json.loads((live / "metrics.json").read_text(encoding="utf-8"))["eval"]["loss"] > 0
    assert (live / "plots/metrics/loss.tsv").read_text(encoding="utf-8").count("\n") == 4
