"""What every stage needs around its core: exit codes, one writer at a time, atomic outputs, finite metrics."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from medcot.errors import DataError, MachineError, MedcotError

SCHEMA_VERSION = 1
REFUSED_BY_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EBUSY, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
LOCK_SECONDS = 5.0  # a second copy of a stage waits this long, then says who holds the lock
RECOVER = "dvc has removed the stage's old outputs: `git checkout metrics dvc.lock && dvc checkout` brings them back"
log = logging.getLogger("medcot")


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt so that locks and temporary files are released."""


def scratch_dir() -> Path:
    """The git-ignored directory for locks and checkpoints: `MEDCOT_SCRATCH`, else `.medcot`."""
    return Path(os.environ.get("MEDCOT_SCRATCH", ".medcot"))


def run_stage(name: str, main: Callable[[], None]) -> int:
    """Run a stage's main under its lock and return the exit code.

    0 ok, 2 invalid params or data, 3 machine or network, 4 internal, 130 Ctrl-C, 143 SIGTERM. The project's own errors are one
    line on stderr; any other exception keeps its traceback and exits 4 (Python's own 1 would read as "gate failed").
    """
    setup_logging()
    signal.signal(signal.SIGTERM, terminate)
    start = time.monotonic()
    try:
        with stage_lock(name):
            main()
    except MedcotError as error:
        return _fail(str(error), error.exit_code)
    except BaseException as error:
        return report(error, name)
    log.info("%s: done in %.1f s", name, time.monotonic() - start)
    return 0


def report(error: BaseException, name: str) -> int:
    """Print an error as its kind asks for and return the exit code; see run_stage."""
    match error:
        case MedcotError():
            return _fail(str(error), error.exit_code)
        case KeyboardInterrupt():
            return _fail(f"{name}: interrupted; run the same command again to resume", 130)
        case Terminated():
            return _fail(f"{name}: terminated; run the same command again to resume", 143)
        case SystemExit():
            raise error
        case OSError() if error.errno in REFUSED_BY_MACHINE:
            return _fail(f"{error.filename or name}: {error.strerror}; free space, or fix the path and its permissions, then run again", 3)
    traceback.print_exception(error)
    return 4


def _fail(message: str, code: int) -> int:
    # DVC sets DVC_STAGE for the commands it runs, and only then are the old outputs gone.
    hint = f" ({RECOVER})" if os.environ.get("DVC_STAGE") else ""
    print(f"error: {message}{hint}", file=sys.stderr)
    return code


def terminate(signum: int, frame: FrameType | None) -> None:
    """Unwind at SIGTERM; a signal handler."""
    raise Terminated


def setup_logging() -> None:
    """Log to stderr, once; `MEDCOT_LOG_LEVEL` sets the level (default INFO)."""
    level = os.environ.get("MEDCOT_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        level = "INFO"
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(level)


@contextmanager
def stage_lock(name: str) -> Iterator[None]:
    """Hold the stage's lock, so that a second writer waits and then stops instead of writing the same files.

    Raises MachineError when another process holds it for longer than LOCK_SECONDS.
    """
    path = scratch_dir() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise MachineError(str(path), f"another process is running stage {name}", "wait for it to end, or stop it") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_dir(final: Path) -> Iterator[Path]:
    """Yield a fresh directory beside `final`; it takes final's place only when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    building, previous = _beside(final, "building"), _beside(final, "previous")
    _restore(final, previous)  # an earlier run may have been killed between the two renames
    _discard(building)
    building.mkdir()
    try:
        yield building
        if final.exists():
            final.replace(previous)
        building.replace(final)
    finally:
        _discard(building)
        _restore(final, previous)


def _restore(final: Path, previous: Path) -> None:
    """Put the previous output back when nothing took its place; else it has been replaced and goes."""
    if previous.exists() and not final.exists():
        previous.replace(final)
    _discard(previous)


def _discard(path: Path) -> None:
    """Delete what stands at a path, be it a directory, a file or a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(final: Path) -> Iterator[Path]:
    """Yield a path beside `final` to write to; it replaces final only when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    building = _beside(final, "building")
    try:
        yield building
        building.replace(final)
    finally:
        building.unlink(missing_ok=True)


def _beside(final: Path, role: str) -> Path:
    return final.parent / f".{final.name}.{role}"


def write_metrics(path: Path, values: Mapping[str, Any]) -> None:
    """Write a metrics file: finite scalars, nested by name, eight significant digits, keys sorted.

    Raises DataError for NaN or infinity: DVC would report NaN as changed for ever, and JSON has no word for it.
    """
    content = _clean(path, {"schema_version": SCHEMA_VERSION, **values})
    with atomic_file(path) as out:
        out.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _clean(path: Path, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result[key] = _clean(path, value, f"{name}.")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise DataError(f"{path}: {name}", "a metric must be finite", "leave the metric out where it is undefined", got=value)
            result[key] = float(f"{value:.8g}")
        elif isinstance(value, (bool, int, str)):
            result[key] = value
        else:
            raise DataError(f"{path}: {name}", "a metric must be a number, a string or a mapping of them", "convert it", got=value)
    return result
