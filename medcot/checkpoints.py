"""Checkpoints on disk: complete ones are marked with the hash of every file, and only what is as it was written is resumed from.

They live outside DVC's outs, which DVC deletes before a stage, one directory a run. transformers writes the files (safetensors, JSON,
and `.pt` files that torch reads without running code); what is added here is the marker, written last, and the order of removal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

COMPLETE = "complete"  # the marker: without it a checkpoint was cut short
STATE = "trainer_state.json"
PICKLED = "training_args.bin"  # transformers writes it for people to read, by running what is in it; nothing here needs it
KEPT = 2  # if the newest is damaged there is one before it
# What torch and safetensors raise on a file that is not theirs; a hostile one can cause any of them.
UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError, EOFError, OSError, ValueError, RuntimeError),
    *(LookupError, TypeError, AttributeError, AssertionError, MemoryError, OverflowError),
)
log = logging.getLogger("medcot")


def checkpoint_steps(directory: Path) -> dict[int, Path]:
    """The checkpoints in a run's directory by step, oldest first, whatever state they are in."""
    found = {int(name[1]): path for path in directory.glob("checkpoint-*") if (name := re.fullmatch(r"checkpoint-(\d+)", path.name))}
    return dict(sorted(found.items()))


def mark_complete(checkpoint: Path) -> None:
    """Bring a written checkpoint onto the disk, then mark it: name, size and sha256 of every file.

    A power cut after this finds the whole checkpoint, one before finds no marker. Raises OSError when the disk does not take it.
    """
    (checkpoint / PICKLED).unlink(missing_ok=True)
    files = {}
    for name, path in _files(checkpoint):
        _sync(path)
        files[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    building = checkpoint / f".{COMPLETE}"
    building.write_text(json.dumps({"files": files}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _sync(building)
    building.replace(checkpoint / COMPLETE)
    for directory in (*{path.parent for _, path in _files(checkpoint)}, checkpoint, checkpoint.parent):
        _sync(directory)


def _files(checkpoint: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a checkpoint by its name there, the marker left out; a link is a file, wherever it leads."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            name = path.relative_to(checkpoint).as_posix()
            if name not in (COMPLETE, f".{COMPLETE}"):
                yield name, path


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run that is as it was written, or None.

    A newer one that is not is removed, with a warning that says why. Raises PermissionError for files that may not be read.
    """
    found = checkpoint_steps(directory)
    for path in reversed(found.values()):
        why = why_unusable(path)
        if not why:
            return path
        log.warning("train: %s is not used and removed: %s", path, why)
        remove(path)
    if found:
        log.warning("train: no checkpoint of this run is left, so it starts from the beginning")
    return None


def why_unusable(checkpoint: Path) -> str | None:
    """Say in one clause why a checkpoint cannot be resumed from, or None: its files, then its state, then the best model it names."""
    try:
        return _why_changed(checkpoint) or _why_unreadable(checkpoint) or _why_not_its_state(checkpoint)
    except PermissionError:
        raise  # it may be whole
    except OSError as error:
        return f"{error.filename or checkpoint}: {error.strerror or error}"


def _why_changed(checkpoint: Path) -> str | None:
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        return "it is not a directory"
    marker = checkpoint / COMPLETE
    if not marker.is_file():
        return "it was cut short while it was written"
    try:
        files = json.loads(marker.read_text(encoding="utf-8"))["files"]
        recorded = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):  # the last: Infinity
        return f"its marker {COMPLETE} is damaged, or of another version of medcot"
    here = dict(_files(checkpoint))
    for name, (size, sha256) in recorded.items():
        if name not in here:
            return f"{name} is missing"
        if here[name].is_symlink():
            return f"{name} is a link"
        if here[name].stat().st_size != size:
            return f"{name} has {here[name].stat().st_size:,} bytes, {size:,} were written"
        if _sha256(here[name]) != sha256:
            return f"{name} is not what was written (sha256)"
    foreign = sorted(here.keys() - recorded.keys())
    return f"{foreign[0]} was not written with it" if foreign else None


def _why_unreadable(checkpoint: Path) -> str | None:
    """Open each file as resuming will, tensors left on the disk: hashes that agree prove nothing about files from elsewhere."""
    for name, path in _files(checkpoint):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".pth"):
                with safe_globals():  # the NumPy types in a state of random numbers
                    torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            elif path.suffix == ".bin":
                return f"{name} is a pickle, which can run code"
        except UNREADABLE:
            return f"{name} cannot be read"
    return None


def _why_not_its_state(checkpoint: Path) -> str | None:
    """Check that its state is of its step, and that the best model so far, which it would end with, is there too."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        step, named = int(state["global_step"]), state["best_model_checkpoint"]
        best = None if named is None else Path(named)
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return f"{STATE} cannot be read"
    if checkpoint.name != f"checkpoint-{step}":
        return f"{STATE} is of step {step}"
    if best is None or best.name == checkpoint.name:
        return None
    kept = checkpoint.parent / best.name
    if best.absolute() != kept.absolute():
        return f"{STATE} names a best model in another place, {best}"
    why = _why_changed(kept) or _why_unreadable(kept)
    return f"of the best model so far, {kept.name}, {why}" if why else None


def remove_older(directory: Path, best: Path | None) -> None:
    """Keep a run's newest KEPT complete checkpoints and its best one; the steps decide, not the clock."""
    complete = [path for path in checkpoint_steps(directory).values() if (path / COMPLETE).is_file()]
    for path in complete[:-KEPT]:
        if best is None or path.name != best.name:
            remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its marker first: one that is half removed is none."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        checkpoint.unlink(missing_ok=True)
        return
    if not (checkpoint / COMPLETE).is_dir():  # which marks nothing
        (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
