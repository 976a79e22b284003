"""Resume: checkpoints under a fingerprint of everything that shapes the run, outside DVC's outs, which DVC deletes before a stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from medcot.records import canonical, short_hash

COMPLETE = "complete"  # written last into a checkpoint: one without it was cut short


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Mark a checkpoint as complete once everything in it is written."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint in a directory, or None."""
    found = [path.parent for path in directory.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def run_fingerprint(*, params: Any, files: Sequence[Path], code: Sequence[Path]) -> str:
    """16 hex digits over params, data files and source files: a run resumes only where all of them are the same."""
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (*files, *code)}
    return short_hash(canonical({"params": params, "files": hashes}))
