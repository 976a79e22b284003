"""Do both paths of training learn the same? Loss curves of a whole run on the demo base, path beside path, for several seeds.

A seed draws the adapter's start and the order of the rows. For windows of the run the table has the mean loss of each path, the largest
difference at one step of one seed, the difference of the paths' means, and the standard deviation between seeds of that window's mean.
The paths are inside the noise where their means differ by less than that in every window, and so does the val loss at the end. Beside them
runs a control, the plain path with its rows in other passes: what rounding alone does to a curve.
On a GPU everything is computed in bfloat16, on a CPU in float32. Needs the base and the rows that `make repro` leaves. The learning rate
is ten times the sample's, so that the loss falls and differences have the time to grow.

Run     python -m benchmarks.curves [--steps 200] [--seeds 4] [--learning-rate 0.002] [--device cpu] [--workers 1] [--root .]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from medcot.adapters import add_adapter
from medcot.errors import MedcotError
from medcot.llamafactory import read_rows
from medcot.model import Hardware, load_base
from medcot.model_params import ModelParams
from medcot.template import get_template
from medcot.tokenizer import check_transformers_load, load_tokenizer
from medcot.train_params import TrainParams
from medcot.trainer import TrainRow
from medcot.training import encode_rows, run, trainer_config

Array = npt.NDArray[np.float64]
HARDWARE = {"cpu": Hardware("cpu", "float32", "varlen", "asked for"), "cuda": Hardware("cuda", "bfloat16", "varlen", "asked for")}
# What a run is executed with; the rows of a step are the same in all three.
VARIANTS = {
    "plain": {"MEDCOT_TRAIN_PATH": "plain"},
    "fused": {"MEDCOT_TRAIN_PATH": "fused"},
    "control": {"MEDCOT_TRAIN_PATH": "plain", "MEDCOT_TOKENS_PER_PASS": "300"},
}
WINDOWS = 5


@dataclass(frozen=True)
class Workspace:
    """What stage train reads: the base, its tokenizer, and rows of both splits."""

    root: Path
    model: ModelParams
    train: dict[str, object]
    rows: list[TrainRow]
    val: list[TrainRow]


def open_workspace(root: Path) -> Workspace:
    """Read the params and rows of a pipeline that has run."""
    content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    model = ModelParams.model_validate(content["model"])
    template, tok = get_template(model.template), load_tokenizer(root / "models/base/tokenizer")
    splits = (
        encode_rows(read_rows(root / f"data/llamafactory/{split}.json", template), tok, template, model.system)
        for split in ("train", "val")
    )
    return Workspace(root, model, content["train"], *splits)


def curve(run_as: tuple[str, int], root: Path, device: str, steps: int, rate: float) -> tuple[Array, float]:
    """Train once as (variant, seed); returns the loss of each step and the val loss at the end."""
    (variant, seed), hardware = run_as, HARDWARE[device]
    logging.disable(logging.INFO)
    for name in ("MEDCOT_TRAIN_PATH", "MEDCOT_TOKENS_PER_PASS"):
        os.environ.pop(name, None)
    os.environ |= VARIANTS[variant] | {"MEDCOT_GPU_LOCK": "off"}  # workers share a card on purpose
    workspace = open_workspace(root)
    changes = {
        "seed": seed,
        "max_steps": steps,
        "eval_steps": 0,
        "save_steps": 0,
        "load_best_model_at_end": False,
        "early_stopping_steps": 0,
    }
    params = TrainParams.model_validate({**workspace.train, **changes})
    base = load_base(workspace.root / "models/base/model", workspace.model.quantization, hardware)
    tokenizer = check_transformers_load(workspace.root / "models/base/tokenizer")
    with tempfile.TemporaryDirectory() as scratch:
        config = trainer_config(params, hardware, len(workspace.rows), len(workspace.val), Path(scratch))
        outcome = run(add_adapter(base, params, "demo"), tokenizer, workspace.rows, workspace.val, params, config, hardware)
    losses = [entry["loss"] for entry in outcome.log if "loss" in entry]
    assert outcome.eval_loss is not None
    return np.array(losses), outcome.eval_loss


def windows(curves: Array) -> Array:
    """Means over WINDOWS parts of the run, shape (seeds, parts)."""
    return np.stack([part.mean(1) for part in np.array_split(curves, min(WINDOWS, curves.shape[1]), axis=1)], axis=1)


def spread(values: Array) -> Array:
    """Standard deviation between seeds, the first axis."""
    return values.std(axis=0, ddof=1)


def print_table(losses: dict[str, Array], val: dict[str, Array], steps: int) -> bool:
    """Print the windows and the val loss; returns whether both paths are inside the noise between seeds."""
    print("| Steps | Plain | Fused | Fused − plain | Control − plain | Between seeds | Largest at one step: fused | control |")
    print("|---|---|---|---|---|---|---|---|")
    parts = {name: windows(curves) for name, curves in losses.items()}
    at_once = {name: np.abs(curves - losses["plain"]) for name, curves in losses.items()}
    inside = True
    for i, place in enumerate(np.array_split(np.arange(steps), min(WINDOWS, steps))):
        gaps = {name: (part[:, i] - parts["plain"][:, i]).mean() for name, part in parts.items()}
        noise = spread(parts["plain"])[i]
        inside &= abs(gaps["fused"]) < noise
        most = [at_once[name][:, place].max() for name in ("fused", "control")]
        means = [parts[name][:, i].mean() for name in ("plain", "fused")]
        print(
            f"| {place[0] + 1}–{place[-1] + 1} | {means[0]:.4f} | {means[1]:.4f} | {gaps['fused']:+.1e} | {gaps['control']:+.1e} "
            f"| {noise:.4f} | {most[0]:.1e} | {most[1]:.1e} |"
        )
    gaps = {name: (values - val["plain"]).mean() for name, values in val.items()}
    noise = spread(val["plain"])
    most = [np.abs(val[name] - val["plain"]).max() for name in ("fused", "control")]
    print(
        f"| val, at the end | {val['plain'].mean():.4f} | {val['fused'].mean():.4f} | {gaps['fused']:+.1e} | {gaps['control']:+.1e} "
        f"| {noise:.4f} | {most[0]:.1e} | {most[1]:.1e} |"
    )
    return bool(inside and abs(gaps["fused"]) < noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--device", choices=HARDWARE, default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time, each a process of its own")
    parser.add_argument("--root", type=Path, default=Path())
    asked = parser.parse_args()
    try:
        quantization = open_workspace(asked.root).model.quantization
    except MedcotError as error:
        raise SystemExit(str(error)) from None
    runs = list(itertools.product(VARIANTS, range(1, asked.seeds + 1)))
    rest = [itertools.repeat(value) for value in (asked.root, asked.device, asked.steps, asked.learning_rate)]
    with ProcessPoolExecutor(asked.workers, multiprocessing.get_context("spawn")) as pool:
        made = dict(zip(runs, pool.map(curve, runs, *rest), strict=True))
    seeds = range(1, asked.seeds + 1)
    losses = {variant: np.stack([made[variant, seed][0] for seed in seeds]) for variant in VARIANTS}
    val = {variant: np.array([made[variant, seed][1] for seed in seeds]) for variant in VARIANTS}
    how = f"{asked.device} in {HARDWARE[asked.device].dtype}, {quantization}, learning rate {asked.learning_rate:g}"
    print(f"{asked.steps} steps, {asked.seeds} seeds, {how}\n")
    inside = print_table(losses, val, asked.steps)
    print(f"\nThe difference between the paths is {'inside' if inside else 'OUTSIDE'} the noise between seeds.")


if __name__ == "__main__":
    main()
