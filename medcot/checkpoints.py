"""Resume: checkpoints under a fingerprint of everything that shapes the run, outside DVC's outs, which DVC deletes before a stage."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from medcot.records import canonical, short_hash

COMPLETE = "complete"  # written last into a checkpoint: one without it was cut short
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Mark a checkpoint as complete once everything in it is written."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint in a directory, or None; checkpoints that were cut short are removed."""
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    complete = [path for path in found if (path / COMPLETE).is_file()]
    for path in found:
        if path not in complete:
            shutil.rmtree(path)
    return complete[-1] if complete else None


def loaded_code() -> dict[str, Path]:
    """The source files of the project's modules that are loaded so far, by name."""
    return {name: Path(str(module.__file__)) for name, module in sys.modules.items() if name.startswith("medcot.")}


def run_fingerprint(*, params: Any, files: Mapping[str, Path], code: Mapping[str, Path]) -> str:
    """16 hex digits over params, data files, source files and library versions: a run resumes only where all are the same."""
    hashes = {
        kind: {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in paths.items()} for kind, paths in (("f", files), ("c", code))
    }
    return short_hash(canonical({"params": params, "hashes": hashes, "libraries": {name: version(name) for name in LIBRARIES}}))
