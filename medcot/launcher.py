"""`MEDCOT_PROCESSES=N`: a training stage starts itself N times on one host, and ends as the first of its workers that fails.

The workers (medcot/worker.py) are run by torch's own launcher, torchrun's, inside the process of the stage: it holds the stage's lock, no
GPU, and is the only one to print an error.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import torch

from medcot.errors import DataError, MachineError, TrainingError
from medcot.stage import Terminated
from medcot.worker import first_report

PROCESSES = "MEDCOT_PROCESSES"
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that torch's launcher handles
log = logging.getLogger("medcot")


def requested_processes(rows_per_step: int) -> int:
    """Read `MEDCOT_PROCESSES`, 1 when unset.

    Raises DataError when it is no whole number of at least 1, or above the rows of a step, MachineError above the visible GPUs.
    """
    text = os.environ.get(PROCESSES, "").strip() or "1"
    place = f"environment: {PROCESSES}"
    if not re.fullmatch("0*[1-9][0-9]{0,17}", text):  # Python reads no number of thousands of digits
        raise DataError(place, "not a whole number of at least 1", "set it to the number of GPUs to train on, or unset it", got=text)
    count = int(text)
    gpus = torch.cuda.device_count() if count > 1 and torch.cuda.is_available() else 0
    if gpus and count > gpus:
        raise MachineError(place, f"more processes than visible GPUs, which are {gpus}", f"set it to {gpus} at most", got=count)
    if count > rows_per_step:
        cause = f"more processes than rows in an optimiser step, which are {rows_per_step}"
        raise DataError(place, cause, f"set it to {rows_per_step} at most", got=count)
    return count


def launch(module: str, count: int) -> None:
    """Run `python -m module` as so many processes and return when all are done.

    Raises what ended the first of them: SystemExit with its exit code, after its lines were shown; MachineError when a signal did;
    KeyboardInterrupt or Terminated when this process was asked to end. No worker outlives this call, nor this process.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the workers' own words are shown instead
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    log.info("%s: %d processes share the rows of each step", module.rpartition(".")[2], count)
    with tempfile.TemporaryDirectory(prefix="medcot-") as reports:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="medcot",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port of this host
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=reports),
        )
        before = {number: signal.getsignal(number) for number in ENDING}
        try:
            elastic_launch(config, sys.executable)("-m", "medcot.worker", module, reports, os.getpid())
        except ChildFailedError as error:
            pass_on({rank: failure.exitcode for rank, failure in error.failures.items()}, Path(reports))
        except SignalException as error:
            raise (KeyboardInterrupt if error.sigval == signal.SIGINT else Terminated) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def pass_on(exit_codes: dict[int, int], reports: Path) -> NoReturn:
    """End as the first failure did, with its words alone.

    exit_codes  of the processes that failed, by rank; below zero for a signal
    """
    first, killed = first_report(reports), {rank: -code for rank, code in exit_codes.items() if code < 0}
    # SIGTERM is how the launcher ends the others; any other signal came first, and what was reported came of it.
    if causes := {rank: number for rank, number in killed.items() if number != signal.SIGTERM or not first}:
        rank, number = min(causes.items())
        remedy = "see whether the machine ran out of memory, then run the same command again to resume"
        raise MachineError("train", f"process {rank} was ended by {signal.Signals(number).name}", remedy)
    if not first:
        rank, code = min(exit_codes.items())
        raise TrainingError("train", f"process {rank} ended without a word", f"run it with {PROCESSES}=1 to see why", got=code)
    sys.stderr.write(first["text"])
    raise SystemExit(first["code"])
