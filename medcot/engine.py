"""Where the search for near texts runs: in this process, or as Ray tasks on this and other machines. The results are the same.

`MEDCOT_ENGINE` says which: `local` (default) or `ray`, which needs `pip install -e .[ray]`. Ray joins the cluster that `RAY_ADDRESS`
names; without it a local one is started, with `MEDCOT_WORKERS` processes. Machines of a cluster must share the working directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from medcot.errors import MachineError
from medcot.minhash import Pairs
from medcot.similarity import Texts, near, workers
from medcot.stage import scratch_dir

ENGINES = ("local", "ray")
SHARDS_PER_WORKER = 4  # more shards than workers: a failed or slow one costs less


def engine() -> str:
    """The engine that `MEDCOT_ENGINE` names."""
    name = os.environ.get("MEDCOT_ENGINE") or "local"
    if name not in ENGINES:
        raise MachineError("MEDCOT_ENGINE", "no such engine", f"set it to {' or '.join(ENGINES)}, or leave it out", got=name)
    return name


def find(
    texts: Texts, shingle_size: int, threshold: float, num_perm: int, seed: int, floor: float
) -> Iterator[tuple[Pairs, npt.NDArray[np.float64]]]:
    """Yield the near pairs of texts as `similarity.near` does, by whichever engine is set."""
    if engine() == "local":
        yield from near(texts, shingle_size, threshold, num_perm, seed, floor)
        return
    from medcot.shards import Search, expand, near_pairs, write_texts

    scratch_dir().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch_dir().resolve(), prefix="shards-") as place:
        shards = [Path(place) / f"texts-{i}.parquet" for i in range(SHARDS_PER_WORKER * workers())]
        write_texts(texts, shards)
        yield from expand(near_pairs(shards, Search(("text",), shingle_size, threshold, num_perm, seed, floor), Path(place), run_ray))


def run_local(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Run a worker function on each task's arguments, in threads of this process."""
    with ThreadPoolExecutor(workers()) as pool:
        list(pool.map(lambda task: function(*task), tasks))


def run_ray(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Run a worker function on each task's arguments as Ray tasks; one whose worker dies is run again elsewhere."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers about this machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MachineError("MEDCOT_ENGINE", "ray is not installed", "run `pip install -e .[ray]`, or leave MEDCOT_ENGINE out") from None
    if not ray.is_initialized():
        _start(ray)
    remote = ray.remote(max_retries=5)(function)
    try:
        ray.get([remote.remote(*task) for task in tasks])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise MachineError(
            "ray", "a task could not be run", "look into the cluster's log, or leave MEDCOT_ENGINE out", got=str(error)
        ) from None


def _start(ray: Any) -> None:
    """Join the cluster that is named, or start one on this machine."""
    own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers(), "include_dashboard": False}
    try:
        ray.init(logging_level="error", log_to_driver=False, **own)
    except Exception as error:  # Ray raises nothing more particular when a machine is too busy to start it in half a minute
        ray.shutdown()
        raise MachineError("ray", "the cluster does not start", "try again, or leave MEDCOT_ENGINE out", got=str(error)) from error
