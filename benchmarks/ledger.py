"""Account for every record of four corpora: the sample, and real rows in a directory of your own, checked against real benchmarks.

Runs the data stages, download to convert, in a scratch directory for each corpus and prints what became of its rows by rule, the
invariants of the ledger, and with --why the story of one record of each fate. A bare question gets a stand-in reasoning and answer,
so that it can pass normalize; where the corpus is a file, personal data is masked as in any file.

Run     python benchmarks/ledger.py [--data DIR] [--why] [--list]
DIR     medical_o1_zh.json, medical_o1_en.json, medical_o1_zh_questions.jsonl; cmexam_test.jsonl and cmb_clin.json as benchmarks
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from factories import write_qwen3_tokenizer  # noqa: E402

from medcot.ledger import TERMINAL  # noqa: E402
from medcot.normalization import steps  # noqa: E402
from medcot.normalize_params import NormalizeParams  # noqa: E402
from medcot.params import load_section, read_params  # noqa: E402
from medcot.records import TEXT_FIELDS, Record, is_public, read_raw_records, read_records  # noqa: E402

STAGES = ("download", "normalize", "dedup", "decontaminate", "convert")
BENCHMARKS = ("cmexam_test.jsonl", "cmb_clin.json")
STAND_IN = {"Complex_CoT": "此处原本没有推理，这句话只是为了通过检查。", "Response": "原数据未给出答案。"}


def run(directory: Path, *command: str) -> str:
    """Run a module of the project in a directory and return what it printed; stop at a failure."""
    env = {**os.environ, "PYTHONPATH": str(directory), "MEDCOT_LOG_LEVEL": "WARNING"}
    result = subprocess.run([sys.executable, "-m", *command], cwd=directory, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {result.returncode}\n{result.stderr}")
    return result.stdout


def workspace(directory: Path, data: Path | None, source: Path | None, rows: str | None) -> None:
    """A copy of the code with its own params: the sample, or a file and the benchmarks beside it."""
    for name in ("stages", "medcot", "data/sample", "data/curation", "data/suites"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "*.html"))
    write_qwen3_tokenizer(directory / "models/base/tokenizer", vocab_size=2000)
    params = read_params(ROOT / "params.yaml")
    if source is not None and data is not None:
        (directory / "data/import").mkdir(parents=True)
        (directory / "data/import" / source.name).write_text(source.read_text(encoding="utf-8") if rows is None else rows, encoding="utf-8")
        (directory / "data/benchmarks").mkdir(parents=True)
        for name in BENCHMARKS:
            shutil.copy(data / name, directory / "data/benchmarks" / name)
        params["download"] |= {"source": "file", "file": source.name}
        params["model"] |= {"cutoff_len": 8192}  # the stand-in tokenizer makes several tokens of a character
        params["decontaminate"] |= {"sample_benchmark": False}
    (directory / "params.yaml").write_text(json.dumps(params, ensure_ascii=False), encoding="utf-8")


def with_stand_ins(path: Path) -> str:
    """Bare questions as whole rows, all with one reasoning and one answer."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "".join(json.dumps({"Question": row["Question"], **STAND_IN}, ensure_ascii=False) + "\n" for row in rows)


def check(directory: Path, ledger: pl.DataFrame) -> Iterator[tuple[str, bool]]:
    """The invariants, each with whether it holds."""
    ended = ledger.filter(pl.col("action").is_in(TERMINAL))
    metrics = {stage: json.loads((directory / f"metrics/{stage}.json").read_text(encoding="utf-8")) for stage in STAGES}
    yield "exactly one end for every record", ended["id"].n_unique() == ended.height == ledger["id"].n_unique()
    yield "as many rows read as ended", ledger.filter(pl.col("action") == "read").height == ended.height
    for stage in STAGES[1:]:
        gone = sum(value for key, value in metrics[stage].items() if key.startswith(("num_removed_", "num_refused_")))
        yield f"{stage}: input = kept + removed + refused", metrics[stage]["num_input"] == metrics[stage]["num_kept"] + gone
    chain = [metrics[a]["num_kept"] == metrics[b]["num_input"] for a, b in pairwise(STAGES)]
    yield "what a stage keeps is what the next one reads", all(chain)
    kept = set(read_ids(directory / "data/llamafactory"))
    yield "kept in the ledger = rows that training reads", kept == set(ended.filter(pl.col("action") == "kept")["id"])
    yield "every removed duplicate has a witness that dedup kept", witnesses(directory, ledger)
    yield "normalised text = the named rules applied to the raw text", rederived(directory)


