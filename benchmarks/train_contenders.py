"""Who runs in benchmarks/train.py, at which micro-batches, and what ours is held to.

The micro-batches are the largest that fitted on an H200 capped to the setting's memory, then smaller ones for other cards and versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.train_setup import LONGEST, SETTINGS, TINY, Job

ROOT = Path(__file__).resolve().parent.parent
OURS, PEERS, UNSLOTH = "benchmarks.train_ours", "benchmarks.train_peers", "benchmarks.train_unsloth"


@dataclass(frozen=True, slots=True)
class Contender:
    """A way of training: the module that runs it in a process of its own, and its micro-batches by setting."""

    title: str
    module: str
    batches: Mapping[str, Sequence[int]]
    options: Mapping[str, Any] = field(default_factory=dict)
    by_setting: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: str = "medcot"
    """A package without which it cannot run."""


EVERYWHERE: Mapping[str, Sequence[int]] = {"7b": (), "1.7b": ()}
PACKED: Mapping[str, Any] = {"packing": True}
LIGER: Mapping[str, Any] = {"use_liger_kernel": True}
CONTENDERS: dict[str, Contender] = {
    "unsloth-best": Contender(
        "unsloth, packing, no checkpointing",
        UNSLOTH,
        {"7b": (2, 1), "1.7b": (4, 2, 1)},
        {"packing": True, "checkpointing": False},
        needs="unsloth",
    ),
    "unsloth-packed": Contender("unsloth, packing", UNSLOTH, {"1.7b": (12, 8, 4)}, {"packing": True}, needs="unsloth"),
    "unsloth": Contender("unsloth, default", UNSLOTH, {"7b": (24, 16, 12, 8)}, {"packing": False}, needs="unsloth"),
    "fused": Contender("medcot, fused path", OURS, EVERYWHERE, {"path": "fused"}),
    "plain": Contender("medcot, plain path", OURS, EVERYWHERE, {"path": "plain"}),
    "prototype": Contender("prototype", PEERS, EVERYWHERE, by_setting={"7b": {"budget": 5120}, "1.7b": {"budget": 8192}}),
    "trl": Contender("TRL, default (padded)", PEERS, {"7b": (12, 8, 4, 2), "1.7b": (16, 12, 8, 4)}),
    "trl-packed": Contender("TRL, packing, varlen", PEERS, {"7b": (12, 8, 4), "1.7b": (12, 8, 4)}, PACKED),
    "trl-liger": Contender(
        "TRL, packing, varlen, Liger", PEERS, {"7b": (16, 12, 8), "1.7b": (16, 12, 8)}, {**PACKED, **LIGER}, needs="liger_kernel"
    ),
    "trl-liger-free": Contender(
        "TRL, packing, varlen, Liger, no checkpointing",
        PEERS,
        {"7b": (1,), "1.7b": (4, 2, 1)},
        {**PACKED, **LIGER, "gradient_checkpointing": False},
        {"7b": {"pack_tokens": 3584}},  # two packs of 2,048 do not fit, one is over before the next is prepared
        needs="liger_kernel",
    ),
}
FASTEST = ("fused", "prototype", "plain", "unsloth-best", "unsloth-packed", "trl-liger-free")  # what --repeat runs again


@dataclass(frozen=True, slots=True)
class Target:
    """At least `factor` times the speed of `against`, or this MFU where that is None."""

    setting: str
    contender: str
    factor: float
    against: str | None


TARGETS = (
    Target("7b", "plain", 2.5, "trl"),
    Target("7b", "plain", 0.95, "unsloth-best"),
    Target("7b", "fused", 0.98, "prototype"),
    Target("7b", "fused", 3.0, "trl"),
    Target("7b", "fused", 1.15, "unsloth-best"),
    Target("7b", "fused", 1.4, "unsloth"),
    Target("7b", "fused", 0.59, None),
    Target("7b", "fused", 0.65, None),
    Target("1.7b", "plain", 2.8, "trl"),
    Target("1.7b", "fused", 0.98, "prototype"),
    Target("1.7b", "fused", 1.45, "unsloth-packed"),
    Target("1.7b", "fused", 1.45, "unsloth-best"),
)


def make_job(name: str, setting: str, result: Path, *, tokens: int, tiny: bool, whole_card: bool, options: Mapping[str, Any]) -> Job:
    """The job of a contender in a setting; options come on top of its own.

    tokens      real tokens to time, about
    whole_card  take the card's own memory instead of the setting's
    """
    contender = CONTENDERS[name]
    batches = [min(batch, 2) for batch in contender.batches[setting][:1]] if tiny else list(contender.batches[setting])
    return Job(
        contender=name,
        setting=setting,
        shape=SETTINGS[setting].shape,
        cap_gib=None if whole_card else SETTINGS[setting].cap_gib,
        result=str(result),
        tokens=tokens // TINY**2 if tiny else tokens,
        batches=batches,
        options={**contender.options, **contender.by_setting.get(setting, {}), **options},
        tiny=tiny,
    )


# Shape and card of each recipe; eight_versions names a 7B, its sweep a 14B as well.
RECIPES = (
    ("medcot_7b", "7b", 22.5),
    ("guide_7b", "7b", 22.5),
    ("deepdoctor_8b", "8b", 14.8),
    ("eight_versions", "7b", 22.5),
    ("eight_versions", "14b", 22.5),
    ("qwen3_1_7b", "1.7b", 14.8),
)
WHOLE_PASSES = (24, 32)  # rows of 2,048 tokens in one pass of the 7B


def recipe_params(name: str) -> tuple[dict[str, Any], int]:
    """Section `train` of a recipe, run for its memory alone, and its cutoff: one micro-batch a step, no evaluation and no checkpoint."""
    content = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text(encoding="utf-8"))
    quiet = {"eval_steps": 0, "save_steps": 0, "load_best_model_at_end": False, "early_stopping_steps": 0, "num_train_epochs": 1.0}
    return {**content["train"], **quiet, "gradient_accumulation_steps": 1}, content["model"]["cutoff_len"]


def memory_jobs(result: Path, *, tiny: bool) -> list[Job]:
    """Two steps of each recipe on rows as long as it lets them be: as its card takes them, and one row a pass, the least it needs."""
    jobs = []
    for name, shape, cap in RECIPES:
        params, longest = recipe_params(name)
        row_tokens = longest // TINY if tiny else longest
        for way, options in (("", {}), (", a row a pass", {"tokens_per_pass": row_tokens})):
            given = {"path": "auto", "params": params, "row_tokens": row_tokens, "steps": 2, **options}
            jobs.append(Job(f"{name}{way}", shape, shape, cap, str(result), options=given, tiny=tiny, warm_up=1))
    row_tokens = LONGEST // TINY if tiny else LONGEST
    for rows in WHOLE_PASSES:
        params = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 1}
        given = {"path": "auto", "params": params, "row_tokens": row_tokens, "tokens_per_pass": rows * row_tokens, "steps": 2}
        jobs.append(Job(f"{rows} × {row_tokens:,} tokens in one pass", "7b", "7b", 22.5, str(result), options=given, tiny=tiny, warm_up=1))
    return jobs
