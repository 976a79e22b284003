"""The workflow runs what the README tells a newcomer to run, with no more rights than it needs, and its summary says what changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

TEXT = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
# YAML 1.1 reads the key `on` as true.
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
(JOB,) = WORKFLOW["jobs"].values()
RUNS = [step["run"] for step in JOB["steps"] if "run" in step]


def test_it_runs_the_two_commands_of_the_readme_in_order_and_the_metrics_between() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        first = re.findall(r"^make (\w+) ", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)[:2]
        assert first == ["repro", "test"]
    makes = [run for run in RUNS if run.startswith("make")]
    assert makes == ["make repro TORCH=cpu", "make lint TORCH=cpu", "make test TORCH=cpu"]
    assert [run.split()[0] for run in RUNS] == ["make", ".ci/summary", "make", "make"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert {run.split()[1] for run in makes} <= set(targets)
    assert {run.split()[1] for run in makes} == set(re.findall(r"^make (\w+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), flags=re.M))


def test_the_matrix_is_every_python_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = JOB["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={pythons[0]}"
    classified = [name.rsplit(" ", 1)[1] for name in project["classifiers"] if name.startswith("Programming Language :: Python :: 3.")]
    assert pythons == classified == ["3.11", "3.12", "3.13"]


def test_it_may_read_and_nothing_else_and_is_given_no_secret() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOB
    assert "secrets." not in TEXT
    assert "pull_request_target" not in TEXT
    checkout = next(step for step in JOB["steps"] if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in JOB["steps"] if "uses" in step)
    assert not [run for run in RUNS if "${{" in run], "an expression in a script is an injection"


def test_a_run_that_hangs_or_is_overtaken_ends() -> None:
    assert JOB["timeout-minutes"] <= 60
    assert "github.ref" in WORKFLOW["concurrency"]["group"]


# ---- the summary


def git(project: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout.strip()


def write(project: Path, **values: Any) -> None:
    (project / "metrics/m.json").write_text(json.dumps(values), encoding="utf-8")


def summary(project: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [str(project / ".ci/summary"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one metrics file, with one commit."""
    directory = tmp_path_factory.mktemp("项目")
    for name in (".ci", ".dvc", "metrics"):
        (directory / name).mkdir()
    shutil.copy(ROOT / ".ci/summary", directory / ".ci/summary")
    (directory / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    (directory / "dvc.yaml").write_text("metrics: [metrics/m.json]\n", encoding="utf-8")
    write(directory, num_kept=10, adapter_hash="aa", all={"delta": {"nll": -0.1}, "base": {"nll": 2.00001}})
    git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "one")
    return directory


def test_the_summary_shows_the_counts_and_losses_that_changed_and_folds_the_rest(project: Path) -> None:
    write(project, num_kept=12, adapter_hash="bb", all={"delta": {"nll": -0.25}, "base": {"nll": 2.00002}})
    base = git(project, "rev-parse", "HEAD")
    shown, folded = summary(project, base).split("<details>")
    rows = {cells[1]: cells[2:5] for line in shown.splitlines() if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5}
    assert shown.startswith(f"## Metrics against {base[:12]}\n\n| Path ")
    assert {key: rows[key] for key in rows if "." in key or "_" in key} == {
        "num_kept": ["10", "12", "2"],
        "all.delta.nll": ["-0.1", "-0.25", "-0.15"],
    }
    assert folded.startswith("<summary>Everything that changed: 3</summary>\n\n| Path ")
    assert "| adapter_hash " in folded
    assert "base.nll" not in folded, "the same to four decimals"


def test_nothing_that_changed_is_one_line(project: Path) -> None:
    git(project, "checkout", "--quiet", "--", "metrics")
    assert summary(project, "HEAD").endswith("\n\nThe same to four decimals.\n")


def test_a_first_commit_has_nothing_to_be_compared_with(project: Path) -> None:
    assert summary(project, "0" * 40) == "No earlier commit to compare the metrics with.\n"


def test_a_commit_that_is_gone_gives_way_to_the_one_before(project: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    write(project, num_kept=13, adapter_hash="aa", all={"delta": {"nll": -0.1}, "base": {"nll": 2.00001}})
    git(project, "commit", "--quiet", "--all", "--message", "two")
    assert summary(project, "0" * 40).startswith(f"## Metrics against {first[:12]}\n")
