"""Bring the source rows into the pipeline: give each an id and its fields, and sample if asked to.

Reads   data/sample/records.jsonl  or  data/import/<file>  or  a data set's file on a hub, through its cache     (params: download)
Writes  data/raw                            one raw record a row, unreadable rows with their error and raw text; source.json: is it public
        data/ledger/parts/download.parquet  one `read` event a row, with its position in the source; `removed` for rows not sampled
        metrics/download.json               num_read == num_kept + num_removed_max_samples; of a hub, the commit and the hash
Run     dvc repro download     or     python -m stages.download
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from medcot.checks import UNREADABLE_CODES
from medcot.errors import MachineError
from medcot.hub_params import HubParams, check_num_rows
from medcot.ledger import events_frame, write_ledger
from medcot.mapping import MAPPINGS, FieldParams, Mapping, choose_mapping, to_raw_records
from medcot.params import Params, load_section
from medcot.records import write_records, write_source
from medcot.sampling import Sampled, sample
from medcot.sources import import_path, read_rows
from medcot.stage import atomic_dir, run_stage, write_metrics

SAMPLE = Path("data/sample/records.jsonl")
IMPORT = Path("data/import")
RAW = Path("data/raw")
LEDGER, METRICS = Path("data/ledger/parts/download.parquet"), Path("metrics/download.json")
log = logging.getLogger("medcot")


class DownloadParams(Params):
    """Section `download` of params.yaml."""

    source: Literal["sample", "file", "hub"]
    """sample: the corpus in data/sample; file: a file that you put into data/import; hub: a file of a data set on a hub."""
    file: str
    """For source file: a name inside data/import, with the extension .json, .jsonl, .csv or .parquet."""
    hub: HubParams = HubParams()
    """For source hub: which file, at which commit, and what it must be."""
    mapping: Literal["auto", "o1", "question_think_answer", "alpaca"]
    """Which columns hold the fields; auto takes the ready mapping with the most columns present."""
    fields: FieldParams | None = None
    """A mapping of your own, in place of `mapping`: the columns of question, reasoning and answer, and of category and source if there."""
    max_samples: int = Field(ge=0)
    """Rows to keep, 0 for all; a row's place in the seeded order depends on its id alone."""
    seed: int = Field(ge=0)
    """Seed of that order; another seed keeps other rows."""

    def wanted_mapping(self) -> Mapping | None:
        """Return the mapping asked for, or None for auto."""
        if self.fields is not None:
            return Mapping("custom", **self.fields.model_dump())
        return MAPPINGS.get(self.mapping)


class Source(NamedTuple):
    """The file to read, the name that its records carry, and what the metrics say of it."""

    path: Path
    name: str
    metrics: dict[str, Any]


def find_source(params: DownloadParams) -> Source:
    """The sample, a file that the user put there, or one that is fetched from a hub now."""
    if params.source == "sample":
        return Source(SAMPLE, "sample", {})
    if params.source == "file":
        return Source(import_path(IMPORT, params.file), params.file, {})
    try:
        from medcot.hub_data import fetch_data_file  # the hub's client takes longer to load than all else here
    except ValueError as error:  # and reads its settings as it is loaded
        cause, remedy = "no connection can be set up with these settings", "check HF_ENDPOINT and the other HF_ variables"
        raise MachineError("environment", cause, remedy, got=str(error)) from None
    file = fetch_data_file(params.hub)
    return Source(file.path, f"{params.hub.repo}/{file.name}", {"hub": file.metrics(params.hub)})


def summarise(result: Sampled, mapping: str) -> dict[str, Any]:
    """Count what was read, what goes on, and the unreadable rows by code."""
    num_read = sum(event.action == "read" for event in result.events)
    errors = Counter(event.rule for event in result.events if event.action == "read")
    return {
        "mapping": mapping,
        "num_read": num_read,
        "num_kept": len(result.kept),
        "num_removed_max_samples": num_read - len(result.kept),
        "num_unreadable": sum(errors[code] for code in UNREADABLE_CODES),
        **{f"num_{code}": errors[code] for code in (*UNREADABLE_CODES, "think_block")},
    }


def main() -> None:
    """Run the stage."""
    params = load_section("download", DownloadParams)
    source = find_source(params)
    rows = read_rows(source.path)
    if params.source == "hub":
        check_num_rows(params.hub, rows)
    mapping = choose_mapping(rows, params.wanted_mapping(), str(source.path))
    name = mapping.name if mapping else "none"
    result = sample(to_raw_records(rows, mapping, source.name), name, params.max_samples, params.seed)
    with atomic_dir(RAW) as out:
        write_records(out, result.kept)
        write_source(out, params.source, public=params.source != "file")  # your own file is private until you say otherwise
    write_ledger(LEDGER, events_frame(result.events))
    metrics = summarise(result, name) | source.metrics
    write_metrics(METRICS, metrics)
    counts = [metrics[key] for key in ("num_read", "num_kept", "num_unreadable")]
    log.info("download: %s: %d rows read, %d kept, %d unreadable, mapping %s", source.path, *counts, name)


if __name__ == "__main__":
    raise SystemExit(run_stage("download", main))
