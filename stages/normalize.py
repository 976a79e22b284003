"""Normalise the texts by named, medical-safe rules and refuse what is not a complete, clean record.

Reads   data/raw                             (params: normalize)
Writes  data/normalized                      records.jsonl, and quarantine.jsonl with the raw fields of every refused row
        data/ledger/parts/normalize.parquet  every rule that changed a record, every flag, every refusal
        metrics/normalize.json               counts and rates; num_input == num_kept + every num_refused_*
On exit 2 only data/ledger/failed/normalize.{parquet,quarantine.jsonl} are written: the evidence, until a run succeeds.
Run     dvc repro normalize     or     python -m stages.normalize
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from tqdm import tqdm

from medcot.errors import DataError
from medcot.ledger import events_frame, write_ledger
from medcot.normalization import find_fault, normalize, summarise
from medcot.params import Params, load_section
from medcot.records import read_raw_records, write_jsonl, write_records
from medcot.stage import atomic_dir, atomic_file, run_stage, write_metrics

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
LEDGER = Path("data/ledger/parts/normalize.parquet")
FAILED_LEDGER = Path("data/ledger/failed/normalize.parquet")
FAILED_QUARANTINE = Path("data/ledger/failed/normalize.quarantine.jsonl")
METRICS = Path("metrics/normalize.json")
log = logging.getLogger("medcot")


class NormalizeParams(Params):
    """Section `normalize` of params.yaml."""

    max_bad_ratio: float = Field(ge=0.0, le=1.0)
    """Share of unreadable rows, 0 to 1, above which the file itself is refused; rows refused for other reasons do not count."""


def main() -> None:
    """Run the stage."""
    params = load_section("normalize", NormalizeParams)
    result = normalize(tqdm(read_raw_records(RAW), desc="normalize", unit="row", disable=None))
    metrics = summarise(result)
    fault = find_fault(metrics, params.max_bad_ratio)
    if fault:
        write_ledger(FAILED_LEDGER, events_frame(result.events))
        with atomic_file(FAILED_QUARANTINE) as out:
            write_jsonl(out, result.quarantine)
        raise DataError(str(RAW), fault, f"see {FAILED_QUARANTINE} and {FAILED_LEDGER}, mend the source and run again")
    with atomic_dir(NORMALIZED) as directory:
        write_records(directory, result.kept)
        write_jsonl(directory / "quarantine.jsonl", result.quarantine)
    write_ledger(LEDGER, events_frame(result.events))
    FAILED_LEDGER.unlink(missing_ok=True)
    FAILED_QUARANTINE.unlink(missing_ok=True)
    write_metrics(METRICS, metrics)
    num_input, num_kept, num_changed = metrics["num_input"], metrics["num_kept"], metrics["num_changed"]
    log.info("normalize: %d records, %d kept, %d changed, %d refused", num_input, num_kept, num_changed, num_input - num_kept)


if __name__ == "__main__":
    raise SystemExit(run_stage("normalize", main))
