"""Bring the source rows into the pipeline: give each an id and its fields, and sample if asked to.

Reads   data/sample/records.jsonl  or  data/import/<file>     (params: download)
Writes  data/raw                            one raw record a row, unreadable rows with their error and raw text
        data/ledger/parts/download.parquet  one `read` event a row, with its position in the source; `removed` for rows not sampled
        metrics/download.json               num_read == num_kept + num_removed_max_samples
Run     dvc repro download     or     python -m stages.download
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from medcot.checks import UNREADABLE_CODES
from medcot.ledger import Event, check_stage, events_frame, write_ledger
from medcot.mapping import MAPPINGS, Mapping, choose_mapping, to_raw_records
from medcot.params import Params, load_section
from medcot.records import RawRecord, seeded_order, write_records
from medcot.sources import import_path, read_rows
from medcot.stage import atomic_dir, run_stage, write_metrics

SAMPLE = Path("data/sample/records.jsonl")
IMPORT = Path("data/import")
RAW = Path("data/raw")
LEDGER = Path("data/ledger/parts/download.parquet")
METRICS = Path("metrics/download.json")
log = logging.getLogger("medcot")


class FieldParams(Params):
    """Column names of a source that fits no ready mapping."""

    question: str
    """The column with the question."""
    reasoning: str
    """The column with the chain of thought."""
    answer: str
    """The column with the final answer."""


class HubParams(Params):
    """A file of a data set on a hub; the default is the Chinese file of medical-o1, pinned."""

    platform: Literal["huggingface", "modelscope"] = "huggingface"
    """The hub; its mirror and token come from the environment, never from here."""
    repo: str = "FreedomIntelligence/medical-o1-reasoning-SFT"
    """Id of the data set: owner/name."""
    config: str = ""
    """A configuration of the data set, whose card names the file; used when `file` is empty."""
    file: str = "medical_o1_sft_Chinese.json"
    """The file's path in the data set."""
    revision: str = "fc2c9e8a37b38f38da6d449564a8c350b244aef4"
    """A commit of 40 hex digits; a branch or tag is resolved to one, recorded, and warned of."""
    sha256: str = Field("e64b1426723b63899287236d20e9bbaec9f185e1ce4b24e9b61f610facb4369a", pattern=r"^([0-9a-f]{64})?$")
    """The file's sha256 in hex digits; empty = not pinned, and only the hub's own hash is checked."""
    num_rows: int = Field(20171, ge=0)
    """How many rows the file must have; 0 = not checked."""


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
    """A mapping of your own: the columns of question, reasoning and answer; it takes the place of `mapping`."""
    max_samples: int = Field(ge=0)
    """Rows to keep, 0 for all; a row's place in the seeded order depends on its id alone."""
    seed: int = Field(ge=0)
    """Seed of that order; another seed keeps other rows."""

    def wanted_mapping(self) -> Mapping | None:
        """Return the mapping asked for, or None for auto."""
        if self.fields is not None:
            return Mapping("custom", **self.fields.model_dump())
        return MAPPINGS.get(self.mapping)


class Sampled(NamedTuple):
    """Raw records that go on, and the events of all."""

    kept: list[RawRecord]
    events: list[Event]


def sample(records: Sequence[RawRecord], rule: str, max_samples: int, seed: int) -> Sampled:
    """Keep at most max_samples records (0 = all) by seeded order of their ids; `rule` names the mapping that read them."""
    order = sorted((record.id for record in records), key=lambda record_id: seeded_order(record_id, seed))
    chosen = set(order[: max_samples or None])
    events = []
    for position, record in enumerate(records):
        events.append(_read_event(record, rule, position))
        if record.id not in chosen:
            events.append(Event(record.id, "download", "removed", "max_samples", hash_before=record.content_hash))
    kept = [record for record in records if record.id in chosen]
    check_stage("download", order, [record.id for record in kept], [event.id for event in events if event.action == "removed"])
    return Sampled(kept, events)


def _read_event(record: RawRecord, rule: str, position: int) -> Event:
    read = Event(record.id, "download", "read", record.error or rule, record.detail, hash_after=record.content_hash)
    return replace(read, source=record.source, source_row=position)


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
    path = SAMPLE if params.source == "sample" else import_path(IMPORT, params.file)
    rows = read_rows(path)
    mapping = choose_mapping(rows, params.wanted_mapping(), str(path))
    name = mapping.name if mapping else "none"
    source = "sample" if params.source == "sample" else params.file
    result = sample(to_raw_records(rows, mapping, source), name, params.max_samples, params.seed)
    with atomic_dir(RAW) as out:
        write_records(out, result.kept)
    write_ledger(LEDGER, events_frame(result.events))
    metrics = summarise(result, name)
    write_metrics(METRICS, metrics)
    counts = [metrics[key] for key in ("num_read", "num_kept", "num_unreadable")]
    log.info("download: %s: %d rows read, %d kept, %d unreadable, mapping %s", path, *counts, name)


if __name__ == "__main__":
    raise SystemExit(run_stage("download", main))
