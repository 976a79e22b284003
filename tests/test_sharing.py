"""A teammate's clone: `dvc pull` brings every output, `dvc repro` runs nothing, and what is declared private never leaves.

Takes the outputs of the checkout's own last run, as `make repro` leaves them; skipped where there are none, but not in CI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

IDENTITY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "t"), ("EMAIL", "t@localhost"))}
# What README tells owners of private data to keep back.
PRIVATE = (
    "data/raw",
    "data/normalized",
    "data/dedup",
    "data/llamafactory",
    "data/evaluation/base",
    "data/evaluation/tuned",
    "models/adapter",
)
CACHE = ROOT / ".dvc/cache/files/md5"


def run(directory: Path, *command: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_"))} | IDENTITY
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
    return result.stdout


def dvc(directory: Path, *arguments: str) -> str:
    return run(directory, sys.executable, "-m", "dvc", *arguments)


def outputs() -> dict[str, str]:
    """Every cached out of the last run, path → hash."""
    lock: dict[str, Any] = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
    outs = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    return {path: md5 for path, md5 in outs.items() if not path.startswith("metrics/")}


def objects(md5: str) -> set[str]:
    """The hashes that an out stands for: its own, and those of its files when it is a directory."""
    content = (CACHE / md5[:2] / md5[2:]).read_text(encoding="utf-8") if md5.endswith(".dir") else "[]"
    return {md5, *(entry["md5"] for entry in json.loads(content))}


def stored(remote: Path) -> set[str]:
    """The hashes in a remote."""
    return {path.parent.name + path.name for path in (remote / "files/md5").glob("*/*")}


def configure(clone: Path, remote: Path, cache: Path | None = None) -> None:
    """Point a clone at a remote, and at a cache other than its own, in the file that Git ignores."""
    shared = f"[cache]\n    dir = {cache}\n" if cache else ""
    (clone / ".dvc/config.local").write_text(
        f"{shared}[core]\n    remote = team\n['remote \"team\"']\n    url = {remote}\n", encoding="utf-8"
    )


def unless_ci(reason: str) -> None:
    """Skip; but in CI, where `make repro` has just run, a stage that would run again is the very fault that is looked for."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree as it stands, with its outputs: mine, before I share it."""
    if not all((CACHE / md5[:2] / md5[2:]).is_file() for md5 in outputs().values()):
        unless_ci("the outputs of dvc.lock are not on this machine: run `make repro` first")
    clone = tmp_path_factory.mktemp("mine")
    for name in run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    configure(clone, clone.parent / "remote 远程", ROOT / ".dvc/cache")
    run(clone, "git", "init", "--quiet")
    run(clone, "git", "add", "--all")
    run(clone, "git", "commit", "--quiet", "--message", "My run")
    dvc(clone, "checkout", "--quiet")
    if json.loads(dvc(clone, "status", "--json")):
        unless_ci("the code has changed since the last run: run `make repro` first")
    return clone


def test_a_teammate_pulls_and_has_nothing_to_run(mine: Path, tmp_path: Path) -> None:
    dvc(mine, "push", "--quiet")
    theirs = tmp_path / "theirs"
    run(tmp_path, "git", "clone", "--quiet", str(mine), str(theirs))
    configure(theirs, mine.parent / "remote 远程")
    assert not any((theirs / path).exists() for path in outputs())
    dvc(theirs, "pull", "--quiet")
    assert all((theirs / path).exists() for path in outputs())
    said = dvc(theirs, "repro")
    assert "Running stage" not in said
    assert said.count("didn't change, skipping") == len(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    assert json.loads(dvc(theirs, "status", "--json")) == {}
    assert run(theirs, "git", "status", "--porcelain") == ""


def test_what_is_declared_private_never_reaches_the_remote(mine: Path) -> None:
    pipeline = yaml.safe_load((mine / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in pipeline["stages"].values():
        stage["outs"] = [{out: {"push": False}} if out in PRIVATE else out for out in stage["outs"]]
    (mine / "dvc.yaml").write_text(yaml.safe_dump(pipeline, allow_unicode=True, sort_keys=False), encoding="utf-8")
    remote = mine.parent / "public"
    configure(mine, remote, ROOT / ".dvc/cache")
    assert json.loads(dvc(mine, "status", "--json")) == {}, "the words `push: false` make no stage run again"
    dvc(mine, "push", "--quiet")
    public = set().union(*(objects(md5) for path, md5 in outputs().items() if path not in PRIVATE))
    private = set().union(*(objects(md5) for path, md5 in outputs().items() if path in PRIVATE))
    assert stored(remote) == public
    assert len(private - public) > 20


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_private_outs_are_those_that_the_readme_names(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = {f"`{path.removesuffix('/base').removesuffix('/tuned')}`" for path in PRIVATE}
    assert [path for path in sorted(paths) if path not in text] == []
    assert "push: false" in text
