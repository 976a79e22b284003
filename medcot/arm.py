"""What one model did with the evidence: tables of rows, replies, scores and health, with the manifest they were measured under.

Every number of the verdict can be traced to a line here: an NLL to a row and segment, a score to an item, a rate to a reply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from errno import ENOENT
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medcot.errors import DataError
from medcot.health import HEALTH_SCHEMA, MEASURES, summarise
from medcot.records import read_jsonl, write_jsonl
from medcot.replies import CLOSED
from medcot.statistics import ratio
from medcot.tasks import CHANCE, REPLY_SCHEMA, SCORE_SCHEMA, ProbeReply, reply_frame, score_frame

HELDOUT_SET, TRAIN_SET, GENERAL_SET = "heldout", "train", "general"
"""Rows whose likelihood is measured: those of the split, as many training rows, and general texts."""
SETS = (HELDOUT_SET, TRAIN_SET, GENERAL_SET)
SEGMENTS = ("reasoning", "answer_given_gold", "answer_given_empty_think", "end")
TEXT = "text"
"""The one segment of a general text."""
POOLED = {**{name: (name,) for name in (*SEGMENTS, TEXT)}, "all": ("reasoning", "answer_given_gold")}
KEYS = ["set", "id", "segment"]
SIZES = ["num_tokens", "num_chars", "num_bytes"]
ROW_SCHEMA: dict[str, Any] = {**dict.fromkeys(KEYS, pl.String), "nll": pl.Float64, **dict.fromkeys(SIZES, pl.Int64)}
DIVERGENCE_SCHEMA: dict[str, Any] = {"id": pl.String, "num_tokens": pl.Int64, "kl": pl.Float64, "top1": pl.Int64}
"""Of each general text: kl in nats, summed over its tokens; top1, the tokens on which both models find the same one likeliest."""
ROWS_FILE, PROBES_FILE, MANIFEST_FILE = "rows.parquet", "probes.jsonl", "manifest.json"
REPLIES_FILE, SCORES_FILE, HEALTH_FILE = "replies.parquet", "scores.parquet", "health.parquet"
DIVERGENCE_FILE = "divergence.parquet"
SCHEMAS: dict[str, dict[str, Any]] = {
    ROWS_FILE: ROW_SCHEMA,
    REPLIES_FILE: REPLY_SCHEMA,
    SCORES_FILE: SCORE_SCHEMA,
    HEALTH_FILE: HEALTH_SCHEMA,
    DIVERGENCE_FILE: DIVERGENCE_SCHEMA,
}
MAY_BE_NULL = ("contaminated", *MEASURES)
MAX_EXPONENT = 700.0  # exp of more is not a float64: such a perplexity is left out


@dataclass(frozen=True, slots=True)
class Arm:
    """What one model did.

    frame     ROW_SCHEMA: one line per set, row and segment, nll summed in nats; sorted within its set by id
    probes    one reply per probe, in the order of the params
    manifest  what the arm was measured with; see evaluation.describe_arm
    replies   tasks.REPLY_SCHEMA: every generated reply
    scores    tasks.SCORE_SCHEMA: every score
    health    one line per reply to a held-out question; see medcot/health.py
    """

    frame: pl.DataFrame
    probes: list[ProbeReply]
    manifest: dict[str, Any]
    replies: pl.DataFrame = field(default_factory=lambda: reply_frame([]))
    scores: pl.DataFrame = field(default_factory=lambda: score_frame([]))
    health: pl.DataFrame = field(default_factory=pl.DataFrame)


def write_arm(directory: Path, arm: Arm) -> None:
    """Write an arm's tables, its probes and, last, its manifest."""
    tables = {ROWS_FILE: arm.frame, REPLIES_FILE: arm.replies, SCORES_FILE: arm.scores, HEALTH_FILE: arm.health}
    for name, table in tables.items():
        table.write_parquet(directory / name, compression="zstd", statistics=False)
    write_jsonl(directory / PROBES_FILE, (asdict(reply) for reply in arm.probes))
    (directory / MANIFEST_FILE).write_text(json.dumps(arm.manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_arm(directory: Path, remedy: str) -> Arm:
    """Read what write_arm wrote.

    Raises DataError with the given remedy when a file is missing or broken, or holds other columns, nulls or numbers that are not finite.
    """
    try:
        manifest = _read_manifest(directory / MANIFEST_FILE)
        probes = [ProbeReply(**row) for row in read_jsonl(directory / PROBES_FILE)]
        rows, *others = (_read_table(directory / name) for name in (ROWS_FILE, REPLIES_FILE, SCORES_FILE, HEALTH_FILE))
        return Arm(rows, probes, manifest, *others)
    except FileNotFoundError as error:
        raise DataError(str(error.filename or directory), "the arm is missing", remedy) from None
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(str(directory), "the arm cannot be read", remedy, got=str(error)) from None


def read_divergence(directory: Path, remedy: str) -> pl.DataFrame | None:
    """The tuned arm's divergence.parquet, None where there is none; DataError as read_arm raises it."""
    path = directory / DIVERGENCE_FILE
    try:
        return _read_table(path) if path.exists() else None
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(str(path), "the file cannot be read", remedy, got=str(error)) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    for start, kind in (("num_", int), (CHANCE, float)):
        if wrong := next((key for key, value in content.items() if key.startswith(start) and type(value) is not kind), None):
            raise ValueError(f"{path.name}: {wrong} is no number")
    return content


def _read_table(path: Path) -> pl.DataFrame:
    """Read a table of SCHEMAS; ValueError for what write_arm cannot have written: a null score would count as wrong."""
    if not path.exists():
        raise FileNotFoundError(ENOENT, "no such file", str(path))
    frame, schema = pl.read_parquet(path, glob=False), SCHEMAS[path.name]
    if not frame.width and path.name == HEALTH_FILE:  # of an arm that was asked nothing
        return frame
    if dict(frame.schema) != schema:
        raise ValueError(f"{path.name} has other columns: {', '.join(f'{name} {kind}' for name, kind in frame.schema.items())}")
    for name in schema:
        column = frame[name]
        if column.null_count() and name not in MAY_BE_NULL:
            raise ValueError(f"{path.name}: {name} is missing in {column.null_count()} lines")
        if column.dtype == pl.Float64 and not column.drop_nulls().is_finite().all():
            raise ValueError(f"{path.name}: {name} is not finite in some line")
    return frame


def pool(frame: pl.DataFrame, segment: str) -> pl.DataFrame:
    """One line per row for a segment, or for `all`: the sums over its parts, in id order."""
    return frame.filter(pl.col("segment").is_in(POOLED[segment])).drop("segment", "set").group_by("id").sum().sort("id")


def pooled_segments(frame: pl.DataFrame, name: str = HELDOUT_SET) -> dict[str, pl.DataFrame]:
    """Every segment and `all` of one set, pooled; a segment without a token is left out, since its mean is undefined."""
    rows = frame.filter(pl.col("set") == name)
    pooled = {segment: pool(rows, segment) for segment in POOLED}
    return {segment: table for segment, table in pooled.items() if table["num_tokens"].sum() > 0}


def nll_metrics(pooled: pl.DataFrame, nll: str = "nll") -> dict[str, float]:
    """Mean NLL per token (nats) with its standard error over rows, perplexity, and bits per character where there are any."""
    estimate = ratio(pooled[nll], pooled["num_tokens"])
    metrics = {"nll": estimate.value}
    if estimate.value < MAX_EXPONENT:
        metrics["perplexity"] = math.exp(estimate.value)
    if estimate.se is not None:
        metrics["nll_se"] = estimate.se
    if chars := int(pooled["num_chars"].sum()):
        metrics["bits_per_char"] = float(np.sum(pooled[nll].to_numpy())) / math.log(2) / chars
    return metrics


def set_metrics(frame: pl.DataFrame, name: str) -> dict[str, Any]:
    """The metrics of each segment of one set of rows; empty where the set has none."""
    return {
        segment: {**nll_metrics(rows), "num_tokens": int(rows["num_tokens"].sum())}
        for segment, rows in pooled_segments(frame, name).items()
    }


def score_metrics(scores: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Mean score, items, replies and failed replies of each endpoint; failed ones count as 0.

    Over all items, contaminated ones too, and without an interval: clean items apart, and intervals, are the verdict's.
    """
    found = {}
    for (endpoint,), rows in scores.sort("endpoint").group_by("endpoint", maintain_order=True):
        items = rows.group_by("benchmark", "item").agg(pl.col("score").mean()).sort("benchmark", "item")
        found[str(endpoint)] = {
            "score": float(items["score"].to_numpy().mean()),
            "num_items": items.height,
            "num_replies": rows.height,
            "num_failed": rows.filter(pl.col("status") != "ok").height,
        }
    return found


def arm_metrics(arm: Arm) -> dict[str, Any]:
    """The metrics of one arm: its manifest, each segment, the other sets of rows, its scores, its health and its probes."""
    others = {name: set_metrics(arm.frame, name) for name in (TRAIN_SET, GENERAL_SET)}
    return {
        **arm.manifest,
        **set_metrics(arm.frame, HELDOUT_SET),
        **{name: values for name, values in others.items() if values},
        "endpoints": score_metrics(arm.scores),
        **health_metrics(arm.health),
        "probes": probe_metrics(arm.probes),
    }


def health_metrics(health: pl.DataFrame) -> dict[str, Any]:
    """Rates and means over the replies to held-out questions; empty where there are none."""
    return {"health": summarise(health)} if health.height else {}


def probe_metrics(replies: Sequence[ProbeReply]) -> dict[str, int]:
    """Counts over the probes; no quality is measured here."""
    return {
        "num_probes": len(replies),
        "num_closed": sum(reply.think_state in CLOSED for reply in replies),
        "num_truncated": sum(reply.truncated for reply in replies),
        "num_new_tokens": sum(reply.num_new_tokens for reply in replies),
    }
