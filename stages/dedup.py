"""Remove exact copies and near-duplicates, and report what looks alike but states another fact.

Reads   data/normalized                  complete records   (params: dedup)
Writes  data/dedup/records.jsonl         the survivors
        data/dedup/pairs.parquet         every pair that was decided: ids a < b, key, jaccard, alignment, verdict, detail
        data/dedup/similarity.csv        how many pairs of each Jaccard, for dvc plots
        data/dedup/rules.json            keys and params, for rows that are compared with the survivors later
        data/dedup/conflicts.jsonl       near-identical survivors that state different facts, side by side, for a reviewer
        data/ledger/parts/dedup.parquet  each removal with its kept witness, each conflict on both sides, duplicates kept by decision
        metrics/dedup.json               num_input == num_kept + every num_removed_*; canaries.<key>: the recall of the search
Run     dvc repro dedup     or     python -m stages.dedup
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from medcot import canaries
from medcot.dedup_params import DedupParams, compared, ranks
from medcot.dedup_rules import RULES_FILE, Rules, write_rules
from medcot.guard import compare
from medcot.histogram import similarities
from medcot.ledger import Event, check_stage, events_frame, write_ledger
from medcot.matching import matching_key
from medcot.neardup import Result, deduplicate
from medcot.params import load_section
from medcot.records import TEXT_FIELDS, Record, read_records, write_jsonl, write_records
from medcot.stage import atomic_dir, log, run_stage, write_metrics

NORMALIZED, DEDUP = Path("data/normalized"), Path("data/dedup")
PART, METRICS = Path("data/ledger/parts/dedup.parquet"), Path("metrics/dedup.json")
RULES = ("exact_copy", "exact_question", "near_duplicate")
PAIR_SCHEMA = {"a": pl.String, "b": pl.String, "key": pl.String, "jaccard": pl.Float64, "alignment": pl.Float64} | {
    "verdict": pl.String,
    "detail": pl.String,
}


def dedup(records: Sequence[Record], params: DedupParams) -> Result:
    """Compare the records by the whole row and by the question."""
    ids, decided = [record.id for record in records], {record.id for record in records if record.decision}
    return deduplicate(ids, compared(records, params), ranks(records), params.seed, params.canaries, decided)


def events(result: Result, records: Sequence[Record]) -> Iterator[Event]:
    """The ledger's events: conflicts on both sides, duplicates that a curator keeps both, and the removals."""
    for pair in result.conflicts:
        for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
            yield Event(one, "dedup", "conflict", "conflict", f"{pair.key}: {pair.detail}", other, pair.jaccard)
    for (a, b), keys in result.overruled.items():
        detail = f"duplicate by {' and '.join(keys)}; kept by the curator"
        for one, other in ((a, b), (b, a)):
            yield Event(one, "dedup", "flagged", "curator", detail, other, max(keys.values()))
    answers = {record.id: matching_key(record.answer) for record in records}
    for removal in result.removals:
        # A copy of the question may answer otherwise: it goes all the same, and the curator can find it.
        kinds = compare(answers[removal.id], answers[removal.related_id], strict_below=0).kinds
        detail = f"{removal.key}; the answers differ: {', '.join(kinds)}" if kinds else removal.key
        yield Event(removal.id, "dedup", "removed", removal.rule, detail, removal.related_id, removal.similarity)


def conflict_rows(result: Result, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Each conflict with the texts of both sides and the places where their matching keys differ."""
    by_id = {record.id: record for record in records}
    for pair in result.conflicts:
        sides = {
            side: {"id": row, **{name: getattr(by_id[row], name) for name in TEXT_FIELDS}} for side, row in (("a", pair.a), ("b", pair.b))
        }
        yield {"key": pair.key, "differs": pair.detail, "places": pair.places, "jaccard": pair.jaccard, **sides}


def summarise(result: Result) -> dict[str, Any]:
    """Counts and rates; a cluster is a kept row with all rows it stands for."""
    rules = Counter(removal.rule for removal in result.removals)
    num_input = len(result.kept) + len(result.removals)
    return {
        "num_input": num_input,
        "num_kept": len(result.kept),
        **{f"num_removed_{rule}": rules[rule] for rule in RULES},
        "num_conflicts": len({(pair.a, pair.b) for pair in result.conflicts}),
        "removed_rate": len(result.removals) / num_input if num_input else 0.0,
        "largest_cluster": result.largest_cluster,
        "canaries": {key: search.canaries for key, search in result.searches.items()},
    }


def main() -> None:
    """Read the normalized records, deduplicate them, and write survivors, pairs, conflicts and ledger part."""
    params = load_section("dedup", DedupParams)
    records = read_records(NORMALIZED)
    result = dedup(records, params)
    check_stage("dedup", [record.id for record in records], result.kept, [removal.id for removal in result.removals])
    kept = set(result.kept)
    with atomic_dir(DEDUP) as out:
        write_records(out, (record for record in records if record.id in kept))
        write_jsonl(out / "conflicts.jsonl", conflict_rows(result, records))
        rows = [{name: value for name, value in asdict(pair).items() if name in PAIR_SCHEMA} for pair in result.pairs]
        pairs = pl.DataFrame(rows, schema=PAIR_SCHEMA)
        pairs.write_parquet(out / "pairs.parquet", compression="zstd", statistics=False)
        thresholds = {"question": params.question.threshold, "row": params.row.threshold}
        similarities(pairs, {key: search.below for key, search in result.searches.items()}, thresholds).write_csv(out / "similarity.csv")
        write_rules(out / RULES_FILE, Rules({"row": params.row, "question": params.question}, params.seed))
    write_ledger(PART, events_frame(events(result, records)))
    metrics = summarise(result)
    write_metrics(METRICS, metrics)
    for key, search in result.searches.items():
        if line := canaries.warning(key, search.canaries):
            log.warning(line)
    log.info("dedup: %d records, %d kept, %d conflicts to review", metrics["num_input"], metrics["num_kept"], metrics["num_conflicts"])


if __name__ == "__main__":
    raise SystemExit(run_stage("dedup", main))
