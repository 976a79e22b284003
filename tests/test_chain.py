"""The data stages as one chain: every record accounted for, the planted flaws meet their fate, the same bytes everywhere."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ROOT
from factories import write_qwen3_tokenizer

from medcot.ledger import TERMINAL

DATA_STAGES = ("download", "normalize", "dedup", "decontaminate", "convert")
# The ledger's positions follow the input's order; everything else must not.
BYTES = ("data/raw", "data/normalized", "data/dedup", "data/decontaminated", "data/llamafactory", "metrics")


def make_workspace(directory: Path) -> Path:
    """A copy of the repository's code, params and sample, with a small tokenizer in place of the trained one."""
    for name in ("stages", "medcot"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "sample", directory / "data" / "sample", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("curation", "suites"):
        shutil.copytree(ROOT / "data" / name, directory / "data" / name)
    shutil.copyfile(ROOT / "params.yaml", directory / "params.yaml")
    tokenizer = directory / "models" / "base" / "tokenizer"
    tokenizer.mkdir(parents=True)
    write_qwen3_tokenizer(tokenizer, vocab_size=2000)
    return directory


def set_params(directory: Path, **changes: str) -> None:
    """Set `section__key` values in the workspace's params.yaml, as text lines of the one section."""
    path = directory / "params.yaml"
    lines, section = path.read_text(encoding="utf-8").splitlines(), ""
    for i, line in enumerate(lines):
        section = line.split(":")[0] if line and not line.startswith((" ", "#")) else section
        key = f"{section}__{line.strip().split(':')[0]}"
        if key in changes:
            lines[i] = f"{line.split(':')[0]}: {changes.pop(key)}"
    assert not changes, f"no such keys: {changes}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(directory: Path, *stages: str, **environment: str) -> tuple[int, str]:
    """Run stages in order, as a user would; stops at the first that fails."""
    for stage in stages:
        command = [sys.executable, "-m", f"stages.{stage}"]
        result = subprocess.run(command, cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        if result.returncode:
            return result.returncode, result.stderr
    return 0, ""


def import_file(directory: Path, source: Path, text: str | None = None) -> None:
    """Put a file into data/import and choose it."""
    target = directory / "data" / "import" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source.read_text(encoding="utf-8") if text is None else text, encoding="utf-8")
    set_params(directory, download__source="file", download__file=source.name)


def digests(directory: Path) -> dict[str, str]:
    files = [p for top in BYTES for p in sorted((directory / top).rglob("*")) if p.is_file()]
    assert files
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def ledger(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(directory / "data/ledger/ledger.parquet")


def ends(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("action").is_in(TERMINAL))


def rows_of(directory: Path) -> dict[str, list[dict[str, Any]]]:
    return {s: json.loads((directory / f"data/llamafactory/{s}.json").read_text(encoding="utf-8")) for s in ("train", "val", "test")}


def check_accounts(directory: Path, num_input: int) -> pl.DataFrame:
    """Every row in, one end each, and what was kept is what LLaMA-Factory gets."""
    frame = ledger(directory)
    terminal = ends(frame)
    assert terminal.height == terminal["id"].n_unique() == frame["id"].n_unique() == num_input
    assert sorted(frame.filter(pl.col("action") == "read")["source_row"].to_list()) == list(range(num_input))
    kept = terminal.filter(pl.col("action") == "kept")
    written = {row["id"]: split for split, rows in rows_of(directory).items() for row in rows}
    assert dict(kept.select("id", "split").iter_rows()) == written
    assert terminal.filter(pl.col("action") != "kept")["rule"].null_count() == 0
    return frame


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_workspace(tmp_path_factory.mktemp("sample"))
    assert run(directory, *DATA_STAGES) == (0, "")
    return directory


def test_every_record_of_the_sample_is_accounted_for(sample: Path) -> None:
    lines = (sample / "data/sample/records.jsonl").read_text(encoding="utf-8").splitlines()
    check_accounts(sample, len(lines))


def test_every_planted_flaw_meets_its_fate(sample: Path) -> None:
    frame = ledger(sample)
    end = {row["source_row"]: row for row in ends(frame).iter_rows(named=True)}
    events = set(frame.filter(pl.col("action").is_in(["conflict", "flagged"])).select("source_row", "rule").iter_rows())
    with (sample / "data/sample/manifest.csv").open(encoding="utf-8", newline="") as file:
        planted = list(csv.DictReader(file))
    assert len(planted) == 71
    wrong = [flaw for flaw in planted if not _as_planned(flaw, end, events)]
    assert wrong == []
    personal = {int(flaw["row"]) - 1 for flaw in planted if flaw["flaw"] == "personal_data"}
    assert {row for row, rule in events if rule.startswith("pii_")} == personal
    assert not {rule for _, rule in events if rule.startswith("quality_")}, "the sample is well written, but for what is planted"


def _as_planned(flaw: dict[str, str], end: dict[int, dict[str, Any]], events: set[tuple[int, str]]) -> bool:
    here = end[int(flaw["row"]) - 1]
    if flaw["fate"] == "kept":
        return here["action"] == "kept" and all((int(flaw["row"]) - 1, rule) in events for rule in flaw["rule"].split())
    if flaw["fate"] == "one_of_pair":
        pair = (here, end[int(flaw["partner_row"]) - 1])
        gone = [row for row in pair if row["action"] == "removed" and row["rule"] == flaw["rule"]]
        return len(gone) == 1 or all(row["action"] == "removed" for row in pair)
    return (here["action"], here["rule"]) == (flaw["fate"], flaw["rule"])


def test_decisions_bring_records_back_from_every_stage_and_go_with_them_to_the_end(sample: Path, tmp_path: Path) -> None:
    before, directory = ledger(sample), make_workspace(tmp_path)
    end = {row["source_row"]: row for row in ends(before).iter_rows(named=True)}
    read = dict(before.filter(pl.col("action") == "read").select("source_row", "hash_after").iter_rows())
    gone = {rule: min(row for row, event in end.items() if event["rule"] == rule) for rule in (*BEATEN, *UNBEATEN)}
    lines = [f"{read[row]},keep,a good row all the same,chen,2026-01-31,,," for row in gone.values()]
    with (directory / "data/curation/decisions.csv").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    assert run(directory, *DATA_STAGES)[0] == 0
    frame = check_accounts(directory, len(end))
    after = {row["source_row"]: row for row in ends(frame).iter_rows(named=True)}
    assert {rule: after[gone[rule]]["action"] for rule in BEATEN} == dict.fromkeys(BEATEN, "kept")
    assert {rule: after[gone[rule]]["rule"] for rule in UNBEATEN} == {rule: rule for rule in UNBEATEN}
    assert after[gone["cutoff_len"]]["detail"].endswith("; the curator's decision has no effect on this")
    decided = frame.filter(pl.col("rule") == "curator")
    assert set(gone.values()) <= set(decided["source_row"])


BEATEN = ("answer_equals_question", "exact_copy", "near_duplicate", "exact_question", "contaminated")
UNBEATEN = ("invalid_json", "missing_field", "empty_field", "control_token", "cutoff_len")


def test_another_order_of_rows_and_another_hash_seed_give_the_same_bytes(tmp_path: Path) -> None:
    text = (ROOT / "data/sample/records.jsonl").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    name = Path("mine.jsonl")
    first, second = make_workspace(tmp_path / "first"), make_workspace(tmp_path / "second 路径")
    import_file(first, name, text)
    import_file(second, name, "".join(lines))
    assert run(first, *DATA_STAGES, PYTHONHASHSEED="1", POLARS_MAX_THREADS="1") == (0, "")
    assert run(second, *DATA_STAGES, PYTHONHASHSEED="77", POLARS_MAX_THREADS="2", LC_ALL="C") == (0, "")
    assert digests(first) == digests(second)
    events = [ledger(d).drop("source_row") for d in (first, second)]
    assert events[0].equals(events[1])


def test_added_rows_never_move_an_old_one_to_another_split(sample: Path, tmp_path: Path) -> None:
    lines = (ROOT / "data/sample/records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    part = make_workspace(tmp_path)
    import_file(part, Path("part.jsonl"), "".join(lines[: len(lines) // 2]))
    set_params(part, normalize__mode="warn")  # as the sample is public; a mask would change the question that the split is made from
    assert run(part, *DATA_STAGES) == (0, "")
    before = {row["id"]: split for split, rows in rows_of(part).items() for row in rows}
    after = {row["id"]: split for split, rows in rows_of(sample).items() for row in rows}
    both = before.keys() & after.keys()
    assert len(both) > 200
    assert {key: before[key] for key in both} == {key: after[key] for key in both}


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "num_input"), [("medical_o1_zh.json", 916), ("medical_o1_en.json", 198)])
def test_the_chain_runs_on_real_rows(real_data: Path, tmp_path: Path, name: str, num_input: int) -> None:
    directory = make_workspace(tmp_path)
    import_file(directory, real_data / name)
    set_params(directory, model__cutoff_len="8192")
    assert run(directory, *DATA_STAGES) == (0, "")
    frame = check_accounts(directory, num_input)
    assert ends(frame).filter(pl.col("action") == "kept").height > 0.97 * num_input


@pytest.mark.real_data
def test_rows_without_reasoning_are_refused_one_by_one_and_nothing_is_lost(real_data: Path, tmp_path: Path) -> None:
    directory = make_workspace(tmp_path)
    import_file(directory, real_data / "medical_o1_zh_questions.jsonl")
    code, message = run(directory, "download", "normalize")
    assert code == 2
    assert message.splitlines()[-1].startswith("error: ")
    refused = pl.read_parquet(directory / "data/ledger/failed/normalize.parquet").filter(pl.col("action") == "refused")
    read = pl.read_parquet(directory / "data/ledger/parts/download.parquet")
    assert refused["id"].sort().to_list() == read["id"].sort().to_list()
    assert refused.height == 3000
    assert set(refused["rule"]) == {"missing_field"}
    assert not (directory / "data/normalized").exists()
