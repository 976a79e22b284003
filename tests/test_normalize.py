"""The normalize stage: outputs, evidence and exit codes, run as a user runs it after download."""

from __future__ import annotations

import gc
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from stage_project import ROOT, lines, make_project, row, run_stage

from medcot import ledger_writer
from medcot.decisions import COLUMNS
from medcot.errors import DataError
from medcot.ledger import SCHEMA, check_stage, join_parts
from medcot.normalize_params import NormalizeParams
from medcot.params import load_section
from medcot.records import read_records
from stages import download, normalize

DATA = Path("data")
EVIDENCE = ("data/ledger/failed/normalize.parquet", "data/ledger/failed/normalize.quarantine.jsonl")


def both(directory: Path) -> tuple[int, str]:
    assert run_stage(directory, "download")[0] == 0
    return run_stage(directory, "normalize")


def test_good_rows_are_normalised_and_bad_ones_quarantined(tmp_path: Path) -> None:
    rows = [row(1), row(2, Response="５\u00a0mg "), row(3, Response=None), row(4, Question="<think>？")]
    code, stderr = both(make_project(tmp_path, lines(*rows)))
    assert (code, stderr.splitlines()[0]) == (0, "normalize: 4 records, 2 kept, 1 changed, 2 refused or removed")
    kept = read_records(tmp_path / "data" / "normalized")
    assert sorted(record.answer for record in kept) == ["5 mg", "答案 1"]
    quarantine = [json.loads(line) for line in (tmp_path / "data" / "normalized" / "quarantine.jsonl").open(encoding="utf-8")]
    assert {(each["code"], each["detail"]) for each in quarantine} == {
        ("missing_field", "answer: `Response` is null"),
        ("control_token", "question: <think>"),
    }
    assert [each["id"] for each in quarantine] == sorted(each["id"] for each in quarantine)
    metrics = json.loads((tmp_path / "metrics" / "normalize.json").read_text())
    assert (metrics["num_input"], metrics["num_kept"], metrics["num_changed_width"]) == (4, 2, 1)
    assert not (tmp_path / "data" / "ledger" / "failed").exists()


def test_the_two_ledger_parts_join_into_a_gapless_story(tmp_path: Path) -> None:
    directory = make_project(tmp_path, lines(row(1), row(2, Response="５ mg"), row(3, Response=None)))
    assert both(directory)[0] == 0
    parts = directory / "data" / "ledger" / "parts"
    ledger = join_parts([pl.read_parquet(parts / f"{name}.parquet") for name in ("download", "normalize")])
    assert ledger["source_row"].null_count() == ledger["source"].null_count() == 0
    chain = ledger.filter(pl.col("hash_before").is_not_null()).join(ledger.filter(pl.col("stage") == "download"), on="id")
    assert chain["hash_before"].to_list() == chain["hash_after_right"].to_list()
    kept = [record.id for record in read_records(directory / "data" / "normalized")]
    check_stage("normalize", ledger.filter(pl.col("action") == "read")["id"], kept, ledger.filter(pl.col("action") == "refused")["id"])


def test_shuffled_rows_give_the_same_bytes_in_every_data_directory(tmp_path: Path) -> None:
    rows = [row(i % 150, Response=f"{i % 150}％ ") for i in range(200)] + [row(900, Response=None), "{oops", row(901, Question="\x00")]
    written = []
    for seed in (0, 1):
        random.Random(seed).shuffle(rows)
        directory = make_project(tmp_path / str(seed), lines(*rows))
        assert both(directory)[0] == 0
        files = sorted(path for name in ("raw", "normalized") for path in (directory / "data" / name).iterdir())
        written.append([path.read_bytes() for path in [*files, directory / "data" / "ledger" / "parts" / "normalize.parquet"]])
    assert len(written[0]) == 6
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1), "{oops"], "2 records refused (invalid_json 1), unreadable rows are 50.00%, above normalize.max_bad_ratio 1.00%"),
        ([{"Question": "胸痛？"}, {"Question": "Why?"}], "2 of 2 records refused (missing_field 2), no record is left"),
    ],
)
def test_a_refused_file_keeps_the_old_output_and_leaves_its_evidence(tmp_path: Path, rows: list[Any], message: str) -> None:
    directory = make_project(tmp_path, lines(row(1), row(2)))
    assert both(directory)[0] == 0
    watched = [
        directory / name for name in ("data/normalized/records.jsonl", "data/ledger/parts/normalize.parquet", "metrics/normalize.json")
    ]
    before = [path.read_bytes() for path in watched]
    make_project(tmp_path, lines(*rows))
    code, stderr = both(directory)
    assert code == 2
    assert stderr.startswith("error: data/raw: ")
    assert message in stderr
    assert stderr.endswith(f"see {EVIDENCE[1]} and {EVIDENCE[0]}, mend the source and run again\n")
    assert [path.read_bytes() for path in watched] == before
    events, quarantine = pl.read_parquet(directory / EVIDENCE[0]), (directory / EVIDENCE[1]).read_text(encoding="utf-8").splitlines()
    assert events.filter(pl.col("action") == "refused").height == len(quarantine) > 0

    make_project(tmp_path, lines(row(1)))
    assert both(directory)[0] == 0
    assert not any((directory / name).exists() for name in EVIDENCE), "a successful run removes the evidence of the failed one"


