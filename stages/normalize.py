"""Carry out the curator's decisions, normalise the texts by named, medical-safe rules, and end what is not fit to train on.

Reads   data/raw                             raw records, one at a time; whether the source is public   (params: normalize)
        data/curation/decisions.csv          what a curator decided about single rows
Writes  data/normalized                      records.jsonl; quarantine.jsonl with the raw fields of every row that ended, and why;
                                             unknown_decisions.csv, the decisions about rows that are not there
        data/ledger/parts/normalize.parquet  every change, every flag, every end
        metrics/normalize.json               counts and rates; num_input == num_kept + every num_refused_* + every num_removed_*
On exit 2 only data/ledger/failed/normalize.{parquet,quarantine.jsonl} are written: the evidence, until a run succeeds.
Run     dvc repro normalize     or     python -m stages.normalize
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from tqdm import tqdm

from medcot.decisions import Decision, read_decisions, write_decisions
from medcot.errors import DataError
from medcot.ledger import check_counts
from medcot.ledger_writer import ledger_writer
from medcot.normalization import normalize_record, quarantine_row
from medcot.normalize_metrics import Tally, find_fault
from medcot.normalize_params import NormalizeParams, Policy
from medcot.params import load_section
from medcot.records import RECORDS_FILE, is_public, iter_raw_records, jsonl_writer, record_row
from medcot.stage import atomic_dir, atomic_file, run_stage, write_metrics

RAW = Path("data/raw")
DECISIONS = Path("data/curation/decisions.csv")
NORMALIZED = Path("data/normalized")
LEDGER = Path("data/ledger/parts/normalize.parquet")
FAILED_LEDGER = Path("data/ledger/failed/normalize.parquet")
FAILED_QUARANTINE = Path("data/ledger/failed/normalize.quarantine.jsonl")
METRICS = Path("metrics/normalize.json")
log = logging.getLogger("medcot")


def write_outputs(out: Path, part: Path, policy: Policy, decisions: dict[str, Decision]) -> Tally:
    """Read, judge and write one record after another, in the order of their ids; only counts stay in memory."""
    tally, num_ended = Tally(), 0
    with jsonl_writer(out / RECORDS_FILE) as keep, jsonl_writer(out / "quarantine.jsonl") as lay_aside, ledger_writer(part) as ledger:
        for raw in tqdm(iter_raw_records(RAW), desc="normalize", unit="row", disable=None):
            decision = decisions.get(raw.content_hash) if decisions else None
            outcome = normalize_record(raw, policy, decision)
            if outcome.record is not None:
                keep(record_row(outcome.record))
            if outcome.ended is not None:
                lay_aside(quarantine_row(raw, outcome.ended))
                num_ended += 1
            ledger.add(outcome.events)
            tally.add(outcome, decision)
    check_counts("normalize", tally.num_input, tally.num_kept, ledger.num_ended)
    check_counts("normalize", tally.num_input, tally.num_kept, num_ended)
    unknown = [decision for key, decision in sorted(decisions.items()) if key not in tally.decided]
    write_decisions(out / "unknown_decisions.csv", unknown)
    return tally


def keep_evidence(part: Path, quarantine: Path) -> None:
    """Keep what a run found out that refuses the data as a whole; its outputs are discarded."""
    for source, target in ((part, FAILED_LEDGER), (quarantine, FAILED_QUARANTINE)):
        with atomic_file(target) as out:
            shutil.copyfile(source, out)


def main() -> None:
    """Run the stage."""
    params, decisions = load_section("normalize", NormalizeParams), read_decisions(DECISIONS)
    policy = params.policy(is_public(RAW))
    with atomic_file(LEDGER) as part, atomic_dir(NORMALIZED) as out:
        metrics = write_outputs(out, part, policy, decisions).metrics(decisions, policy.pii)
        fault = find_fault(metrics, params.max_bad_ratio)
        if fault:
            keep_evidence(part, out / "quarantine.jsonl")
            raise DataError(str(RAW), fault, f"see {FAILED_QUARANTINE} and {FAILED_LEDGER}, mend the source and run again")
    FAILED_LEDGER.unlink(missing_ok=True)
    FAILED_QUARANTINE.unlink(missing_ok=True)
    write_metrics(METRICS, metrics)
    if metrics["num_decisions_unknown"]:
        unknown, path = metrics["num_decisions_unknown"], NORMALIZED / "unknown_decisions.csv"
        log.warning("normalize: %d of %d decisions are about rows that are not there: see %s", unknown, len(decisions), path)
    counts = [metrics[f"num_{name}"] for name in ("input", "kept", "changed")]
    log.info("normalize: %d records, %d kept, %d changed, %d refused or removed", *counts, counts[0] - counts[1])


if __name__ == "__main__":
    raise SystemExit(run_stage("normalize", main))
