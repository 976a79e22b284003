"""Kill stage train with SIGKILL at random places, run it again, and compare with a run that nobody killed.

    python benchmarks/resume.py                          20 kills on each path, on a CPU: every byte must be equal
    python benchmarks/resume.py --kills 100 --seed 1 --paths plain
    python benchmarks/resume.py --corrupt                also break the newest checkpoint before the second run, in every way
    python benchmarks/resume.py --device cuda --kills 4  on a GPU, where the losses must agree as closely as those of two whole runs

A place is the end of a step, a moment, the middle of a file of a checkpoint, the instant before a checkpoint is marked as complete, the
removal of an old one, or the end of training, before the adapter is written. On a CPU the base is a tiny one in NF4 and the processes are
forked from one that has the libraries loaded; on a GPU it has random weights in the shape of a small Qwen3, and each process is a new one.
The attention's backward pass on a GPU adds in an order that varies, so there even two whole runs differ: both differences are printed.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # in place of this directory, whose statistics.py is not Python's
STEPS, SAVE_STEPS, EVAL_STEPS = 18, 4, 3
SAVES = STEPS // SAVE_STEPS + 1  # the last step is saved too
FILES = 4  # that torch writes for a checkpoint


@dataclass
class Run:
    """How a process ended: its exit code, below zero for a signal, and what it said."""

    code: int
    said: str


@dataclass
class Workspace:
    """A directory in which stage train runs on one path."""

    root: Path
    path: str
    device: str

    def start(self, place: str = "", seconds: float | None = None) -> Run:
        """Run stage train until it ends, is killed at a place, or is killed after so many seconds."""
        log = self.root / "log"
        child = self._spawn(log, place) if self.device == "cuda" else self._fork(log, place)
        code = child(seconds)
        return Run(code, log.read_text(encoding="utf-8"))

    def _spawn(self, log: Path, place: str) -> Callable[[float | None], int]:
        search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # Both paths run at a time on one card, which only a test may do.
        env = {**os.environ, "PYTHONPATH": search, "MEDCOT_TRAIN_PATH": self.path, "MEDCOT_GPU_LOCK": "off"}
        command = [sys.executable, str(ROOT / "tests/kill_points.py"), *filter(None, [place])]
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, cwd=self.root, env=env, stdout=file, stderr=file)

        def wait(seconds: float | None) -> int:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()

        return wait

    def _fork(self, log: Path, place: str) -> Callable[[float | None], int]:
        import kill_points

        child = os.fork()
        if child == 0:
            os.chdir(self.root)
            os.environ["MEDCOT_TRAIN_PATH"] = self.path
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            if place:
                kill_points.install(place)
            code = kill_points.run_stage("train", kill_points.train.main)
            sys.stderr.flush()
            os._exit(code)

        def wait(seconds: float | None) -> int:
            if seconds is not None:
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        return wait

    def forget(self) -> None:
        """Remove what a run leaves: adapter, metrics, checkpoints."""
        for name in ("models/adapter", "metrics", ".medcot"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def checkpoints(self) -> list[Path]:
        """The checkpoints of the one run, oldest first."""
        return sorted(self.root.glob(".medcot/checkpoints/*/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    def adapter(self) -> dict[str, bytes]:
        """Every file of the adapter, and the metrics."""
        files = {path.name: path.read_bytes() for path in (self.root / "models/adapter").iterdir()}
        return {**files, "metrics": (self.root / "metrics/train.json").read_bytes()}

    def losses(self) -> list[float]:
        """Training loss by step, then val losses."""
        values = []
        for name, column in (("train_log.csv", "loss"), ("eval_log.csv", "eval_loss")):
            with (self.root / "models/adapter" / name).open(encoding="utf-8") as file:
                values += [float(row[column]) for row in csv.DictReader(file)]
        return values


def params(path: str, **values: Any) -> dict[str, Any]:
    """The train section: evaluations, a schedule, and on the plain path dropout, so that random numbers matter."""
    return {
        "max_steps": STEPS,
        "save_steps": SAVE_STEPS,
        "eval_steps": EVAL_STEPS,
        "warmup_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "lora_dropout": 0.1 if path == "plain" else 0.0,
        **values,
    }


def make_workspace(root: Path, path: str, device: str) -> Workspace:
    """Write params, rows and a base with random weights."""
    root.mkdir(parents=True)
    if device == "cpu":
        from train_factory import Base, write_train_workspace

        write_train_workspace(root, Base(root / "made"), num_rows=40, **params(path, learning_rate=1e-2))
        return Workspace(root, path, device)
    import yaml
    from factories import write_qwen3_tokenizer
    from transformers import Qwen3Config

    from benchmarks import gpu

    config = Qwen3Config(
        vocab_size=32768,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    tokenizer = write_qwen3_tokenizer(root / "tokenizer", vocab_size=1000)
    gpu.write_model(root / "models/import/small", config, tokenizer)
    gpu.write_data(root, tokenizer, 64)
    (root / "models/import_adapter").mkdir()
    content = {
        "base": {"source": "local", "path": "small"},
        "model": {"template": "qwen3", "cutoff_len": gpu.LONGEST, "quantization": "nf4"},
        "train": params(path, learning_rate=1e-4),
    }
    (root / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    gpu.run(root, "base")
    return Workspace(root, path, device)


def choose_place(rng: random.Random) -> str:
    """A place at random, each kind as likely as another."""
    kind = rng.choice(("step", "file", "marker", "remove", "end", "time"))
    if kind == "time":
        return f"time:{rng.random():.3f}"
    last = {"step": STEPS - 1, "file": FILES * SAVES, "marker": SAVES, "remove": SAVES - 2, "end": STEPS}[kind]
    return f"{kind}:{last if kind == 'end' else rng.randint(1, last)}"


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_directory(path: Path) -> None:
    """Make a file one that cannot be read."""
    path.unlink()
    path.mkdir()


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "weights truncated": lambda c: os.truncate(c / "adapter_model.safetensors", 1000),
    "bit of weights flipped": lambda c: flip(c / "adapter_model.safetensors"),
    "bit of optimiser flipped": lambda c: flip(c / "optimizer.pt"),
    "optimiser missing": lambda c: (c / "optimizer.pt").unlink(),
    "state of zero length": lambda c: os.truncate(c / "trainer_state.json", 0),
    "marker empty": lambda c: os.truncate(c / "complete", 0),
    "marker of another": lambda c: shutil.copy(c.parent / f"checkpoint-{SAVE_STEPS}" / "complete", c / "complete"),
    "marker missing": lambda c: (c / "complete").unlink(),
    "random numbers unreadable": lambda c: replace_by_directory(c / "rng_state.pth"),
    "pickle added": lambda c: (c / "pytorch_model.bin").write_bytes(b"cos\nsystem\n."),
}


def resumed_from(said: str) -> str:
    found = re.findall(r"resuming from \S*checkpoint-(\d+)", said)
    return found[0] if found else "start"


@dataclass
class Whole:
    """What a run leaves that nobody killed, and how long it took."""

    files: dict[str, bytes]
    losses: list[float]
    seconds: float


def run_whole(work: Workspace) -> Whole:
    """Run to the end; exits where that fails."""
    begin = time.monotonic()
    if (run := work.start()).code:
        raise SystemExit(f"the whole run ended with {run.code}:\n{run.said}")
    return Whole(work.adapter(), work.losses(), time.monotonic() - begin)


def trial(work: Workspace, label: str, get_whole: Callable[[], Whole]) -> list[Any]:
    """Kill at a place, or break a checkpoint of a killed run, run again, and compare; a line of the table."""
    work.forget()
    kind, _, number = label.partition(":")
    if label == "nowhere":
        first = Run(0, "")
    elif label in CORRUPTIONS:
        first = work.start(f"step:{2 * SAVE_STEPS + 1}")
        CORRUPTIONS[label](work.checkpoints()[-1])
    elif kind == "time":
        first = work.start(seconds=float(number) * get_whole().seconds)
    else:
        first = work.start(label)
    second = work.start()
    if second.code:
        last = second.said.strip().splitlines()[-1]
        return [work.path, label, first.code, resumed_from(second.said), "inf", f"exit {second.code}: {last}"]
    whole, losses = get_whole(), work.losses()
    worst = max(abs(a - b) for a, b in zip(losses, whole.losses, strict=True)) if len(losses) == len(whole.losses) else float("inf")
    line = [work.path, label, first.code, resumed_from(second.said), f"{worst:.3g}", "yes" if work.adapter() == whole.files else "no"]
    print(*line, flush=True)
    return line


def campaign(works: Sequence[Workspace], labels: Sequence[str], directory: Path) -> list[list[Any]]:
    """Every trial on every path: on a GPU all at once, each in its own copy of the workspace, else one after another."""
    if works[0].device == "cpu":
        return [trial(work, label, lambda whole=whole: whole) for work in works for whole in [run_whole(work)] for label in labels]

    def copy(work: Workspace, name: str) -> Workspace:
        return Workspace(Path(shutil.copytree(work.root, directory / f"{work.path}-{name}")), work.path, work.device)

    # The killed and the whole ones start together; what is compared waits for the whole one of its path.
    with ThreadPoolExecutor(16) as pool:
        wholes = {work.path: pool.submit(run_whole, copy(work, "whole")) for work in works}
        trials = [(copy(work, str(i)), label) for work in works for i, label in enumerate(labels)]
        jobs = [pool.submit(trial, one, label, wholes[one.path].result) for one, label in trials]
        return [job.result() for job in jobs]


def table(lines: Sequence[Sequence[Any]]) -> str:
    """The lines as a Markdown table."""
    head = ["path", "killed at, or broken", "exit code", "resumed from", "largest difference of losses", "all bytes equal"]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in (head, ["---"] * len(head), *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="random places on each path")
    parser.add_argument("--places", nargs="+", help="these places instead, such as step:5 file:10 end:18")
    parser.add_argument("--paths", nargs="+", choices=("plain", "fused"), default=["plain", "fused"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corrupt", action="store_true", help="also break the newest checkpoint in every way")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rng = random.Random(args.seed)
    places = args.places or [choose_place(rng) for _ in range(args.kills)]
    with tempfile.TemporaryDirectory() as directory:
        works = [make_workspace(Path(directory) / path, path, args.device) for path in args.paths]
        lines = campaign(works, ["nowhere", *places, *(CORRUPTIONS if args.corrupt else ())], Path(directory))
    print(table(lines))
    floor = max(float(line[4]) for line in lines if line[1] == "nowhere")
    worst = max(float(line[4]) for line in lines)
    kills = sum(line[2] == -signal.SIGKILL for line in lines)
    print(f"{kills} kills; largest difference of losses {worst:.3g}, between two whole runs {floor:.3g}")
    # On a GPU ten times the difference of two whole runs: the later steps of a run carry on what its first ones differ by.
    wrong = [line for line in lines if (line[5] != "yes" if args.device == "cpu" else float(line[4]) > max(10 * floor, 1e-3))]
    raise SystemExit(f"{len(wrong)} runs did not end as the whole one" if wrong else 0)


if __name__ == "__main__":
    main()
