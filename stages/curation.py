"""Write the curator's page: what cleaning did to every record, in one file that opens without a network.

Reads   data/ledger/ledger.parquet, data/ledger/lengths.csv   every record's fate   (params: curation, normalize)
        data/raw, data/normalized    the texts before and after
        data/dedup, data/decontaminated   conflicts, similarities, benchmark hits
        data/curation/decisions.csv  what a curator decided so far
Writes  data/curation/curation.html  open it in a browser; personal data in it is masked
        metrics/curation.json        num_read == num_kept + num_left_out
Run     dvc repro curation     or     python -m stages.curation
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from medcot.decisions import read_decisions
from medcot.errors import DataError
from medcot.ledger import SCHEMA, check_complete, read_frame
from medcot.normalization import steps
from medcot.normalize_params import NormalizeParams
from medcot.page import render
from medcot.page_data import Inputs, build
from medcot.params import Params, load_section
from medcot.records import is_public, read_jsonl, read_raw_records, read_records, remake
from medcot.stage import atomic_file, log, run_stage, write_metrics

LEDGER, LENGTHS = Path("data/ledger/ledger.parquet"), Path("data/ledger/lengths.csv")
RAW, NORMALIZED = Path("data/raw"), Path("data/normalized")
DEDUP, DECONTAMINATED = Path("data/dedup"), Path("data/decontaminated")
DECISIONS = Path("data/curation/decisions.csv")
PAGE, METRICS = Path("data/curation/curation.html"), Path("metrics/curation.json")
HITS = ("id", "benchmark", "item", "how", "similarity", "kept")


class CurationParams(Params):
    """Section `curation` of params.yaml."""

    sample_size: int = Field(20, ge=0, le=1000)
    """Records drawn at random for each rule, for a person to judge; more of them narrow the interval and enlarge the page."""
    seed: int = Field(42, ge=0)
    """Seed of the draws; another seed draws other records."""


def read_counts(path: Path, stage: str) -> list[dict[str, Any]]:
    """Read the counts of a histogram; DataError when the file is missing or damaged."""
    if not path.exists():
        raise DataError(str(path), "the file is missing", "run `dvc repro`, or the stage that writes it, first")
    try:
        return pl.read_csv(path).to_dicts()
    except pl.exceptions.PolarsError as error:
        raise DataError(str(path), "the file is damaged", remake(stage), got=str(error)) from None


def read_inputs() -> Inputs:
    """Read what the stages wrote; DataError for a file that is missing or damaged."""
    decisions, policy = read_decisions(DECISIONS), load_section("normalize", NormalizeParams).policy(is_public(RAW))
    ledger = read_frame(LEDGER, list(SCHEMA), "convert")
    check_complete(ledger)
    return Inputs(
        ledger,
        read_raw_records(RAW),
        read_records(NORMALIZED),
        read_jsonl(DEDUP / "conflicts.jsonl"),
        read_frame(DECONTAMINATED / "hits.parquet", HITS, "decontaminate").to_dicts(),
        read_counts(LENGTHS, "convert"),
        read_counts(DEDUP / "similarity.csv", "dedup"),
        [asdict(decision) for _, decision in sorted(decisions.items())],
        lambda raw: steps(raw, decisions.get(raw.content_hash), policy),
        searched=policy.pii != "off",
    )


def main() -> None:
    """Run the stage."""
    params = load_section("curation", CurationParams)
    page = build(read_inputs(), params.sample_size, params.seed)
    with atomic_file(PAGE) as out:
        out.write_text(render(page.core, page.texts), encoding="utf-8", newline="\n")
    write_metrics(METRICS, page.metrics)
    log.info("curation: %s, %d records, the texts of %d", PAGE, page.metrics["num_read"], page.metrics["num_texts"])


if __name__ == "__main__":
    raise SystemExit(run_stage("curation", main))
