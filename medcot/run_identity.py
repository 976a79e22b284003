"""What makes two trainings the same run: everything that shapes the weights, and nothing that only shapes how they are computed.

A run resumes its own checkpoints alone. Each has a directory named by the hash of its parts, with the parts beside the checkpoints, so
that a run that starts fresh can say what has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medcot.checkpoints import checkpoint_steps
from medcot.records import canonical, short_hash
from medcot.train_params import TrainParams

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "liger-kernel", "triton")
# How the rows of a step are computed; what a step is stays in as rows_per_step.
EXECUTION = {"per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size", "gradient_checkpointing"}
PARTS = "run.json"
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
    parts |= {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in {**files, **code}.items()}
    return parts | {name: _version(name) for name in LIBRARIES}


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
    others = sorted((path for path in root.glob("*") if path != directory and path.is_dir()), key=lambda path: -path.stat().st_mtime_ns)
    started = [path for path in others if checkpoint_steps(path)]
    if started and not checkpoint_steps(directory):
        log.info("train: starts from the beginning; %s is of another run: %s", _latest(started[0]), _difference(started[0], parts))
    for path in [path for path in others if path not in started[:ABANDONED_KEPT]]:
        if path in started:
            log.warning("train: removed %s of a run that was not finished; the last %d are kept", _latest(path), ABANDONED_KEPT)
        shutil.rmtree(path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / PARTS).write_text(json.dumps(dict(parts), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return directory


def _latest(run: Path) -> Path:
    return list(checkpoint_steps(run).values())[-1]


def _difference(run: Path, parts: Mapping[str, str]) -> str:
    """Name up to five parts in which a run differs from these."""
    try:
        theirs = dict(json.loads((run / PARTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return "it does not say of which"
    changed = sorted(name for name in {*theirs, *parts} if theirs.get(name) != parts.get(name))
    more = [f"{len(changed) - 5} more"] if len(changed) > 5 else []
    return f"changed {', '.join([*changed[:5], *more])}"
