"""What makes two trainings the same run: everything that shapes the weights, and nothing that only shapes how they are computed.

A run resumes its own checkpoints alone. Each has a directory named by the hash of its parts, with the parts beside the checkpoints, so
that a run that starts fresh can say what has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medcot.checkpoints import checkpoint_steps
from medcot.errors import DataError
from medcot.records import canonical, short_hash
from medcot.train_params import TrainParams

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "liger-kernel", "triton")
# How the rows of a step are computed; what a step is stays in as rows_per_step.
EXECUTION = {"per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size", "gradient_checkpointing"}
PARTS = "run.json"
TRAINED = "trained"  # beside the checkpoints: what a run ended with whose inputs changed under it
ABANDONED_KEPT = 2
FUSED = Path(__file__).parent / "fused"
log = logging.getLogger("medcot")


def shaping_params(params: TrainParams) -> dict[str, Any]:
    """The params that shape the weights: batch and accumulation only as their product, recomputation not at all."""
    return {**params.model_dump(exclude=EXECUTION), "rows_per_step": params.rows_per_step}


def loaded_code() -> dict[str, Path]:
    """The source files of the project's modules that are loaded so far, by name; without the fused path's, which may not run."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith("medcot.") and not name.startswith("medcot.fused")}
    return {name: Path(str(module.__file__)) for name, module in modules.items()}


def fused_code() -> dict[str, Path]:
    """The source files of the fused path, by name; all of them, whichever were needed."""
    return {f"medcot.fused.{file.stem}": file for file in sorted(FUSED.glob("*.py"))}


def run_parts(sections: Mapping[str, Mapping[str, Any]], files: Mapping[str, Path], code: Mapping[str, Path]) -> dict[str, str]:
    """Everything that shapes a run, by the name a message gives it: values as JSON, files as sha256, libraries as versions."""
    parts = {f"{section}.{key}": canonical(value) for section, values in sections.items() for key, value in values.items()}
    parts |= {name: _sha256(path) for name, path in {**files, **code}.items()}
    return parts | {name: _version(name) for name in LIBRARIES}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def open_run(root: Path, parts: Mapping[str, str]) -> Path:
    """Make the directory of a run's checkpoints under root and return it.

    A run that has none says what differs from the one before it. Of the runs that nobody finished, the ABANDONED_KEPT most recent
    stay, and each other is removed with a line.
    """
    directory = root / short_hash(canonical(dict(parts)))
    others = sorted((path for path in root.glob("*") if path != directory and _is_run(path)), key=lambda path: -path.stat().st_mtime_ns)
    started = [path for path in others if _kept(path)]
    if started and not checkpoint_steps(directory):
        log.info("train: starts from the beginning; %s is of another run: %s", _kept(started[0]), _difference(started[0], parts))
    for path in [path for path in others if path not in started[:ABANDONED_KEPT]]:
        if path in started:
            log.warning("train: removed %s of a run that was not finished; the last %d are kept", _kept(path), ABANDONED_KEPT)
        shutil.rmtree(path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PARTS).write_text(json.dumps(dict(parts), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return directory


def _is_run(path: Path) -> bool:
    """Whether open_run made a directory, by its name: MEDCOT_SCRATCH may name a place where someone keeps checkpoints of their own."""
    return re.fullmatch("[0-9a-f]{16}", path.name) is not None and path.is_dir() and not path.is_symlink()


def _kept(run: Path) -> Path | None:
    """The furthest that a run has come, or None."""
    trained = [run / TRAINED] if (run / TRAINED).is_dir() else []
    return next(reversed([*checkpoint_steps(run).values(), *trained]), None)


def _difference(run: Path, parts: Mapping[str, str]) -> str:
    """Name up to five parts in which a run differs from these."""
    try:
        theirs = dict(json.loads((run / PARTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return "it does not say of which"
    return f"changed {_list(_changed(theirs, parts))}"


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _list(names: list[str]) -> str:
    return ", ".join([*names[:5], *([f"{len(names) - 5} more"] if len(names) > 5 else [])])


def check_unchanged(before: Mapping[str, str], look: Callable[[], Mapping[str, str]], run: Path, save: Callable[[Path], None]) -> None:
    """Refuse a result whose inputs changed while it was made: DVC hashes them after the run, and would record those it was not made from.

    before, look   the parts at the start, and how to see them now
    run, save      the run's directory, and how to write what was trained into a directory below it, so that nothing is lost
    Raises DataError.
    """
    try:
        changed = _changed(before, look())
    except DataError as error:  # such as params.yaml in the middle of an edit
        changed = [error.place]
    if changed:
        save(run / TRAINED)
        remedy = f"put it back and run again to go on from the last checkpoint, or train anew; the result is in {run / TRAINED}"
        raise DataError("train", f"{_list(changed)} changed while it ran", remedy)
