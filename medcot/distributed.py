"""Data-parallel training on one host: the processes of a run share the rows of each optimiser step and sum their gradients.

medcot/launcher.py starts them. Every process plans the whole step, takes its share of the rows, and adds its gradients to the others'
in one all-reduce before the optimiser moves: the rows of a step, and so the meaning of a learning rate, do not depend on their number.
Libraries are kept from knowing: to transformers and accelerate each process is alone, so nothing wraps the model, shards the rows a
second time or averages what must be summed. With one process, every function here does nothing and torch.distributed stays unloaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from medcot.errors import TrainingError

# torchrun's variables, by which accelerate and others would find out that there are several processes.
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "GROUP_WORLD_SIZE")
# A rank may wait for another's GPU lock or checkpoint; a rank that fails ends all, so waiting needs no short limit.
PATIENCE = timedelta(days=1)
BUCKET = 2**26  # elements of one all-reduce (256 MiB): an adapter is one, a full fine-tune needs no second copy of itself
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
