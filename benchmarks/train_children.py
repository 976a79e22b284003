"""The processes of benchmarks/train.py: each contender's own, with its own libraries, its turn on the GPU and its time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.train_contenders import ROOT, UNSLOTH
from benchmarks.train_setup import READY, Job
from benchmarks.train_stand_in import stand_in_path

IMPORTS = 120  # seconds that all may take to import their libraries


@dataclass(frozen=True, slots=True)
class Runner:
    """How children are run: where they work and log, unsloth's own libraries, and seconds for one and for all."""

    work: Path
    out: Path
    unsloth_site: Path | None
    limit: float
    seconds: float | None
    ahead: bool

    def environment(self, job: Job, module: str) -> dict[str, str]:
        """This checkout and, for unsloth, its own libraries first; none of the user's MEDCOT_* settings."""
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        if module == UNSLOTH:
            path = [*stand_in_path(self.work / "stand_in"), *([str(self.unsloth_site)] if self.unsloth_site else []), *path]
        env = {key: value for key, value in os.environ.items() if not key.startswith("MEDCOT_")}
        caches = {
            "UNSLOTH_COMPILE_LOCATION": str(self.work / f"unsloth-{job.contender}-{job.setting}-{job.repeat}"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if job.contender == "prototype" and not any(Path("/dev").glob("nvidia[0-9]*")):
            caches["TRITON_INTERPRET"] = "1"
        return {**env, **caches, "PYTHONPATH": os.pathsep.join(path)}

    def start(self, job: Job, module: str) -> Child:
        name = "".join(c if c.isalnum() else "-" for c in f"{job.contender} {job.setting} {job.repeat}")
        return Child(job, module, self.environment(job, module), self.work, self.out / f"{name}.log")

    def run(self, jobs: Sequence[tuple[Job, str]]) -> None:
        """Run the jobs one after the other; with `ahead` all import their libraries before the first runs."""
        deadline = time.monotonic() + self.seconds if self.seconds else float("inf")
        started = self.start_all(jobs) if self.ahead else {}
        for i, (job, module) in enumerate(jobs):
            begin = time.monotonic()
            if deadline - begin < 10:
                print(f"{job.setting} {job.contender}: left out, no time", flush=True)
                continue
            child = started.pop(i, None) or self.start(job, module)
            failure = child.finish(min(deadline - begin, self.limit))
            print(f"{job.setting} {job.contender}: {failure or 'done'} ({time.monotonic() - begin:.0f} s, {child.log.name})", flush=True)
        for child in started.values():
            child.end()

    def start_all(self, jobs: Sequence[tuple[Job, str]]) -> dict[int, Child]:
        """Start every child and wait until all have imported their libraries: none is timed while another is at it."""
        begin, started = time.monotonic(), {i: self.start(job, module) for i, (job, module) in enumerate(jobs)}
        while time.monotonic() < begin + IMPORTS and not all(child.is_ready() for child in started.values()):
            time.sleep(0.5)
        print(f"{len(started)} processes have imported their libraries ({time.monotonic() - begin:.0f} s)", flush=True)
        return started


class Child:
    """A contender in a process of its own, which waits for its turn."""

    def __init__(self, job: Job, module: str, env: dict[str, str], work: Path, log: Path) -> None:
        self.job, self.log = job, log
        with log.open("w", encoding="utf-8") as file:
            command = [sys.executable, "-m", module, job.dump()]
            self.process = subprocess.Popen(
                command, cwd=work, env=env, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, text=True
            )

    def finish(self, limit: float) -> str:
        """Give it its turn and wait; returns why it failed, or nothing."""
        try:
            self.process.communicate("go\n", timeout=limit)
        except subprocess.TimeoutExpired:
            self.end()
            return f"not done after {limit:.0f} s"
        return "" if self.process.returncode == 0 else self._last_words()

    def is_ready(self) -> bool:
        """Whether it waits for its turn, or has ended."""
        return self.process.poll() is not None or READY in self.log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit code {self.process.returncode}"


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for caches and a checkpoint of 6 GB, in memory where the machine has such a place with room."""
    shared = Path("/dev/shm")
    in_memory = shared.is_dir() and shutil.disk_usage(shared).free > 12e9
    with tempfile.TemporaryDirectory(dir=shared if in_memory else None) as directory:
        yield Path(directory)
