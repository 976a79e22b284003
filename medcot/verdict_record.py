"""The verdict as files have it: the whole record, the flat metrics, and the table that dvc plots draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from medcot.endpoints import Measured, as_row
from medcot.observations import Observation
from medcot.observations import as_row as observed_row
from medcot.stage import SCHEMA_VERSION
from medcot.validity import Reason, faults
from medcot.verdict import Gate, Judgement
from medcot.verdict_params import VerdictParams, declaration, declaration_hash

POINTS = 100.0
FIGURES = ("base", "tuned", "difference", "ci_low", "ci_high", "n", "mde")
COMPARISON_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("role", "endpoint", "benchmark"), pl.String),
    **dict.fromkeys(("n", "num_clusters"), pl.Int64),
    **dict.fromkeys(("base", "tuned", "difference", "ci_low", "ci_high", "lower_bound", "mde", "p"), pl.Float64),
    "method": pl.String,
    **dict.fromkeys(("num_better", "num_worse"), pl.Int64),
    **dict.fromkeys(("discordance", "design_effect", "confidence", "p_holm"), pl.Float64),
    **{f"{name}_{arm}": pl.Float64 for name in ("missing", "truncated", "looping") for arm in ("base", "tuned")},
    "unchecked": pl.Int64,
    "faults": pl.String,
}


def verdict_record(
    judgement: Judgement,
    manifest: Mapping[str, Any],
    params: VerdictParams,
    observations: Sequence[Observation],
    looks: int,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything, as JSON: what was declared, what was found, what it rests on.

    manifest  of the tuned arm
    looks     adapters that have looked at this test set; 0 on val
    training  what the training log says; see medcot/training_health.py
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": judgement.verdict,
        "split": str(manifest.get("split", "")),
        "tier": params.tier,
        "declaration": declaration(params),
        "declaration_hash": declaration_hash(params),
        "reasons": [_reason(reason) for reason in judgement.reasons],
        "primary": None if judgement.primary is None else comparison_row(judgement.primary, params),
        "comparisons": [comparison_row(each, params) for each in judgement.measured],
        "gates": [_gate(gate) for gate in judgement.gates],
        "n_to_resolve": judgement.n_to_resolve,
        "guessing": None if judgement.guessing is None else {**asdict(judgement.guessing), "neither": judgement.guessing.neither},
        "observations": [observed_row(each) for each in observations],
        "num_looks": looks,
        "training": None if training is None else dict(training),
        "manifest": dict(manifest),
    }


def _reason(reason: Reason) -> dict[str, Any]:
    return {"name": str(reason), **asdict(reason)}


def _gate(gate: Gate) -> dict[str, Any]:
    return {**asdict(gate), "harmed": list(gate.harmed), "faults": [_reason(fault) for fault in gate.faults]}


def comparison_row(measured: Measured, params: VerdictParams) -> dict[str, Any]:
    """One comparison with the codes of what speaks against reading it, joined by commas; see COMPARISON_SCHEMA."""
    return {**as_row(measured), "faults": ",".join(fault.code for fault in faults(measured, params))}


def comparison_frame(measured: Sequence[Measured], params: VerdictParams) -> pl.DataFrame:
    """One line per comparison; see COMPARISON_SCHEMA."""
    return pl.DataFrame([comparison_row(each, params) for each in measured], schema=COMPARISON_SCHEMA)


def verdict_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flat, finite metrics of a record; what is undefined is left out."""
    found: dict[str, Any] = {name: record[name] for name in ("verdict", "split", "tier", "declaration_hash", "num_looks")}
    found |= {"num_reasons": len(record["reasons"]), "reasons": ",".join(reason["name"] for reason in record["reasons"])}
    found |= {f"gate_{gate['name']}": gate["state"] for gate in record["gates"]}
    found["primary"] = record["declaration"]["primary"]
    if record["n_to_resolve"] is not None:
        found["n_to_resolve"] = record["n_to_resolve"]
    for row in record["comparisons"]:
        if row["role"] in ("primary", "secondary", "forgetting", "safety"):
            name = "primary" if row["role"] == "primary" else metric_name(row["endpoint"])
            found |= {f"{name}_{figure}": row[figure] for figure in FIGURES}
    for row in record["observations"]:
        if row["kind"] == "overfitting":
            found |= {f"overfitting_{figure}": row[figure] for figure in ("difference", "ci_low", "ci_high") if row[figure] is not None}
    return found


def metric_name(endpoint: str) -> str:
    """An endpoint as part of a key: `lm_eval:C-Eval` is `lm_eval_c_eval`."""
    return re.sub(r"[^a-z0-9]+", "_", endpoint.lower()).strip("_")


def forest(record: Mapping[str, Any]) -> pl.DataFrame:
    """The differences that a plot shows, in points out of 100: name, role, difference, ci_low, ci_high."""
    rows = [
        (plot_name(row), row["role"], *(POINTS * row[figure] for figure in ("difference", "ci_low", "ci_high")))
        for row in record["comparisons"]
    ]
    schema = {"name": pl.String, "role": pl.String} | dict.fromkeys(("difference", "ci_low", "ci_high"), pl.Float64)
    return pl.DataFrame(rows, schema=schema, orient="row")


def plot_name(row: Mapping[str, Any]) -> str:
    """A comparison in a word or two, each only once in a record."""
    name = str(row["endpoint"])
    if row["role"] == "contaminated":
        return f"{name} (contaminated)"
    return f"{name}: {row['benchmark']}" if row["benchmark"] else name
