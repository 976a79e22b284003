"""Remove the rows that contain an item of a benchmark, with their near-duplicates, and mark the items.

Reads   data/dedup                         survivors and their verified pairs   (params: decontaminate)
        data/benchmarks                    any number of benchmark files, yours
        data/general                       general questions and texts, yours, which show forgetting
        data/suites                        our own, which show forgetting and mistakes
        data/sample/{benchmark,knowledge}.jsonl   the sample's own, with sample_benchmark
Writes  data/decontaminated/records.jsonl  the rows that stay
        data/decontaminated/hits.parquet   every row and item that meet: id, benchmark, item, how, similarity, detail, kept
        data/decontaminated/items.parquet  every item: contaminated or not, how, similarity, num_hits, num_kept
        data/ledger/parts/decontaminate.parquet   each removal with its item, or the hit row of its cluster
        metrics/decontaminate.json         num_input == num_kept + num_removed_*; counts by benchmark
No text of a benchmark is written anywhere.
Run     dvc repro decontaminate     or     python -m stages.decontaminate
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from medcot.benchmarks import Item, read_benchmarks
from medcot.contamination import ContaminationParams, find_hits
from medcot.decontamination import decontaminate, hits_frame, items_frame, summarise
from medcot.errors import DataError
from medcot.general_texts import read_general_items
from medcot.ledger import check_stage, events_frame, write_ledger
from medcot.params import load_section
from medcot.records import read_records, write_records
from medcot.splits import read_pairs
from medcot.stage import atomic_dir, run_stage, write_metrics

DEDUP, BENCHMARKS, GENERAL = Path("data/dedup"), Path("data/benchmarks"), Path("data/general")
SAMPLES = {"sample": Path("data/sample/benchmark.jsonl"), "sample_facts": Path("data/sample/knowledge.jsonl")}
SUITES = Path("data/suites")
CHECKED_SUITES = ("general_choice", "general_answer", "general_text", "instructions", "red_flags")
DECONTAMINATED = Path("data/decontaminated")
PART, METRICS = Path("data/ledger/parts/decontaminate.parquet"), Path("metrics/decontaminate.json")
log = logging.getLogger("medcot")


class DecontaminateParams(ContaminationParams):
    """Section `decontaminate` of params.yaml."""

    sample_benchmark: bool = False
    """Check against the sample's own benchmarks too; true shows the stage at work on the sample, false is for your data."""


def main() -> None:
    """Read records and benchmarks, find what they share, and write the rest, the hits, the marks and the ledger part."""
    params = load_section("decontaminate", DecontaminateParams)
    benchmarks = read_benchmarks(BENCHMARKS, SAMPLES if params.sample_benchmark else {})
    items = [*benchmarks, *read_others({*SAMPLES, *(item.benchmark for item in benchmarks)})]
    records, pairs = read_records(DEDUP), read_pairs(DEDUP / "pairs.parquet")
    result = decontaminate(records, find_hits(records, items, params), pairs)
    check_stage("decontaminate", [record.id for record in records], result.kept, result.removed)
    kept = set(result.kept)
    with atomic_dir(DECONTAMINATED) as out:
        write_records(out, (record for record in records if record.id in kept))
        hits_frame(result).write_parquet(out / "hits.parquet", compression="zstd", statistics=False)
        items_frame(result, items).write_parquet(out / "items.parquet", compression="zstd", statistics=False)
    write_ledger(PART, events_frame(result.events))
    metrics = summarise(result, items)
    write_metrics(METRICS, metrics)
    if not benchmarks:
        log.warning("decontaminate: no benchmark in %s, so nothing is checked; put the files there that you will report", BENCHMARKS)
    log.info("decontaminate: %d records, %d kept, %d benchmark items", metrics["num_input"], metrics["num_kept"], len(items))


def read_others(names: Collection[str]) -> list[Item]:
    """What shows forgetting and mistakes: your general questions and texts, and our own suites.

    names  of the benchmarks, from which they must differ: marks are kept by name
    """
    if not SUITES.is_dir():
        raise DataError(str(SUITES), "the folder of our own questions is missing", f"bring it back with `git checkout {SUITES}`")
    items = read_general_items(GENERAL, {name: SUITES / f"{name}.jsonl" for name in CHECKED_SUITES})
    if taken := next((item.benchmark for item in items if item.benchmark in names), None):
        cause = f"a benchmark has the name of a file in {GENERAL} or of a suite in {SUITES}"
        raise DataError(str(BENCHMARKS), cause, "rename one of them", got=taken)
    return items


if __name__ == "__main__":
    raise SystemExit(run_stage("decontaminate", main))
