"""Data-parallel training on one host: the processes of a run share the rows of each optimiser step and sum their gradients.

`MEDCOT_PROCESSES=N` lets stage train start N workers (medcot/worker.py) through torch's own launcher, torchrun's. Every worker plans
the whole step, takes its share of the rows, and adds its gradients to the others' in one all-reduce before the optimiser moves: the
rows of a step, and so the meaning of a learning rate, do not depend on N. Libraries are kept from knowing: to transformers and
accelerate each worker is alone, so nothing wraps the model, shards the rows a second time or averages what must be summed.
With one process, every function here does nothing and torch.distributed stays unloaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from medcot.errors import DataError, MachineError, TrainingError
from medcot.stage import Terminated
from medcot.worker import first_report

PROCESSES = "MEDCOT_PROCESSES"
# torchrun's variables, by which accelerate and others would find out that there are several processes.
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "GROUP_WORLD_SIZE")
# A rank may wait for another's GPU lock or checkpoint; a rank that fails ends all, so waiting needs no short limit.
PATIENCE = timedelta(days=1)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that torch's launcher handles
BUCKET = 2**26  # elements of one all-reduce (256 MiB): an adapter is one, a full fine-tune needs no second copy of itself
log = logging.getLogger("medcot")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


_world = World()


def world() -> World:
    """The processes of this run; a process that no launcher started is alone."""
    return _world


# ---- the launcher


def requested_processes(rows_per_step: int) -> int:
    """Read `MEDCOT_PROCESSES`, 1 when unset.

    Raises DataError when it is no whole number of at least 1, or above the rows of a step, MachineError above the visible GPUs.
    """
    text = os.environ.get(PROCESSES, "").strip() or "1"
    place = f"environment: {PROCESSES}"
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
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


# ---- the workers


def join() -> None:
    """Meet the other workers that torchrun's variables name, and hide those variables from the libraries that come after."""
    global _world
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")  # nothing leaves this host
    # Values and objects travel between CPUs (gloo), gradients between GPUs (NCCL).
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    _world = World(dist.get_rank(), dist.get_world_size())
    for name in RENDEZVOUS:
        os.environ.pop(name, None)


def leave() -> None:
    """Part from the other workers, once all have come so far."""
    global _world
    import torch.distributed as dist

    barrier()
    dist.destroy_process_group()
    _world = World()


def share(lengths: Sequence[int], rank: int, size: int) -> list[int]:
    """Positions of the rows that a rank takes, rising: each row goes to one rank, and ranks get nearly equal numbers of tokens.

    Longest first to the least loaded (Graham 1969, https://doi.org/10.1137/0117039: at most 4/3 of the best possible maximum).
    A rank may get none, when there are fewer rows than ranks.
    """
    if size == 1:
        return list(range(len(lengths)))
    loads, taken = [0] * size, list[int]()
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        loads[lightest] += lengths[position]
        if lightest == rank:
            taken.append(position)
    return sorted(taken)


def sum_gradients(params: Iterable[torch.nn.Parameter]) -> None:
    """Replace the gradient of every parameter by its sum over the processes, added up in float32.

    A process without a gradient counts as zero; where none has one, it stays None, so that the optimiser passes over it.
    """
    if _world.size == 1:
        return
    bucket: list[torch.nn.Parameter] = []
    for p in params:
        if bucket and sum(q.numel() for q in bucket) + p.numel() > BUCKET:
            _sum_bucket(bucket)
            bucket = []
        bucket.append(p)
    if bucket:
        _sum_bucket(bucket)


@torch.no_grad()
def _sum_bucket(params: list[torch.nn.Parameter]) -> None:
    import torch.distributed as dist

    present = torch.tensor([p.grad is not None for p in params], dtype=torch.float32, device=params[0].device)
    parts = [torch.zeros_like(p, dtype=torch.float32) if p.grad is None else p.grad.float() for p in params]
    flat = torch.cat([*(part.reshape(-1) for part in parts), present])
    dist.all_reduce(flat)
    *sums, counts = torch.split(flat, [*(p.numel() for p in params), len(params)])
    for p, total, count in zip(params, sums, counts.tolist(), strict=True):
        if p.grad is not None:
            p.grad.copy_(total.view_as(p))
        elif count:
            p.grad = total.view_as(p).to(p.dtype, copy=True)


def sum_values(values: Sequence[float]) -> list[float]:
    """Sum numbers over the processes in float64, in the order of ranks: every process gets the same bits."""
    if _world.size == 1:
        return list(values)
    import torch.distributed as dist

    mine = torch.tensor(values, dtype=torch.float64)
    every = [torch.empty_like(mine) for _ in range(_world.size)]
    dist.all_gather(every, mine)
    return [sum(column) for column in zip(*(part.tolist() for part in every), strict=True)]


def from_main(make: Callable[[], T]) -> T:
    """Let the main process make a value, and give it to every process."""
    if _world.size == 1:
        return make()
    import torch.distributed as dist

    values: list[Any] = [make() if _world.is_main else None]
    dist.broadcast_object_list(values, device=torch.device("cpu"))
    made: T = values[0]
    return made


def barrier() -> None:
    """Wait until every process has come here."""
    sum_values([0.0])


@contextmanager
def own_random(seed: int, step: int) -> Iterator[None]:
    """Draw dropout and noise of a step from a stream of this process's own, made of seed, step and rank.

    Outside, random states stay equal in all processes, so a checkpoint of the main one resumes them all.
    """
    if _world.size == 1:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    digest = hashlib.sha256(f"{seed}/{step}/{_world.rank}".encode()).digest()
    with torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def check_same(model: Any, when: str) -> None:
    """Refuse to go on when the processes' models differ in any tensor, trained or frozen.

    Raises TrainingError.
    """
    if _world.size == 1:
        return
    import torch.distributed as dist

    sums = torch.stack([checksum(p).cpu() for p in model.parameters()])
    every = [torch.empty_like(sums) for _ in range(_world.size)]
    dist.all_gather(every, sums)
    if differ := sum(not torch.equal(part, sums) for part in every):
        remedy = "the GPUs of a run must be of one kind; report it if they are"
        raise TrainingError("train", f"the models of the processes differ {when}", remedy, got=f"{differ} of {_world.size}")


def checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor's bytes as 64-bit integers that wrap around: the same on every device, in any order, and without a copy."""
    raw = tensor.detach().reshape(-1).view(torch.uint8)
    raw = raw.clone() if raw.storage_offset() % 8 else raw
    whole = raw.numel() // 8 * 8
    return raw[:whole].view(torch.int64).sum() + raw[whole:].sum(dtype=torch.int64)
