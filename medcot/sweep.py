"""A sweep: the runs of a small YAML file as DVC experiments, one after the other, here or in DVC's queue.

DVC's own `-S key=1,2` makes every combination of values; a sweep names the runs that are wanted. What runs share, DVC's run-cache
runs once: the data stages, and each base with its arm of the evaluation.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from medcot.errors import DataError, MachineError, TrainingError
from medcot.params import PARAMS_FILE, Params, parse_section, read_params

Value = bool | int | float | str
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # what Git takes in a ref and a shell without quotes
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # a text that -S reads as it stands
DELTA = r"metrics/evaluate\.json:all\.delta\.(nll|ci_low|ci_high)|all\.delta\.(nll|ci_low|ci_high)"
# Params that name files which Git ignores, and their values that name none: a queue's copy of the repository has only tracked files.
UNTRACKED = {"download.source": ("sample", "hub"), "base.source": ("demo", "hub"), "train.adapter": ("",)}
STOP_SECONDS = 30.0  # what a stage has to write a checkpoint
log = logging.getLogger("medcot")


class Sweep(Params):
    """A file of runs."""

    params: str = ""
    """The recipe that params.yaml must be a copy of, but for the keys that are set here; empty = any."""
    common: dict[str, Value] = Field(default_factory=dict)
    """Params of every run, as `section.key: value`."""
    runs: dict[str, dict[str, Value]] = Field(min_length=1)
    """Name of the experiment: its params, as `section.key: value`. Every run sets the same keys, so that none inherits from the last."""

    @property
    def keys(self) -> list[str]:
        """The params that the runs set, the common ones left out."""
        return list(next(iter(self.runs.values())))

    def values(self, name: str) -> dict[str, Value]:
        """All params of one run."""
        return {**self.common, **self.runs[name]}


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises DataError when it is not one, a name is none, or the runs set different keys.
    """
    sweep = parse_section("sweep", read_params(path), Sweep, place=str(path))
    for name, values in sweep.runs.items():
        if not NAME.fullmatch(name) or ".." in name or name.endswith(".lock"):
            raise DataError(f"{path}: runs", "not a name for an experiment", "use letters, digits, dots and hyphens", got=name)
        if values.keys() != set(sweep.keys):
            other = sorted(values.keys() ^ set(sweep.keys))
            raise DataError(f"{path}: runs.{name}", "the runs set different keys", "give each key in every run", got=", ".join(other))
        for key, value in sweep.values(name).items():
            # DVC would put in what ${oc.env:…} names, an access token perhaps, and commit it with the experiment.
            if isinstance(value, str) and ("${" in value or "\0" in value):
                raise DataError(f"{path}: runs.{name}.{key}", "`${` and NUL cannot be given to DVC", "write the value itself", got=value)
    return sweep


def check_params(sweep: Sweep, place: str, params: Path = PARAMS_FILE) -> None:
    """Compare a sweep with params.yaml: it sets keys that are there, to values of their type, and the rest is its recipe's.

    Raises DataError.
    """
    ours = dict(_flatten(read_params(params)))
    for name in sweep.runs:
        for key, value in sweep.values(name).items():
            if key not in ours:
                raise DataError(f"{place}: runs.{name}", f"{params} has no such key", "write section.key as it stands there", got=key)
            allowed = (int, float) if isinstance(ours[key], float) else (type(ours[key]),)
            if type(value) not in allowed:
                cause = f"not of the type that {params} has ({json.dumps(ours[key], ensure_ascii=False)})"
                raise DataError(f"{place}: runs.{name}.{key}", cause, "correct the value", got=value)
    if not sweep.params:
        return
    theirs, swept = dict(_flatten(read_params(Path(sweep.params)))), {*sweep.common, *sweep.keys}
    other = [key for key in sorted(ours.keys() | theirs.keys()) if key not in swept and ours.get(key) != theirs.get(key)]
    if other:
        remedy = f"`cp {sweep.params} {params}` and commit it, or take `params` out of {place} to sweep over your own"
        raise DataError(str(params), f"not a copy of {sweep.params}", remedy, got=f"another {', '.join(other)}")


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_queue(sweep: Sweep, params: Path = PARAMS_FILE) -> None:
    """Refuse a queue whose copies of the repository would not hold what this workspace holds.

    Raises DataError for changes that are not committed, and for input files that Git ignores.
    """
    changed = run_quietly("git", "status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        remedy = "commit them first, or sweep without --queue: a queue works on copies of what Git tracks"
        raise DataError("git", "changes that are not committed", remedy, got=", ".join(line[3:] for line in changed))
    ours = dict(_flatten(read_params(params)))
    for name in sweep.runs:
        values = {**ours, **sweep.values(name)}
        for key, tracked in UNTRACKED.items():
            if key in values and values[key] not in tracked:
                cause = "a queue works on copies of what Git tracks, and this names files that Git ignores"
                raise DataError(f"{params}: {key}", cause, "sweep without --queue", got=values[key])


def run_command(name: str, values: dict[str, Value], queue: bool = False) -> list[str]:
    """The command of one experiment."""
    pairs = [word for key, value in values.items() for word in ("-S", f"{key}={_hydra(value)}")]
    return ["dvc", "exp", "run", *(["--queue"] if queue else []), "-n", name, *pairs]


def _hydra(value: Value) -> str:
    """A value as DVC's -S reads it; a text that might be read as something else, such as a hash that begins with digits, in quotes."""
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null", "inf", "nan"):
        return value
    # Hydra takes a backslash literally, but for those before a quote.
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), value) + '"'


