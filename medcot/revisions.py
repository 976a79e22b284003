"""What a revision of the repository recorded about its data: the ledger, and what it was made with.

dvc.lock names both: the hash under which DVC's cache holds the ledger, and for each stage the params, code and inputs of the run that
made it. So no revision has to be checked out, and the params compared are those that ran, not those that were edited since.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

from medcot.errors import DataError, MachineError
from medcot.ledger import SCHEMA, STAGES
from medcot.lookup import LEDGER, read_ledger
from medcot.sweep import run_quietly

WORKSPACE = "workspace"
LOCK, DOWNLOAD_METRICS = Path("dvc.lock"), Path("metrics/download.json")
Kind = Literal["param", "code", "input"]
Made = dict[tuple[Kind, str], Any]  # a kind and a name → the value of a param, the hash of a file


@dataclass(frozen=True)
class Revision:
    """One revision's ledger and, stage by stage, what made it.

    made_with  stage → {(kind, name): value}; empty when the workspace's ledger is not the one that dvc.lock describes
    """

    name: str
    ledger: pl.DataFrame = field(repr=False)
    made_with: dict[str, Made] = field(repr=False)


@dataclass(frozen=True, order=True)
class Change:
    """One thing that a stage was run with in one revision and not in the other."""

    stage: str
    kind: Kind
    name: str
    before: Any = field(default=None, compare=False)
    after: Any = field(default=None, compare=False)


def read_revision(name: str) -> Revision:
    """Read a Git revision, a DVC experiment or the workspace.

    Raises DataError for one that is not there or recorded no ledger, MachineError when its ledger is not in DVC's cache.
    """
    if name == WORKSPACE:
        return _read_workspace()
    commit = _find_commit(name)
    lock = _show(commit, LOCK)
    recorded = _parse_lock(lock.decode(), f"{name}:{LOCK}") if lock else {}
    md5 = _ledger_hash(recorded)
    if md5 is None:
        remedy = "choose one whose pipeline has run and was committed with its dvc.lock"
        raise DataError("medcot ledger diff", f"{LOCK} names no ledger at this revision", remedy, got=name)
    return Revision(name, _read_cached(name, md5), _made_with(recorded, _show(commit, DOWNLOAD_METRICS)))


def compare(a: Revision, b: Revision) -> list[Change] | None:
    """Everything that the stages were run with and that differs, in the order of the stages; None when one is not recorded.

    A stage's code is one change, named by its modules; an input that its source did not use is none.
    """
    if not a.made_with or not b.made_with:
        return None
    changes = []
    for stage in STAGES:
        ours, theirs = a.made_with.get(stage, {}), b.made_with.get(stage, {})
        differ = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        code = [name for kind, name in differ if kind == "code"]
        changes += [Change(stage, "code", ", ".join(code))] if code else []
        changes += [
            Change(stage, kind, name, ours.get((kind, name)), theirs.get((kind, name)))
            for kind, name in differ
            if kind != "code" and _was_used(name, (ours, theirs))
        ]
    return changes


def _was_used(name: str, made: Sequence[Made]) -> bool:
    """Whether a run read this input: download names the inputs of all its sources."""
    source = {"data/import": "file", "data/sample/records.jsonl": "sample"}.get(name)
    return source is None or source in [each.get(("param", "download.source")) for each in made]


def _read_workspace() -> Revision:
    ledger = read_ledger().collect()
    recorded = _parse_lock(LOCK.read_text(encoding="utf-8"), str(LOCK)) if LOCK.exists() else {}
    if _ledger_hash(recorded) != hashlib.md5(LEDGER.read_bytes(), usedforsecurity=False).hexdigest():
        return Revision(WORKSPACE, ledger, {})
    metrics = DOWNLOAD_METRICS.read_bytes() if DOWNLOAD_METRICS.exists() else None
    return Revision(WORKSPACE, ledger, _made_with(recorded, metrics))


def _find_commit(name: str) -> str:
    """The commit of a Git revision, else of a DVC experiment of that name."""
    if name.startswith("-"):
        raise DataError("medcot ledger diff", "not a revision", "give a commit, branch, tag or experiment", got=name)
    try:
        return run_quietly("git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except MachineError:
        pass  # no revision of Git's; an experiment has a ref of DVC's own: refs/exps/ab/cdef…/name
    refs = [line.split() for line in run_quietly("git", "for-each-ref", "refs/exps", "--format=%(objectname) %(refname)").splitlines()]
    found = [commit for commit, ref in refs if ref.count("/") == 4 and ref.rpartition("/")[2] == name]
    if len(found) != 1:
        cause = "several experiments have this name" if found else "no such revision or experiment"
        remedy = (
            f"give one of their commits: {', '.join(commit[:10] for commit in found)}" if found else "see `git log` and `dvc exp list -A`"
        )
        raise DataError("medcot ledger diff", cause, remedy, got=name)
    return found[0]


def _show(commit: str, path: Path) -> bytes | None:
    """A file as a commit has it; None where it has none."""
    if not run_quietly("git", "ls-tree", commit, f"./{path}"):
        return None
    return run_quietly("git", "show", f"{commit}:./{path}").encode()


def _parse_lock(text: str, place: str) -> dict[str, Any]:
    try:
        stages = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        return {str(name): dict(stage) for name, stage in stages.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise DataError(place, "not a lock file of DVC", "`git checkout dvc.lock`, or `dvc repro`") from None


def _ledger_hash(recorded: dict[str, Any]) -> str | None:
    outs = recorded.get("convert", {}).get("outs", [])
    return next((str(out["md5"]) for out in outs if out.get("path") == LEDGER.as_posix()), None)


def _read_cached(name: str, md5: str) -> pl.DataFrame:
    path = _cache_dir(Path.cwd()) / "files" / "md5" / md5[:2] / md5[2:]
    if not path.is_file():
        remedy = f"`dvc fetch -A {LEDGER}` fetches it from your remote; else check the revision out and `dvc repro convert`"
        raise MachineError("medcot ledger diff", "the ledger of this revision is not in DVC's cache", remedy, got=name)
    try:
        frame = pl.read_parquet(io.BytesIO(path.read_bytes()))
        return frame.select(list(SCHEMA))
    except pl.exceptions.PolarsError as error:
        raise DataError("medcot ledger diff", f"the ledger of {name} is damaged", "`dvc fetch` it again", got=str(error)) from None


@cache
def _cache_dir(root: Path) -> Path:
    """DVC's cache of the repository in a directory; asked once, since DVC takes a second to start."""
    return root / run_quietly("dvc", "cache", "dir").strip()


def _made_with(recorded: dict[str, Any], metrics: bytes | None) -> dict[str, Made]:
    """What each data stage was run with, but for the outputs of the stages before it: those change only if something else does."""
    outs = {out["path"] for stage in STAGES for out in recorded.get(stage, {}).get("outs", [])}
    made: dict[str, Made] = {}
    for stage in STAGES:
        entry = recorded.get(stage, {})
        params = [item for values in entry.get("params", {}).values() for item in _leaves(values)]
        values: Made = {("param", name): value for name, value in params}
        for dep in entry.get("deps", []):
            if dep["path"] not in outs:
                values["code" if dep["path"].endswith(".py") else "input", dep["path"]] = dep.get("md5")
        made[stage] = values
    for name, value in _leaves(json.loads(metrics).get("hub", {}) if metrics else {}, "hub."):
        made["download"]["input", name] = value  # a branch of a hub moves, and its param stays
    return made


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
