"""medcot sweep: the commands it gives DVC, what it refuses, what it does not run twice, and one sweep under DVC itself."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from medcot import stage
from medcot.cli import main
from medcot.errors import DataError
from medcot.params import read_params
from medcot.sweep import check_params, check_queue, commands, read_sweep, run_command

PARAMS = {
    "download": {"source": "sample", "file": ""},
    "base": {"source": "demo", "repo": "", "steps": 3},
    "train": {"learning_rate": 0.1, "max_steps": 5, "adapter": "", "use_dora": False},
}
RUNS = {"small": {"base.steps": 1, "train.learning_rate": 5e-6}, "large": {"base.steps": 2, "train.learning_rate": 0.1}}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def project(in_tmp: Path) -> Path:
    write(in_tmp / "params.yaml", PARAMS)
    write(in_tmp / "sweep.yaml", {"common": {"train.max_steps": 2}, "runs": RUNS})
    return in_tmp


def fake(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def own(values: dict[str, Any], section: str) -> dict[str, Any]:
    """What a run sets in a section."""
    return {key.removeprefix(f"{section}."): value for key, value in values.items() if key.startswith(f"{section}.")}


@pytest.fixture
def dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for DVC: `calls` gets its arguments, `there` holds the experiments; a run named in `broken` fails."""
    (project / "there").touch()
    (project / "broken").touch()
    record = """
echo "$@" >> calls
case "$2 $3" in
"list --name-only") cat there ;;
"run --run-all") cat queued >> there 2>/dev/null ;;
"run --queue") grep -qx "$5" broken || echo "$5" >> queued ;;
"run -n") if grep -qx "$4" broken; then exit 255; else echo "$4" >> there; fi ;;
esac"""
    (project / "bin").mkdir()
    fake(project / "bin", "dvc", record)
    fake(project / "bin", "git", 'case "$1" in rev-parse) echo abcdef ;; show) cat "params of ${2#refs/exps/ab/cdef/}" ;; esac')
    for name, values in RUNS.items():
        base, train = ({**PARAMS[section], **own(values, section)} for section in ("base", "train"))
        write(project / f"params of {name}:." / "params.yaml", {**PARAMS, "base": base, "train": {**train, "max_steps": 2}})
    monkeypatch.setenv("PATH", f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return project


def calls(directory: Path) -> list[str]:
    return [line for line in (directory / "calls").read_text(encoding="utf-8").splitlines() if " list " not in line]


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def test_a_dry_run_prints_the_commands_of_the_eight_versions_whatever_params_yaml_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["sweep", "recipes/sweeps/eight_versions.yaml", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "dvc exp run -n v1-1.5b -S base.repo=deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B "
        "-S base.revision=ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562 "
        "-S train.learning_rate=0.0002 -S train.max_steps=60 -S train.gradient_accumulation_steps=16"
    )
    assert lines[2].endswith("-S train.learning_rate=3e-06 -S train.max_steps=30 -S train.gradient_accumulation_steps=4")
    assert [shlex.split(line)[4] for line in lines[:-1]] == ["v1-1.5b", "v5-7b", "v7-7b", "v6-14b", "v8-14b"]
    assert lines[-1].startswith("dvc exp show --md --hide-workspace --drop '.*' --keep ")


def test_the_queue_is_filled_and_then_run_one_at_a_time(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep.yaml", "--queue", "--csv", "--dry-run"]) == 0
    first, second, start, table = capsys.readouterr().out.splitlines()
    assert first == "dvc exp run --queue -n small -S train.max_steps=2 -S base.steps=1 -S train.learning_rate=5e-06"
    assert second == "dvc exp run --queue -n large -S train.max_steps=2 -S base.steps=2 -S train.learning_rate=0.1"
    assert start == "dvc exp run --run-all --jobs 1"
    assert table.startswith("dvc exp show --csv ")


def test_the_table_keeps_the_name_the_swept_params_and_the_paired_difference(project: Path) -> None:
    write(project / "sweep.yaml", {"runs": {"a": {"base.repo": "x/y", "base.revision": "f", "train.learning_rate": 0.1}}})
    pattern = re.compile(commands(read_sweep(Path("sweep.yaml")), ["a"], False, "md")[-1][-1])
    shown = [
        "Experiment",
        "base.repo",
        "train.learning_rate",
        "all.delta.nll",
        "all.delta.ci_low",
        "metrics/evaluate.json:all.delta.ci_high",
    ]
    assert [name for name in shown if not pattern.match(name)] == []
    hidden = ["base.revision", "train.max_steps", "all.delta.nll_se", "all.base.nll", "trainXlearning_rate", "reasoning.delta.nll"]
    assert [name for name in hidden if pattern.match(name)] == []


def test_dvc_reads_every_kind_of_value_as_it_was_meant(in_tmp: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    values = {
        "rate": 5e-6,
        "tiny": 1e-4,
        "steps": 60,
        "tied": True,
        "cut": False,
        "repo": "Qwen/Qwen3-1.7B",
        "hash": "1df8507178",
        "empty": "",
    }
    values |= {
        "digits": "12345e67",
        "word": "true",
        "system": '你是"医生"：先想, 再答 = {x} \\ [y]',
        "english": "It's 5 mg",
        "negative": -3,
    }
    write(in_tmp / "params.yaml", {"a": dict.fromkeys(values, 0)})
    words = run_command("n", {f"a.{key}": value for key, value in values.items()})
    apply_overrides(in_tmp / "params.yaml", [word for word in words if word.startswith("a.")])
    found = read_params(in_tmp / "params.yaml")["a"]
    assert found == values
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in values.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"runs": {}}, "sweep.runs: dictionary should have at least 1 item"),
        ({"runs": {"一号": {"train.max_steps": 1}}}, "runs: not a name for an experiment, got 一号; use letters, digits, dots and hyphens"),
        ({"runs": {"a..b": {"train.max_steps": 1}}}, "runs: not a name for an experiment, got a..b;"),
        ({"runs": {"a.lock": {"train.max_steps": 1}}}, "runs: not a name for an experiment, got a.lock;"),
        (
            {"runs": {"a": {"train.max_steps": 1}, "b": {"train.max_steps": 1, "base.steps": 2}}},
            "runs.b: the runs set different keys, got base.steps; give each key in every run",
        ),
        (
            {"runs": {"a": {"model.system": "${oc.env:HF_TOKEN}"}}},
            "runs.a.model.system: `${` and NUL cannot be given to DVC, got ${oc.env:HF_TOKEN}; write the value itself",
        ),
        ({"common": {"model.system": "a\0b"}, "runs": {"a": {}}}, "runs.a.model.system: `${` and NUL cannot be given to DVC, got a\\x00b"),
        ({"run": {}}, "sweep.run: unknown key, got {}; did you mean `runs`?"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(project: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str) -> None:
    write(project / "sweep.yaml", content)
    assert main(["sweep", "sweep.yaml", "--dry-run"]) == 2
    assert error(capsys).startswith(f"error: sweep.yaml: {message}")


def test_a_sweep_file_that_is_missing_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "nowhere.yaml"]) == 2
    assert error(capsys).startswith("error: nowhere.yaml: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.learning_rat", 0.1, "runs.a: params.yaml has no such key, got train.learning_rat; write section.key as it stands there"),
        ("train.max_steps", 1.5, "runs.a.train.max_steps: not of the type that params.yaml has (5), got 1.5; correct the value"),
        ("train.max_steps", True, "runs.a.train.max_steps: not of the type that params.yaml has (5), got True; correct the value"),
        ("train.learning_rate", "高", "runs.a.train.learning_rate: not of the type that params.yaml has (0.1), got 高; correct the value"),
    ],
)
def test_a_key_or_a_value_that_params_yaml_does_not_take_is_refused(project: Path, key: str, value: Any, message: str) -> None:
    write(project / "sweep.yaml", {"runs": {"a": {key: value}}})
    with pytest.raises(DataError) as caught:
        check_params(read_sweep(Path("sweep.yaml")), "sweep.yaml")
    assert str(caught.value) == f"sweep.yaml: {message}"