def commands(sweep: Sweep, names: Sequence[str], queue: bool, form: str) -> list[list[str]]:
    """Every command of a sweep in order: its runs, the start of the queue, the table."""
    runs = [run_command(name, sweep.values(name), queue) for name in names]
    start = [["dvc", "exp", "run", "--run-all", "--jobs", "1"]] if queue and names else []  # more at once race, and a GPU holds one
    shown = [re.escape(key) for key in sweep.keys if not key.endswith(".revision")]  # a hash that says no more than the name beside it
    keep = "|".join(["Experiment", *shown, DELTA])
    return [*runs, *start, ["dvc", "exp", "show", f"--{form}", "--hide-workspace", "--drop", ".*", "--keep", f"^({keep})$"]]


def finished(sweep: Sweep) -> list[str]:
    """The runs of a sweep that exist as experiments of the present commit."""
    existing = set(run_quietly("dvc", "exp", "list", "--name-only").split())
    return [name for name in sweep.runs if name in existing]


def check_finished(sweep: Sweep, place: str, names: Sequence[str]) -> None:
    """Refuse an experiment that has the name of a run and other values: it would stand in the table in that run's place.

    Raises DataError.
    """
    head = run_quietly("git", "rev-parse", "HEAD").strip()
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / PARAMS_FILE.name
        for name in names:
            ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"  # where DVC keeps the experiments of a commit
            copy.write_text(run_quietly("git", "show", f"{ref}:./{PARAMS_FILE}"), encoding="utf-8")
            theirs = dict(_flatten(read_params(copy)))
            other = [f"{key}={theirs.get(key)}" for key, value in sweep.values(name).items() if theirs.get(key) != value]
            if other:
                cause, remedy = "an experiment of this name ran with other values", f"`dvc exp remove {name}`, or give the run another name"
                raise DataError(f"{place}: runs.{name}", cause, remedy, got=", ".join(other))


def run_sweep(sweep: Sweep, place: str, queue: bool, form: str) -> None:
    """Run what is not there yet, go on after a run that fails, and end with the table.

    Raises TrainingError naming the runs that did not become experiments, and what check_finished does.
    """
    done = finished(sweep)
    if done:
        check_finished(sweep, place, done)
        log.info("sweep: there already, so not run again: %s (`dvc exp remove NAME` forgets one)", ", ".join(done))
    for command in commands(sweep, [name for name in sweep.runs if name not in done], queue, form):
        log.info("$ %s", shlex.join(command))
        run_loudly(command)
    failed = [name for name in sweep.runs if name not in finished(sweep)]
    if failed:
        remedy = "see their errors above, then give the same command again: only they will run"
        raise TrainingError("sweep", f"{len(failed)} of {len(sweep.runs)} runs failed", remedy, got=", ".join(failed))


def run_loudly(command: Sequence[str]) -> int:
    """Run a command with its output going where ours goes; returns its exit code. What stops us stops the command first."""
    with subprocess.Popen([find(command[0]), *command[1:]]) as child:
        try:
            return child.wait()
        except BaseException as stopped:
            _stop(child, told=isinstance(stopped, KeyboardInterrupt))  # Ctrl-C at a terminal has reached the child too
            raise


def _stop(child: subprocess.Popen[bytes], told: bool) -> None:
    """Let DVC and its stage end by themselves, so that they release their locks; kill DVC when it does not.

    DVC waits for its stage, and releases its locks when that ends; a SIGTERM would end DVC on the spot and leave the stage running.
    """
    if not told:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            for process in psutil.Process(child.pid).children(recursive=True):
                process.terminate()
            child.send_signal(signal.SIGINT)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def run_quietly(*command: str) -> str:
    """Run a command and return its output; raises MachineError when it fails."""
    result = subprocess.run([find(command[0]), *command[1:]], capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip() or "no message").splitlines()[-1]
        raise MachineError(shlex.join(command), "the command failed", "run it in the root of a clone of medcot", got=last)
    return result.stdout


def find(program: str) -> str:
    """The path of a program; raises MachineError when it is not installed."""
    path = shutil.which(program)
    if not path:
        raise MachineError(program, "no such program on PATH", "`source .venv/bin/activate`, or install it")
    return path
