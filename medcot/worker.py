"""One of the processes that share a training stage: `python -m medcot.worker stages.train`, started by medcot/launcher.py.

It imports no torch before it has chosen its GPU and watches its launcher, so that neither a library sees another's card nor a killed
launcher leaves it behind. It prints no error: it reports it to the launcher, which shows the first and ends the others.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NoReturn

from medcot.stage import atomic_file, report, setup_logging

CUDA_DEVICES = "CUDA_VISIBLE_DEVICES"
ORPHANED = 143  # as a stage that was terminated


def see_one_gpu(env: MutableMapping[str, str], local_rank: int) -> None:
    """Leave this process the one GPU of its rank, as device 0: every library then runs as it does on a machine with one.

    Indexes, UUIDs and MIG names of an existing CUDA_VISIBLE_DEVICES are kept; where it hides all GPUs, it stays.
    """
    listed = env.get(CUDA_DEVICES)
    devices = [str(local_rank)] if listed is None else [name.strip() for name in listed.split(",")][local_rank : local_rank + 1]
    if devices:
        env[CUDA_DEVICES] = devices[0]


def end_with(launcher: int) -> None:
    """End this process once its launcher is gone, however that one ended."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def report_path(directory: Path, rank: int | str) -> Path:
    """Where a worker leaves its error: moment in nanoseconds, exit code, and the text that a stage would print."""
    return directory / f"error-{rank}.json"


def first_report(directory: Path) -> dict[str, Any] | None:
    """The error that came first: processes that wait for a dead one fail too, a moment later."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob(report_path(directory, "*").name)]
    return min(found, key=lambda item: int(item["moment"]), default=None)


def fail(error: BaseException, name: str, path: Path) -> NoReturn:
    """Write what a stage would print, its exit code and the moment, and end without waiting for the other processes."""
    moment = time.time_ns()
    with contextlib.redirect_stderr(io.StringIO()) as text:
        try:
            code = report(error, name)
        except SystemExit as asked:
            code = asked.code if isinstance(asked.code, int) else 4
    with atomic_file(path) as out:
        out.write_text(json.dumps({"moment": moment, "code": code, "text": text.getvalue()}), encoding="utf-8")
    sys.stderr.flush()
    os._exit(code)  # the clean-up of torch's process group would wait for the others


def main(module: str, reports: str, launcher: str) -> None:
    """Run a stage's main as one of several processes; RANK and the rest of torchrun's variables say which."""
    end_with(int(launcher))
    # The launcher ends its workers by these; a collective that waits in C++ would not let Python's handlers run.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    rank = int(os.environ["RANK"])
    see_one_gpu(os.environ, int(os.environ["LOCAL_RANK"]))
    setup_logging()
    if rank:
        logging.getLogger("medcot").setLevel(logging.WARNING)
    try:
        from medcot.distributed import join, leave

        join()
        importlib.import_module(module).main()
        leave()
    except BaseException as error:  # noqa: BLE001 - the launcher shows it
        fail(error, module.rpartition(".")[2], report_path(Path(reports), rank))


if __name__ == "__main__":
    main(*sys.argv[1:])