def test_a_whole_number_is_a_value_for_a_param_with_a_fraction(project: Path) -> None:
    write(project / "sweep.yaml", {"runs": {"a": {"train.learning_rate": 1}}})
    check_params(read_sweep(Path("sweep.yaml")), "sweep.yaml")


def test_params_yaml_must_be_the_recipe_but_for_what_is_swept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {**PARAMS, "base": {**PARAMS["base"], "steps": 99}}
    write(project / "recipe.yaml", recipe)
    write(project / "sweep.yaml", {"params": "recipe.yaml", "runs": RUNS})
    check_params(read_sweep(Path("sweep.yaml")), "sweep.yaml")
    write(project / "recipe.yaml", {**recipe, "train": {**PARAMS["train"], "max_steps": 7}})
    assert main(["sweep", "sweep.yaml"]) == 2
    assert error(capsys) == (
        "error: params.yaml: not a copy of recipe.yaml, got another train.max_steps; "
        "`cp recipe.yaml params.yaml` and commit it, or take `params` out of sweep.yaml to sweep over your own"
    )


def test_runs_go_to_dvc_in_order_and_the_table_comes_last(dvc: Path) -> None:
    assert main(["sweep", "sweep.yaml"]) == 0
    assert [line.split(" -S ")[0].split(" --drop")[0] for line in calls(dvc)] == [
        "exp run -n small",
        "exp run -n large",
        "exp show --md --hide-workspace",
    ]


