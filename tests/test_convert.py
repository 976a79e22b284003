"""Convert: every record accounted for, nothing cut, no straddling, equal bytes for equal rows, and evidence when it fails."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from factories import write_qwen3_tokenizer, write_r1_tokenizer

from medcot.augmentation import get_hooks
from medcot.conversion import convert, summarise
from medcot.errors import DataError
from medcot.ledger import Event, events_frame, write_ledger
from medcot.llamafactory import read_rows
from medcot.model_params import ModelParams
from medcot.params import parse_section
from medcot.records import Record, write_records
from medcot.selection import SelectionParams
from medcot.splits import SPLITS, Pair, Split, skeleton, split_of
from medcot.stage import run_stage
from medcot.template import encode, get_template
from medcot.tokenizer import ChatTokenizer, load_tokenizer
from stages import convert as stage
from stages.convert import ConvertParams

TOPICS = ("胸痛", "发热", "头晕", "咳嗽", "皮疹", "chest pain", "fever", "vertigo", "cough", "rash")
MODEL = ModelParams()


def assign(question: str) -> Split:
    return split_of(skeleton(question), 42, 0.2, 0.2)


def all_train(question: str) -> Split:
    return "train"


def records(num: int = 40) -> list[Record]:
    return [
        Record(
            f"{i:016x}",
            "test",
            f"{TOPICS[i % 10]}合并{chr(0x4E00 + 97 * i)}{chr(0x5E00 + 31 * i)}，怎么办？ What next?",
            f"先看{TOPICS[i % 10]}。\nThen decide {i}.",
            f"处理 {i}：observe.",
        )
        for i in range(num)
    ]


@pytest.fixture(scope="module")
def tok(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_tokenizer(write_qwen3_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def num_tokens(tok: ChatTokenizer, record: Record) -> int:
    return len(encode(tok, get_template("qwen3"), record.question, record.reasoning, record.answer).input_ids)


def test_every_record_ends_once_and_the_counts_add_up(tok: ChatTokenizer) -> None:
    rows = records()
    rows[3] = replace(rows[3], answer="很长 long " * 400)
    rows[5] = replace(rows[5], reasoning="想 </think> 完")
    result = convert(rows, [], tok, MODEL, assign)
    metrics = summarise(result)
    assert sorted(event.id for event in result.events) == [row.id for row in rows]
    removed = {k: v for k, v in metrics.items() if k.startswith(("num_removed_", "num_refused_"))}
    assert metrics["num_input"] == 40 == metrics["num_kept"] + sum(removed.values())
    assert {k for k, v in removed.items() if v} == {"num_removed_cutoff_len", "num_refused_control_token_id"}
    assert metrics["num_kept"] == 38 == metrics["num_train"] + metrics["num_val"] + metrics["num_test"]
    assert min(metrics["num_val"], metrics["num_test"]) > 0


def test_events_say_what_why_where_and_how_long(tok: ChatTokenizer) -> None:
    rows = records(3)
    rows[1] = replace(rows[1], question="<|im_start|> 是什么？")
    rows[2] = replace(rows[2], answer="long " * 2000)
    kept, refused, removed = convert(rows, [], tok, MODEL, all_train).events
    assert kept == Event(rows[0].id, "convert", "kept", "kept", split="train", num_tokens=num_tokens(tok, rows[0]))
    assert (refused.action, refused.rule, refused.detail, refused.split) == ("refused", "control_token_id", "question: <|im_start|>", None)
    length = num_tokens(tok, rows[2])
    assert (removed.action, removed.rule, removed.detail) == ("removed", "cutoff_len", f"{length} tokens, cutoff_len 1024")
    assert removed.num_tokens == length


def test_a_row_of_exactly_the_limit_stays_and_rows_are_never_cut(tok: ChatTokenizer) -> None:
    rows = records(12)
    lengths = {row.id: num_tokens(tok, row) for row in rows}
    limit = sorted(lengths.values())[5]
    result = convert(rows, [], tok, ModelParams(cutoff_len=limit), assign)
    kept = {row for split in result.rows.values() for row in split}
    assert kept == {row for row in rows if lengths[row.id] <= limit}
    assert result.num_tokens == lengths


def test_token_lengths_are_those_of_all_rows_and_p99_is_suggested(tok: ChatTokenizer) -> None:
    rows = records()
    lengths = sorted(num_tokens(tok, row) for row in rows)
    metrics = summarise(convert(rows, [], tok, ModelParams(cutoff_len=lengths[10]), assign))
    assert metrics["num_tokens"]["max"] == lengths[-1] == metrics["suggested_cutoff_len"]
    assert metrics["num_tokens"]["mean"] == pytest.approx(sum(lengths) / 40)
    assert metrics["num_tokens"]["median"] in lengths[19:21]


def test_a_row_that_bridges_two_splits_is_refused_and_names_its_neighbour(tok: ChatTokenizer) -> None:
    result = convert(records(), [], tok, MODEL, assign)
    train, val, test = (result.rows[split][0].id for split in SPLITS)
    bridged = convert(records(), [Pair(train, test, 0.75), Pair(val, val, 1.0)], tok, MODEL, assign)
    event = next(event for event in bridged.events if event.id == train)
    assert (event.action, event.rule, event.related_id, event.similarity) == ("refused", "bridges_splits", test, 0.75)
    assert event.detail == "train, near-duplicate of a row in test"
    assert summarise(bridged)["num_refused_bridges_splits"] == 1
    others = {event.id: event.split for event in bridged.events if event.id != train}
    assert others == {event.id: event.split for event in result.events if event.id != train}


def test_order_of_rows_and_pairs_changes_nothing(tok: ChatTokenizer) -> None:
    rows = records()
    pairs = [Pair(rows[i].id, rows[(i * 7 + 3) % 40].id, 0.6) for i in range(0, 40, 3)]
    expected = convert(rows, pairs, tok, MODEL, assign)
    shuffled, turned = rows[:], [Pair(p.b, p.a, p.similarity) for p in pairs]
    random.Random(5).shuffle(shuffled)
    random.Random(6).shuffle(turned)
    got = convert(shuffled, turned, tok, MODEL, assign)
    assert sorted(got.events, key=lambda e: e.id) == expected.events
    assert {s: sorted(r.id for r in rows) for s, rows in got.rows.items()} == {s: [r.id for r in rows] for s, rows in expected.rows.items()}


def test_adding_rows_moves_none(tok: ChatTokenizer) -> None:
    before = {e.id: e.split for e in convert(records(20), [], tok, MODEL, assign).events}
    after = {e.id: e.split for e in convert(records(40), [], tok, MODEL, assign).events}
    assert all(after[row] == split for row, split in before.items())


def classes(num: int = 40) -> list[Record]:
    """Two sources and three classes, unevenly, with Chinese punctuation in every question."""
    return [replace(row, source="ab"[i % 4 == 0], category=("内科", "外科", "skin")[min(i % 5, 2)]) for i, row in enumerate(records(num))]


def test_caps_and_balance_thin_out_train_and_nothing_else(tok: ChatTokenizer) -> None:
    plain = convert(classes(), [], tok, MODEL, assign)
    thin = convert(classes(), [], tok, MODEL, assign, SelectionParams(max_per_source=12, max_class_ratio=1.2), 42)
    assert {split: thin.rows[split] for split in ("val", "test")} == {split: plain.rows[split] for split in ("val", "test")}
    assert set(thin.rows["train"]) < set(plain.rows["train"])
    metrics = summarise(thin)
    assert min(metrics["num_removed_source_cap"], metrics["num_removed_class_balance"]) > 0
    removed = {k: v for k, v in metrics.items() if k.startswith(("num_removed_", "num_refused_"))}
    assert metrics["num_input"] == 40 == metrics["num_kept"] + sum(removed.values())
    assert metrics["num_kept"] == metrics["num_train"] + metrics["num_val"] + metrics["num_test"]
    event = next(event for event in thin.events if event.rule == "class_balance")
    assert (event.action, event.split, event.num_tokens) == ("removed", None, thin.num_tokens[event.id])


def test_a_decided_row_is_not_thinned_out(tok: ChatTokenizer) -> None:
    rows = [replace(row, decision="keep") for row in classes()]
    thin = convert(rows, [], tok, MODEL, assign, SelectionParams(max_per_source=1, max_class_ratio=1.0), 42)
    assert summarise(thin)["num_kept"] == 40


def test_synthetic_rows_stand_in_train_alone_and_leave_the_other_splits_as_they_are(tok: ChatTokenizer) -> None:
    plain = convert(classes(), [], tok, MODEL, assign)
    result = convert(classes(), [], tok, MODEL, assign, hooks=get_hooks(["question_punctuation"]))
    new = [row for row in result.rows["train"] if row not in plain.rows["train"]]
    assert len(new) > 10
    assert {row.id.removesuffix("-aug-question_punctuation") for row in new} <= {row.id for row in plain.rows["train"]}
    assert [row.id for row in result.rows["train"]] == sorted(row.id for row in result.rows["train"])
    assert {split: result.rows[split] for split in ("val", "test")} == {split: plain.rows[split] for split in ("val", "test")}
    metrics = summarise(result)
    assert metrics["num_kept"] + metrics["num_synthetic"] == metrics["num_train"] + metrics["num_val"] + metrics["num_test"]
    assert {k: v for k, v in metrics.items() if k not in ("num_train", "num_synthetic")} == {
        k: v for k, v in summarise(plain).items() if k not in ("num_train", "num_synthetic")
    }


# --- the stage ---


@pytest.fixture
def workspace(in_tmp: Path) -> Path:
    """A repository root as dedup left it: 40 survivors, one pair, ledger parts, a tokenizer."""
    rows = records()
    write_workspace(rows, [])
    write_qwen3_tokenizer(in_tmp / "models/base/tokenizer")
    write_params({}, {})
    return in_tmp


def write_workspace(rows: list[Record], pairs: list[Pair]) -> None:
    stage.DECONTAMINATED.mkdir(parents=True, exist_ok=True)
    stage.PAIRS.parent.mkdir(parents=True, exist_ok=True)
    write_records(stage.DECONTAMINATED, rows)
    columns = {
        "a": [p.a for p in pairs],
        "b": [p.b for p in pairs],
        "key": ["question"] * len(pairs),
        "jaccard": [p.similarity for p in pairs],
        "verdict": ["conflict"] * len(pairs),
        "detail": ["number"] * len(pairs),
    }
    schema = {"a": pl.String, "b": pl.String, "key": pl.String, "jaccard": pl.Float64, "verdict": pl.String, "detail": pl.String}
    pl.DataFrame(columns, schema=schema).write_parquet(stage.PAIRS)
    read = [Event(row.id, "download", "read", "read", source="test", source_row=i) for i, row in enumerate(rows)]
    gone = [Event("f" * 16, "download", "read", "read", source="test", source_row=len(rows))]
    write_ledger(stage.PARTS / "download.parquet", events_frame([*read, *gone]))
    write_ledger(stage.PARTS / "normalize.parquet", events_frame([Event(rows[0].id, "normalize", "changed", "nfc")]))
    write_ledger(stage.PARTS / "dedup.parquet", events_frame([Event("f" * 16, "dedup", "removed", "exact", related_id=rows[0].id)]))
    write_ledger(stage.PARTS / "decontaminate.parquet", events_frame([]))


def write_params(convert_section: dict[str, object], model_section: dict[str, object]) -> None:
    ratios = {"val_ratio": 0.2, "test_ratio": 0.2, **convert_section}
    Path("params.yaml").write_text(yaml.safe_dump({"convert": ratios, "model": model_section}, allow_unicode=True), encoding="utf-8")


def run() -> int:
    return run_stage("convert", stage.main)


def outputs() -> dict[str, bytes]:
    files = [p for root in ("data/llamafactory", "data/ledger", "metrics") for p in Path(root).rglob("*") if p.is_file()]
    return {str(path): path.read_bytes() for path in sorted(files)}


def test_the_stage_writes_every_file_and_the_joined_ledger(workspace: Path) -> None:
    assert run() == 0
    names = sorted(path.name for path in stage.LLAMAFACTORY.iterdir())
    assert names == ["dataset_info.json", "test.json", "train.json", "train.yaml", "val.json"]
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    splits = {split: read_rows(stage.LLAMAFACTORY / f"{split}.json", get_template("qwen3")) for split in SPLITS}
    assert {split: len(rows) for split, rows in splits.items()} == {split: metrics[f"num_{split}"] for split in SPLITS}
    for rows in splits.values():
        assert [row.id for row in rows] == sorted(row.id for row in rows)
    counted = pl.read_csv(stage.LENGTHS).sum().to_dicts()[0]
    assert {split: counted[split] for split in SPLITS} == {split: len(rows) for split, rows in splits.items()}
    assert sum(counted[kind] for kind in (*SPLITS, "left_out")) == metrics["num_input"]
    ledger = pl.read_parquet(stage.LEDGER)
    assert ledger.filter(pl.col("action").is_in(["kept", "removed", "refused"])).height == 41
    assert Counter(ledger.filter(stage="convert")["split"]) == {split: len(rows) for split, rows in splits.items()}
    assert ledger["source_row"].null_count() == 0
    first = ledger.filter(id=f"{0:016x}")
    assert first["stage"].to_list() == ["download", "normalize", "convert"]
    config = yaml.safe_load((stage.LLAMAFACTORY / "train.yaml").read_text(encoding="utf-8"))
    assert config["cutoff_len"] == 1025  # qwen3 puts one newline after EOS
    assert config["dataset_dir"] == "data/llamafactory"


def test_a_second_run_and_shuffled_ledger_parts_give_the_same_bytes(workspace: Path) -> None:
    assert run() == 0
    before = outputs()
    for part in ("download", "normalize", "dedup", "decontaminate"):
        path = stage.PARTS / f"{part}.parquet"
        events = pl.read_parquet(path)
        events.sample(fraction=1.0, shuffle=True, seed=3).write_parquet(path)
    assert run() == 0
    after = outputs()
    unchanged = {k: v for k, v in before.items() if "parts" not in k}
    assert {k: v for k, v in after.items() if "parts" not in k} == unchanged
    assert len(unchanged) == 8


def test_sharegpt_and_a_system_prompt_come_from_the_params(workspace: Path) -> None:
    write_params({"format": "sharegpt"}, {"system": "你是医生。"})
    assert run() == 0
    row = json.loads((stage.LLAMAFACTORY / "train.json").read_text(encoding="utf-8"))[0]
    assert (row["system"], [turn["from"] for turn in row["conversations"]]) == ("你是医生。", ["human", "gpt"])
    info = json.loads((stage.LLAMAFACTORY / "dataset_info.json").read_text(encoding="ascii"))
    assert info["med_o1"]["columns"] == {"messages": "conversations", "system": "system"}


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    assert run() == 2
    return capsys.readouterr().err.strip()


def test_when_the_audit_refuses_every_row_the_pairing_is_named_and_old_outputs_stay(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    before = outputs()
    write_workspace([replace(row, answer=f"e\u0301 {row.answer}") for row in records()], [])
    for part in stage.PARTS.glob("*.parquet"):
        part.write_bytes(before[str(part)])
    message = failure(capsys)
    assert "the label audit refused all 40 rows, so template qwen3 and this tokenizer do not fit, got target_mismatch" in message
    assert str(stage.FAILED) in message
    assert pl.read_parquet(stage.FAILED)["rule"].to_list() == ["target_mismatch"] * 40
    assert {k: v for k, v in outputs().items() if "failed" not in k} == before
    write_workspace(records(), [])
    assert run() == 0
    assert not stage.FAILED.exists()


def test_a_template_of_another_family_is_refused_by_name(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_r1_tokenizer(workspace / "models/base/tokenizer")
    message = failure(capsys)
    assert message.startswith(
        "error: params.yaml: model.template: template qwen3 does not fit the tokenizer, whose vocabulary lacks <|im_start|>"
    )
    write_params({}, {"template": "deepseekr1"})
    assert run() == 0


def test_nothing_left_to_train_on_is_an_error_with_the_counts(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params({}, {"cutoff_len": 16})
    message = failure(capsys)
    assert "data/decontaminated: no row is left in train, got {'cutoff_len': 40}; raise model.cutoff_len" in message
    assert pl.read_parquet(stage.FAILED).height == 40


def test_an_empty_val_is_no_error_and_the_train_config_names_none(workspace: Path) -> None:
    write_params({"val_ratio": 0.0, "test_ratio": 0.0}, {})
    assert run() == 0
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    assert (metrics["num_train"], metrics["num_val"], metrics["num_test"]) == (40, 0, 0)
    assert (stage.LLAMAFACTORY / "val.json").read_text(encoding="utf-8") == "[]\n"
    assert "eval_dataset" not in (stage.LLAMAFACTORY / "train.yaml").read_text(encoding="utf-8")


def test_synthetic_rows_are_marked_in_the_files_and_complete_in_the_ledger(workspace: Path) -> None:
    write_params({"augment": ["question_punctuation"]}, {})
    assert run() == 0
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    train = json.loads((stage.LLAMAFACTORY / "train.json").read_text(encoding="utf-8"))
    marked = {row["id"]: row["synthetic"] for row in train}
    assert {i for i, hook in marked.items() if hook == "question_punctuation"} == {i for i in marked if "-aug-" in i}
    assert sum(map(bool, marked.values())) == metrics["num_synthetic"] > 0
    for split in ("val", "test"):
        assert "-aug-" not in (stage.LLAMAFACTORY / f"{split}.json").read_text(encoding="utf-8")
    ledger = pl.read_parquet(stage.LEDGER)
    synthetic = ledger.filter(pl.col("id").str.contains("-aug-"))
    assert synthetic.filter(pl.col("action") == "read").height == synthetic["id"].n_unique() == metrics["num_synthetic"]
    assert set(synthetic["source"]) == {"augment:question_punctuation"}
    assert synthetic["related_id"].is_in(ledger.filter(split="train")["id"].to_list()).all()
    assert len(read_rows(stage.LLAMAFACTORY / "train.json", get_template("qwen3"))) == metrics["num_train"]
    counted = pl.read_csv(stage.LENGTHS).sum().to_dicts()[0]
    assert counted["train"] == metrics["num_train"]


@pytest.mark.parametrize("name", ["data/decontaminated/records.jsonl", "data/dedup/pairs.parquet", "data/ledger/parts/dedup.parquet"])
def test_a_missing_input_is_named(workspace: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / name).unlink()
    assert f"error: {name}: the file is missing; run" in failure(capsys)


@pytest.mark.parametrize("name", ["data/decontaminated/records.jsonl", "data/dedup/pairs.parquet", "data/ledger/parts/normalize.parquet"])
@pytest.mark.parametrize("keep", [0, 90, -7])
def test_a_truncated_input_is_named_with_the_stage_that_writes_it(
    workspace: Path, name: str, keep: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stage_of = {"data/dedup/pairs.parquet": "dedup", "data/ledger/parts/normalize.parquet": "normalize"}
    stage_of["data/decontaminated/records.jsonl"] = "decontaminate"
    path = workspace / name
    path.write_bytes(path.read_bytes()[:keep])
    message = failure(capsys)
    if keep == 0 and path.suffix == ".jsonl":
        assert message.startswith("error: data/decontaminated: no row is left in train")  # an empty file is a list of no records
        return
    assert message.startswith(f"error: {name}: the file is damaged, got ")
    assert message.endswith(f"; run `dvc repro -f {stage_of[name]}`")
    assert "\n" not in message


def test_a_parquet_file_of_other_columns_is_damaged(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"问": [1]}).write_parquet(workspace / "data/dedup/pairs.parquet")
    assert "error: data/dedup/pairs.parquet: the file is damaged, got " in failure(capsys)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_per_source": -1}, "params.yaml: convert.max_per_source: input should be greater than or equal to 0, got -1"),
        ({"format": "openai"}, "params.yaml: convert.format: "),
        ({"val_ratio": 0.5}, "params.yaml: convert.val_ratio: input should be less than 0.5, got 0.5; Expected share"),
        ({"test_ratio": -0.1}, "params.yaml: convert.test_ratio: input should be greater than or equal to 0, got -0.1"),
        ({"sed": 1}, "params.yaml: convert.sed: unknown key, got 1; did you mean `seed`?"),
    ],
)
def test_wrong_params_are_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_section("convert", values, ConvertParams)
    assert message in str(caught.value)


def test_questions_that_share_a_frame_may_lie_in_two_splits(tmp_path: Path) -> None:
    columns = {
        "a": ["a", "b", "c", "d", "e"],
        "b": ["v", "w", "x", "y", "z"],
        "jaccard": [0.55, 0.55, 0.55, 0.9, 0.9],
        "verdict": ["conflict", "conflict", "similar", "conflict", "similar"],
        "detail": ["number", "wording", "alignment", "wording", "alignment"],
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "pairs.parquet")
    assert [pair.a for pair in stage.read_pairs(tmp_path / "pairs.parquet")] == ["a", "d", "e"]