def write_decisions(directory: Path, *rows: str) -> None:
    path = directory / "data" / "curation" / "decisions.csv"
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")


def read_hashes(directory: Path) -> dict[int, str]:
    """The content hash of each source row, as a curator finds it in the ledger."""
    frame = pl.read_parquet(directory / "data/ledger/parts/download.parquet").filter(pl.col("action") == "read")
    return dict(frame.select("source_row", "hash_after").iter_rows())


def test_decisions_bring_back_drop_and_edit_rows_and_their_copies_and_survive_a_new_revision(
    in_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = row(2, Response=row(2)["Question"])
    make_project(in_tmp, lines(row(1), same, same, row(3), row(4, Response=None)))
    download.main()
    normalize.main()
    hashes = read_hashes(in_tmp)
    assert len(read_records(DATA / "normalized")) == 2, "two rows answer with their question, one has no answer"
    write_decisions(
        in_tmp,
        f"{hashes[1]},keep,the question is the answer,chen,2026-01-31,,,",
        f"{hashes[0]},drop,剂量有误,chen,2026-01-31,,,",
        f"{hashes[3]},edit,太短,Li,2026-02-01,,,先做心电图，再查肌钙蛋白。",
        f"{hashes[4]},keep,no reason,Li,2026-02-01,,,",
        "00000000000000ff,keep,a row of another file,Li,2026-02-01,,,",
    )
    caplog.clear()
    normalize.main()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["normalize: 1 of 5 decisions are about rows that are not there: see data/normalized/unknown_decisions.csv"]
    unknown = Path("data/normalized/unknown_decisions.csv").read_text(encoding="utf-8")
    assert unknown == "content_hash,decision,reason,reviewer,date\n00000000000000ff,keep,a row of another file,Li,2026-02-01\n"
    found = [(record.decision, record.answer) for record in read_records(DATA / "normalized")]
    assert sorted(found) == [("edit", "先做心电图，再查肌钙蛋白。"), ("keep", same["Question"]), ("keep", same["Question"])]
    metrics = json.loads(Path("metrics/normalize.json").read_text())
    assert [metrics[f"num_{key}"] for key in ("kept", "removed_curator", "changed_curator", "flagged_curator")] == [3, 1, 1, 3]
    assert (metrics["num_decisions"], metrics["num_decisions_unknown"]) == (5, 1)
    events = pl.read_parquet("data/ledger/parts/normalize.parquet")
    beaten = events.filter(pl.col("detail").str.contains("no effect"))
    assert beaten["detail"].to_list() == ["no effect, missing_field cannot be decided; keep: no reason (Li, 2026-02-01)"]
    Path("data/import/mine.jsonl").write_text(lines(row(9), row(3), same), encoding="utf-8")
    download.main()
    normalize.main()
    answers = {record.decision: record.answer for record in read_records(DATA / "normalized")}
    assert answers == {None: "答案 9", "edit": "先做心电图，再查肌钙蛋白。", "keep": same["Question"]}


def test_a_missing_or_broken_decisions_file_stops_before_anything_is_written(in_tmp: Path) -> None:
    make_project(in_tmp, lines(row(1)))
    download.main()
    write_decisions(in_tmp, "oops")
    with pytest.raises(DataError, match=r"^data/curation/decisions.csv:2: expected 8 cells, got 1;"):
        normalize.main()
    Path("data/curation/decisions.csv").unlink()
    with pytest.raises(DataError, match=r"^data/curation/decisions.csv: the file is missing;"):
        normalize.main()
    assert not (DATA / "normalized").exists()


def test_personal_data_of_an_own_file_is_masked_and_of_a_public_source_flagged(in_tmp: Path) -> None:
    text = lines(row(1, Question="患者手机：13800138000，胸痛怎么办？"))
    make_project(in_tmp, text)
    (in_tmp / "data/sample").mkdir()
    (in_tmp / "data/sample/records.jsonl").write_text(text, encoding="utf-8")
    seen = {}
    for source in ("file", "sample"):
        make_project(in_tmp, text, download={"source": source})
        download.main()
        normalize.main()
        (record,) = read_records(DATA / "normalized")
        metrics = json.loads(Path("metrics/normalize.json").read_text())
        seen[source] = (record.question, metrics["pii_mode"], metrics["num_changed_pii_mobile"], metrics["num_flagged_pii_mobile"])
    assert seen == {
        "file": ("患者手机：[手机号1]，胸痛怎么办？", "mask", 1, 0),
        "sample": ("患者手机：13800138000，胸痛怎么办？", "warn", 0, 1),
    }
    (DATA / "raw/source.json").unlink()
    normalize.main()
    assert json.loads(Path("metrics/normalize.json").read_text())["pii_mode"] == "mask", "the safe side, where nothing says public"


def test_memory_does_not_grow_with_the_number_of_rows(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "EVENTS_AT_ONCE", 100)
    padding = "，".join(f"第{i}步先排除心梗" for i in range(100, 200))
    peaks = []
    for count in (200, 1000):
        make_project(in_tmp, lines(*(row(i, Complex_CoT=f"{i}. {padding}第 ５ 步。") for i in range(count))))
        download.main()
        gc.collect()
        tracemalloc.start()
        normalize.main()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = Path("data/raw/records.jsonl").stat().st_size
    assert peaks[1] < peaks[0] + size / 20, f"{peaks} bytes at the peak; the larger file has {size}"


def test_the_size_of_a_batch_changes_no_event_and_a_damaged_row_leaves_the_old_output(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(in_tmp, lines(*(row(i, Response=f"{i}％ ") for i in range(50))))
    download.main()
    parts = []
    for size in (3, 20_000):
        monkeypatch.setattr(ledger_writer, "EVENTS_AT_ONCE", size)
        normalize.main()
        parts.append(pl.read_parquet("data/ledger/parts/normalize.parquet"))
    assert parts[0].equals(parts[1])
    assert parts[0].schema == pl.Schema(SCHEMA)
    before = Path("data/normalized/records.jsonl").read_bytes()
    raw = Path("data/raw/records.jsonl")
    rows = raw.read_text(encoding="utf-8").splitlines(keepends=True)
    raw.write_text("".join([*rows[:40], rows[3], *rows[40:]]), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"data/raw/records.jsonl: the file is damaged, its ids do not rise, got .*; run `dvc repro -f download`"
    ):
        normalize.main()
    assert Path("data/normalized/records.jsonl").read_bytes() == before
    assert not list(Path("data").rglob(".*building*"))


def test_bad_params_and_a_missing_input_are_one_line(tmp_path: Path) -> None:
    directory = make_project(tmp_path, lines(row(1)), normalize={"max_bad_ration": 0.5})
    assert run_stage(directory, "normalize") == (
        2,
        "error: params.yaml: normalize.max_bad_ration: unknown key, got 0.5; did you mean `max_bad_ratio`?\n",
    )
    make_project(tmp_path, lines(row(1)))
    missing = "error: data/raw/records.jsonl: the file is missing; run `dvc repro`, or the stage that writes it, first\n"
    assert run_stage(directory, "normalize") == (2, missing)
    make_project(tmp_path, lines(row(1)), normalize={"max_bad_ratio": 1.5})
    assert run_stage(directory, "normalize")[1].startswith(
        "error: params.yaml: normalize.max_bad_ratio: input should be less than or equal to 1"
    )


def test_the_repository_params_are_valid() -> None:
    assert load_section("normalize", NormalizeParams, ROOT / "params.yaml").max_bad_ratio == 0.01


def run_on(real_data: Path, name: str) -> None:
    make_project(Path(), (real_data / name).read_bytes(), name)
    download.main()
    normalize.main()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "medical_o1_zh.json",
            {
                "kept": 916,
                "flagged_quality_missing_image": 10,
                "flagged_quality_language": 1,
                "changed": 98,
                "changed_width": 31,
                "changed_spaces": 31,
                "flagged_lost_superscript": 4,
            },
        ),
        ("medical_o1_en.json", {"kept": 198, "changed": 69, "changed_trailing_spaces": 66, "changed_strip": 4, "changed_width": 0}),
    ],
)
def test_every_real_record_passes(real_data: Path, in_tmp: Path, name: str, counts: dict[str, int]) -> None:
    run_on(real_data, name)
    metrics = json.loads(Path("metrics/normalize.json").read_text())
    assert {key: metrics[f"num_{key}"] for key in counts} == counts
    quarantine = (DATA / "normalized" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert quarantine == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("medical_o1_zh_questions.jsonl", "3000 of 3000 records refused (missing_field 3000)"),
        ("alpaca_zh_general.json", "(think_block 1000)"),
    ],
)
def test_real_rows_without_reasoning_are_all_refused_and_none_is_lost(real_data: Path, in_tmp: Path, name: str, cause: str) -> None:
    with pytest.raises(DataError) as caught:
        run_on(real_data, name)
    assert cause in str(caught.value)
    assert not (DATA / "normalized").exists()
    read = pl.read_parquet("data/ledger/parts/download.parquet")
    refused = pl.read_parquet(EVIDENCE[0])
    assert sorted(refused["id"]) == sorted(read["id"])
    assert len(Path(EVIDENCE[1]).read_text(encoding="utf-8").split("\n")) == read.height + 1