def test_a_second_sweep_beside_the_first_is_refused(dvc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LOCK_SECONDS", 0)
    with stage.stage_lock("sweep"):
        assert main(["sweep", "sweep.yaml"]) == 3
    assert "another process is running stage sweep" in error(capsys)
    assert not (dvc / "calls").exists(), "nothing was asked of DVC"


SLOW_DVC = """
import os, signal, subprocess, sys
if sys.argv[2] == "run":
    stage = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: 1 // 0); print('started', flush=True); time.sleep(60)"
    with open("log", "a") as log:
        child = subprocess.Popen([sys.executable, "-c", stage], stdout=log, stderr=subprocess.DEVNULL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does while a stage runs
        child.wait()
        print("stage ended, so does dvc", file=log)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_stops_its_run_first_and_releases_its_lock(dvc: Path, sent: signal.Signals) -> None:
    (dvc / "bin" / "dvc").write_text(f"#!{sys.executable}\n{SLOW_DVC}", encoding="utf-8")
    # The environment that `make` builds puts its own programs first as Python starts, so PATH is set after that.
    start = "import os, sys; os.environ['PATH'] = sys.argv.pop(); from medcot.cli import main; raise SystemExit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "sweep", "sweep.yaml", os.environ["PATH"]]
    # A group of its own, to which a Ctrl-C goes as from a terminal.
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, process_group=0
    ) as sweep:
        while not ((dvc / "log").exists() and (dvc / "log").read_text(encoding="utf-8")):
            assert sweep.poll() is None
            time.sleep(0.02)
        if sent == signal.SIGINT:
            os.killpg(sweep.pid, sent)
        else:
            sweep.send_signal(sent)
        assert sweep.stderr
        message = sweep.stderr.read().splitlines()[-1]
    assert (sweep.returncode, message) == {
        signal.SIGTERM: (143, "error: medcot: terminated; run the same command again to resume"),
        signal.SIGINT: (130, "error: medcot: interrupted; run the same command again to resume"),
    }[sent]
    assert (dvc / "log").read_text(encoding="utf-8").splitlines() == ["started", "stage ended, so does dvc"], "and no second run"
    with stage.stage_lock("sweep"):
        pass


def test_the_queue_goes_to_dvc_in_order(dvc: Path) -> None:
    assert main(["sweep", "sweep.yaml", "--queue"]) == 0
    assert [line.split(" -S ")[0].split(" --drop")[0] for line in calls(dvc)] == [
        "exp run --queue -n small",
        "exp run --queue -n large",
        "exp run --run-all --jobs 1",
        "exp show --md --hide-workspace",
    ]


@pytest.mark.parametrize("options", [[], ["--queue"]])
def test_what_is_there_is_not_run_again(dvc: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert main(["sweep", "sweep.yaml", *options]) == 0
    (dvc / "calls").unlink()
    capsys.readouterr()
    assert main(["sweep", "sweep.yaml", *options]) == 0
    assert [line.split(" --drop")[0] for line in calls(dvc)] == ["exp show --md --hide-workspace"]
    assert "there already, so not run again: small, large" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--queue"]])
def test_an_experiment_of_the_same_name_with_other_values_is_not_taken_for_the_run(
    dvc: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["sweep", "sweep.yaml", *options]) == 0
    write(dvc / "sweep.yaml", {"common": {"train.max_steps": 2}, "runs": {**RUNS, "small": {"base.steps": 1, "train.learning_rate": 0.07}}})
    (dvc / "calls").unlink()
    assert main(["sweep", "sweep.yaml", *options]) == 2
    assert calls(dvc) == []
    assert error(capsys) == (
        "error: sweep.yaml: runs.small: an experiment of this name ran with other values, got train.learning_rate=5e-06; "
        "`dvc exp remove small`, or give the run another name"
    )


@pytest.mark.parametrize("options", [[], ["--queue"]])
def test_a_run_that_fails_does_not_stop_the_others_and_is_named(dvc: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    (dvc / "broken").write_text("small\n", encoding="utf-8")
    assert main(["sweep", "sweep.yaml", *options]) == 4
    assert (dvc / "there").read_text(encoding="utf-8") == "large\n"
    assert error(capsys) == (
        "error: sweep: 1 of 2 runs failed, got small; see their errors above, then give the same command again: only they will run"
    )


def test_a_queue_is_refused_while_changes_are_not_committed(dvc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(dvc / "bin", "git", "echo ' M params.yaml'; echo ' M dvc.lock'")
    assert main(["sweep", "sweep.yaml", "--queue"]) == 2
    assert error(capsys) == (
        "error: git: changes that are not committed, got params.yaml, dvc.lock; "
        "commit them first, or sweep without --queue: a queue works on copies of what Git tracks"
    )
    assert main(["sweep", "sweep.yaml"]) == 0


@pytest.mark.parametrize(
    ("section", "key", "value"), [("download", "source", "file"), ("base", "source", "local"), ("train", "adapter", "ours")]
)
def test_a_queue_is_refused_for_files_that_git_ignores(dvc: Path, section: str, key: str, value: str) -> None:
    write(dvc / "params.yaml", {**PARAMS, section: {**PARAMS[section], key: value}})
    with pytest.raises(
        DataError, match=rf"^params\.yaml: {section}\.{key}: a queue works on copies .*, got {value}; sweep without --queue$"
    ):
        check_queue(read_sweep(Path("sweep.yaml")))


def test_a_run_that_sets_a_tracked_source_may_be_queued(dvc: Path) -> None:
    write(dvc / "params.yaml", {**PARAMS, "download": {"source": "file", "file": "病例.jsonl"}})
    write(dvc / "sweep.yaml", {"common": {"download.source": "sample"}, "runs": RUNS})
    check_queue(read_sweep(Path("sweep.yaml")))


def test_no_dvc_and_no_repository_are_machine_errors(
    dvc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(dvc / "bin", "dvc", "echo 'ERROR: you are not inside of a DVC repository' >&2; exit 253")
    assert main(["sweep", "sweep.yaml"]) == 3
    assert error(capsys) == (
        "error: dvc exp list --name-only: the command failed, got ERROR: you are not inside of a DVC repository; "
        "run it in the root of a clone of medcot"
    )
    monkeypatch.setenv("PATH", str(dvc / "empty"))
    assert main(["sweep", "sweep.yaml"]) == 3
    assert error(capsys) == "error: dvc: no such program on PATH; `source .venv/bin/activate`, or install it"


PIPELINE = {
    "stages": {
        "data": {"cmd": "echo x > data.txt && echo data >> $LOG", "outs": ["data.txt"]},
        "base": {"cmd": "echo b > base.txt && echo base >> $LOG", "deps": ["data.txt"], "params": ["base"], "outs": ["base.txt"]},
        "train": {
            "cmd": "cp params.yaml train.txt && echo train >> $LOG",
            "deps": ["base.txt"],
            "params": ["train"],
            "outs": ["train.txt"],
        },
    }
}


@pytest.mark.slow
def test_under_dvc_itself_runs_share_what_they_have_in_common(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data and base once, train once a run; benchmarks/sweep.py does the same with the real stages, and through the queue."""
    runs = {name: {**values, "base.steps": 1} for name, values in RUNS.items()}
    write(project / "sweep.yaml", {"runs": runs})
    write(project / "dvc.yaml", PIPELINE)
    log = project.parent / f"{project.name}.log"
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for variable in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(variable, "test@localhost")
    for command in ("git init -q", "dvc init -q", "git add .", "git commit -qm start"):
        subprocess.run(command.split(), check=True)
    assert main(["sweep", "sweep.yaml"]) == 0
    assert log.read_text(encoding="utf-8").split() == ["data", "base", "train", "train"]
    assert read_params(project / "train.txt")["train"]["learning_rate"] == 0.1
    runs["small"]["train.learning_rate"] = 0.07
    write(project / "sweep.yaml", {"runs": runs})
    assert main(["sweep", "sweep.yaml"]) == 2
    assert "runs.small: an experiment of this name ran with other values, got train.learning_rate=5e-06;" in error(capsys)