def read_ids(directory: Path) -> Iterator[str]:
    """The ids of all rows in LLaMA-Factory's files."""
    for split in ("train", "val", "test"):
        yield from (row["id"] for row in json.loads((directory / f"{split}.json").read_text(encoding="utf-8")))


def witnesses(directory: Path, ledger: pl.DataFrame) -> bool:
    removed = ledger.filter((pl.col("stage") == "dedup") & (pl.col("action") == "removed"))
    return set(removed["related_id"]) <= {record.id for record in read_records(directory / "data/dedup")}


def rederived(directory: Path) -> bool:
    """Whether the steps of normalisation, started from the raw rows, end at the written records, byte for byte."""
    policy = load_section("normalize", NormalizeParams, directory / "params.yaml").policy(is_public(directory / "data/raw"))
    written = {record.id: record for record in read_records(directory / "data/normalized")}
    for raw in read_raw_records(directory / "data/raw"):
        if raw.id not in written:
            continue
        record = Record(raw.id, raw.source, raw.question, raw.reasoning, raw.answer)
        for step in steps(raw, None, policy):
            if getattr(record, step.field) != step.before:
                return False
            record = replace(record, **{step.field: step.after})
        if any(getattr(record, name) != getattr(written[raw.id], name) for name in TEXT_FIELDS):
            return False
    return True


def show(name: str, directory: Path, why: bool, listed: bool) -> None:
    """Print one corpus: fates, invariants, stories."""
    for stage in STAGES:
        run(directory, f"stages.{stage}")
    ledger = pl.read_parquet(directory / "data/ledger/ledger.parquet")
    ended = ledger.filter(pl.col("action").is_in(TERMINAL))
    print(f"\n== {name}: {ended.height} rows")
    noted = ledger.filter(pl.col("action") != "read").group_by("stage", "action", "rule").agg(n=pl.col("id").n_unique())
    order = {stage: i for i, stage in enumerate(STAGES)}
    for stage, action, rule, count in sorted(noted.iter_rows(), key=lambda row: (order[row[0]], row[1], row[2])):
        print(f"{count:>7}  {stage:<14}{action:<10}{rule}")
    for text, holds in check(directory, ledger):
        print(f"  {'holds' if holds else 'BROKEN':<7}{text}")
    if listed:
        pairs = ledger.filter(pl.col("rule").is_in(["near_duplicate", "conflict", "contaminated", "contaminated_cluster"]))
        for row in pairs.sort("rule", "id").iter_rows(named=True):
            print(f"  {row['rule']:<15}{row['id']}  {row['related_id']}  {row['similarity'] or 0:.3f}  {row['detail'] or ''}")
    if why:
        for (action, rule), group in sorted(ended.group_by("action", "rule"), key=lambda item: item[0]):
            print(f"\n-- {action} {rule}\n{run(directory, 'medcot.cli', 'why', group['id'].min())}")  # type: ignore[arg-type]


def corpora(data: Path | None) -> Iterator[tuple[str, Path | None, Any]]:
    yield "sample", None, None
    if data is not None:
        yield "medical-o1, Chinese", data / "medical_o1_zh.json", None
        yield "medical-o1, English", data / "medical_o1_en.json", None
        questions = data / "medical_o1_zh_questions.jsonl"
        yield "3,000 questions with stand-ins", questions, with_stand_ins(questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of real rows and benchmarks; without it only the sample")
    parser.add_argument("--why", action="store_true", help="print the story of one record of each fate")
    parser.add_argument("--list", action="store_true", help="print the ids of every near-duplicate, conflict and contaminated row")
    args = parser.parse_args()
    for name, source, rows in corpora(args.data):
        with tempfile.TemporaryDirectory(prefix="medcot-") as scratch:
            workspace(Path(scratch), args.data, source, rows)
            show(name, Path(scratch), args.why, args.list)


if __name__ == "__main__":
    main()
