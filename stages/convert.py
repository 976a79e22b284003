"""Split, render and audit the records, and write LLaMA-Factory's files: what training reads.

Reads   data/decontaminated        the rows that stay   (params: convert, model)
        data/dedup/pairs.parquet   the near-duplicates that dedup verified
        models/base/tokenizer      the tokenizer that counts and audits
        data/ledger/parts          what the stages before did to every record
Writes  data/llamafactory          {train,val,test}.json, dataset_info.json, train.yaml
        data/ledger/parts/convert.parquet, data/ledger/ledger.parquet   this stage's events; all of them, joined and checked
        data/ledger/lengths.csv    how many rows of each length, for dvc plots
        metrics/convert.json       counts, token lengths; num_input == num_kept + num_removed_* + num_refused_*
On exit 2 only data/ledger/failed/convert.parquet is written: the evidence, until a run succeeds.
Run     dvc repro convert     or     python -m stages.convert
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import polars as pl
from pydantic import Field

from medcot.audit import check_not_all_refused
from medcot.augmentation import get_hooks
from medcot.conversion import Converted, convert, summarise
from medcot.errors import DataError
from medcot.histogram import lengths
from medcot.ledger import SCHEMA, check_complete, events_frame, join_parts, read_frame, write_ledger
from medcot.llamafactory import Format, write_dataset
from medcot.model_params import ModelParams
from medcot.params import load_section
from medcot.records import read_records
from medcot.selection import SelectionParams
from medcot.splits import read_pairs, skeleton, split_of
from medcot.stage import atomic_dir, atomic_file, run_stage, write_metrics
from medcot.tokenizer import load_tokenizer

DECONTAMINATED = Path("data/decontaminated")
PAIRS = Path("data/dedup/pairs.parquet")
TOKENIZER = Path("models/base/tokenizer")
PARTS = Path("data/ledger/parts")
LLAMAFACTORY = Path("data/llamafactory")
LEDGER_PART = Path("data/ledger/parts/convert.parquet")
LEDGER = Path("data/ledger/ledger.parquet")
LENGTHS = Path("data/ledger/lengths.csv")
FAILED = Path("data/ledger/failed/convert.parquet")
METRICS = Path("metrics/convert.json")
log = logging.getLogger("medcot")


class ConvertParams(SelectionParams):
    """Section `convert` of params.yaml."""

    format: Format = "alpaca"
    """Form of the rows: alpaca (instruction, input, output) or sharegpt (conversations)."""
    val_ratio: float = Field(0.1, ge=0, lt=0.5)
    """Expected share of val, 0 to 0.5; a row's place is a hash, so the real share varies with the rows."""
    test_ratio: float = Field(0.1, ge=0, lt=0.5)
    """Expected share of test, 0 to 0.5; raising val_ratio moves no row into or out of test."""
    seed: int = Field(42, ge=0)
    """Seed of the hash; another seed is another split, and other rows within caps and balance."""
    augment: list[str] = Field(default_factory=list)
    """Hooks of medcot/hooks.py that write rows of train once more in another form; none by default."""


def refuse_unusable(result: Converted, template: str) -> None:
    """Stop when no row is left to train on; says so when the label audit refused them all, and leaves the events as evidence."""
    if result.rows["train"]:
        return
    write_ledger(FAILED, events_frame(result.events))
    check_not_all_refused(len(result.events), result.audit_refusals, template, str(TOKENIZER), str(FAILED))
    counts = dict(sorted(Counter(event.rule for event in result.events).items()))
    remedy = f"raise model.cutoff_len, lower the ratios or add rows; {FAILED} says what happened to each"
    raise DataError(str(DECONTAMINATED), "no row is left in train", remedy, got=counts)


def main() -> None:
    """Run the stage."""
    params, model = load_section("convert", ConvertParams), load_section("model", ModelParams)
    hooks = get_hooks(params.augment)
    tok, pairs = load_tokenizer(TOKENIZER), read_pairs(PAIRS)
    earlier = [read_frame(PARTS / f"{stage}.parquet", list(SCHEMA), stage) for stage in ("download", "normalize", "dedup", "decontaminate")]
    result = convert(
        read_records(DECONTAMINATED),
        pairs,
        tok,
        model,
        lambda question: split_of(skeleton(question), params.seed, params.val_ratio, params.test_ratio),
        params,
        params.seed,
        hooks,
    )
    refuse_unusable(result, model.template)
    part = events_frame([*result.events, *result.augmented.events])
    ledger = join_parts([*earlier, part])
    check_complete(ledger)
    with atomic_dir(LLAMAFACTORY) as out:
        write_dataset(out, result.rows, tok, model, params.format, str(LLAMAFACTORY), result.augmented.hooks)
    write_ledger(LEDGER_PART, part)
    write_ledger(LEDGER, ledger)
    with atomic_file(LENGTHS) as file:
        lengths(part.filter(pl.col("action") != "read")).write_csv(file)
    FAILED.unlink(missing_ok=True)
    metrics = summarise(result)
    write_metrics(METRICS, metrics)
    for split in ("val", "test"):
        if not metrics[f"num_{split}"]:
            log.warning("convert: %s is empty; raise convert.%s_ratio or add rows", split, split)
    made = f" and {metrics['num_synthetic']} synthetic" if metrics["num_synthetic"] else ""
    counts = [metrics[f"num_{name}"] for name in ("input", "kept", "train", "val", "test")]
    log.info("convert: %d records, %d kept%s: %d train, %d val, %d test", *counts[:2], made, *counts[2:])


if __name__ == "__main__":
    raise SystemExit(run_stage("convert", main))
