"""medcot ledger: what a ledger holds, and what changed between two revisions, with a cause only where there can be one."""

from __future__ import annotations

import csv
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from conftest import ROOT

from medcot.cli import main
from medcot.dvc_lock import cache_dir, leaves
from medcot.ledger import Event, events_frame, join_parts, write_ledger
from medcot.ledger_diff import ABSENT, DEPENDS, SPLIT, Fate, because, counts, fates, moves, pair
from medcot.params import read_params
from medcot.quality import RULES as QUALITY_RULES
from medcot.revisions import Change, Revision, compare

LEDGER = Path("data/ledger/ledger.parquet")
PARAMS = {
    "download.source": "file",
    "normalize.quality.min_reasoning.threshold": 20,
    "normalize.quality.refusal.action": "flag",
    "dedup.question.threshold": 0.5,
    "convert.val_ratio": 0.1,
    "model.cutoff_len": 1024,
}
DEPS = {
    "download": {"data/import": "d0", "data/sample/records.jsonl": "s0", "medcot/mapping.py": "m0"},
    "normalize": {"data/curation/decisions.csv": "c0", "data/raw": "r0", "medcot/text.py": "t0", "stages/normalize.py": "n0"},
    "dedup": {"data/normalized": "x0", "medcot/guard.py": "g0"},
    "decontaminate": {"data/benchmarks": "b0", "medcot/overlap.py": "o0"},
    "convert": {"models/base/tokenizer": "k0", "medcot/audit.py": "a0"},
}
STAGE_OF = {
    "max_samples": "download",
    "near_duplicate": "dedup",
    "contaminated": "decontaminate",
    "cutoff_len": "convert",
    "kept": "convert",
}
OUTS = {"download": "data/raw", "normalize": "data/normalized"}


def fate(record_id: str, rule: str = "kept", **changes: Any) -> Fate:
    """A record's fate; the stage and the action are those of the rule."""
    action, split = ("kept", "train") if rule == "kept" else ("removed", None)
    values = {"stage": STAGE_OF.get(rule, "normalize"), "action": action, "split": split}
    texts = {"origin": "download", "read_hash": record_id, "text_hash": record_id, "changes": (), "decisions": ()}
    return Fate(**{"id": record_id, "rule": rule, **values, **texts, **changes})


QUALITY = Change("normalize", "param", "normalize.quality.min_reasoning.threshold", 20, 40)
OTHER_QUALITY = Change("normalize", "param", "normalize.quality.refusal.action", "flag", "drop")
CODE = Change("normalize", "code", "medcot/text.py")
DECISIONS = Change("normalize", "input", "data/curation/decisions.csv", "c0", "c1")
DEDUP = Change("dedup", "param", "dedup.question.threshold", 0.5, 0.7)
DEDUP_CODE = Change("dedup", "code", "medcot/guard.py")
BENCHMARKS = Change("decontaminate", "input", "data/benchmarks", "b0", "b1")
GENERAL = Change("decontaminate", "input", "data/general", "g0", "g1")
SUITES = Change("decontaminate", "input", "data/suites", "s0", "s1")
CUTOFF = Change("convert", "param", "model.cutoff_len", 1024, 512)
RATIO = Change("convert", "param", "convert.val_ratio", 0.1, 0.2)
SOURCE = Change("download", "input", "data/import", "d0", "d1")
SAMPLED = Change("download", "param", "download.max_samples", 0, 9)
ALL = [SOURCE, SAMPLED, QUALITY, OTHER_QUALITY, CODE, DECISIONS, DEDUP, DEDUP_CODE, BENCHMARKS, CUTOFF, RATIO]
SHORT = "quality_min_reasoning"


@pytest.mark.parametrize(
    ("before", "after", "changes", "kind", "rule", "causes"),
    [
        # A rule that looks at one record alone: its own param, and the code of its stage.
        (fate("a"), fate("a", SHORT), [QUALITY, OTHER_QUALITY, DEDUP, CUTOFF, SOURCE], "left", SHORT, [QUALITY]),
        (fate("a", SHORT), fate("a"), [QUALITY, CODE, DEDUP_CODE], "entered", SHORT, [QUALITY, CODE]),
        (fate("a"), fate("a", SHORT), [OTHER_QUALITY, DECISIONS], "left", SHORT, []),
        (fate("a"), fate("a", "cutoff_len"), [CUTOFF, RATIO, QUALITY], "left", "cutoff_len", [CUTOFF]),
        (fate("a"), fate("a", "empty_field"), ALL, "left", "empty_field", [CODE]),
        (fate("a"), fate("a", "contaminated"), [BENCHMARKS, SOURCE], "left", "contaminated", [BENCHMARKS]),
        (fate("a"), fate("a", "contaminated"), [GENERAL, SUITES, SOURCE], "left", "contaminated", [GENERAL, SUITES]),
        # A record that came with another text: all that made the text.
        (fate("a"), fate("a", "cutoff_len", text_hash="b"), [CUTOFF, CODE], "left", "cutoff_len", [CUTOFF, CODE]),
        # A rule that compares records: what brought the others counts too.
        (fate("a"), fate("a", "near_duplicate"), [DEDUP, CUTOFF], "left", "near_duplicate", [DEDUP]),
        (fate("a"), fate("a", "near_duplicate"), [SOURCE, DEDUP, CUTOFF], "left", "near_duplicate", [SOURCE, DEDUP]),
        (fate("a"), fate("a", "near_duplicate"), [QUALITY], "left", "near_duplicate", [QUALITY]),
        (fate("a"), fate("a", "max_samples"), [SAMPLED, QUALITY], "left", "max_samples", [SAMPLED]),
        # A rule that nothing is known of: anything before it, and of its stage.
        (fate("a"), fate("a", "new_rule"), [SOURCE, QUALITY, DEDUP], "left", "new_rule", [SOURCE, QUALITY]),
        # A curator's decision, and no other change, when the two ledgers name another one.
        (fate("a"), fate("a", "curator", decisions=("drop",)), ALL, "left", "curator", [DECISIONS]),
        (fate("a", SHORT), fate("a", decisions=("keep",)), ALL, "entered", SHORT, [DECISIONS]),
        # Two ends: the ways part where the first of them lies.
        (fate("a", SHORT), fate("a", "near_duplicate"), [QUALITY, DEDUP], "fate", f"{SHORT} → near_duplicate", [QUALITY]),
        (fate("a"), fate("a", split="val"), [RATIO, CUTOFF, SOURCE], "fate", SPLIT, [RATIO]),
        # Kept with another text.
        (fate("a"), fate("a", text_hash="b", changes=("width",)), [CODE, QUALITY, SOURCE], "text", "width", [CODE]),
        (fate("a"), fate("a", text_hash="b", decisions=("edit",), changes=("curator",)), ALL, "text", "curator", [DECISIONS]),
        # A row that is not there: where rows come in, but for the sampling, which the ledger names.
        (fate("a"), None, ALL, "left", ABSENT, [SOURCE]),
        (None, fate("a"), ALL, "entered", ABSENT, [SOURCE]),
        (None, fate("a", SHORT), ALL, "fate", ABSENT, [SOURCE]),
        (None, fate("a", origin="convert"), [SOURCE, DEDUP, RATIO], "entered", ABSENT, [SOURCE, DEDUP, RATIO]),
    ],
)
def test_only_what_can_be_the_cause_is_named(
    before: Fate | None, after: Fate | None, changes: list[Change], kind: str, rule: str, causes: list[Change]
) -> None:
    (move,) = moves([(before, after)], changes)
    assert (move.kind, move.rule) == (kind, rule)
    assert sorted(move.causes) == sorted(causes)


def test_what_a_rule_depends_on_is_there() -> None:
    """A param that was renamed would be named as nobody's cause."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = read_params(ROOT / "params.yaml")
    names = [name for name, _ in leaves(params)] + [dep for stage in pipeline.values() for dep in stage["deps"]]
    depends = {prefix for prefixes in DEPENDS.values() for prefix in prefixes}
    depends |= {f"normalize.quality.{rule.removeprefix('quality_')}." for rule in QUALITY_RULES} | {"normalize.pii."}
    assert [prefix for prefix in sorted(depends) if not any(name.startswith(prefix) for name in names)] == []


def test_a_record_that_is_as_it_was_is_no_move() -> None:
    same = [(fate("a"), fate("a")), (fate("b", SHORT), fate("b", SHORT)), (fate("c", SHORT), fate("c", SHORT, text_hash="x"))]
    assert moves(same, ALL) == []


@pytest.mark.parametrize(
    ("causes", "recorded", "english", "chinese"),
    [
        (
            [QUALITY],
            True,
            " because normalize.quality.min_reasoning.threshold went 20 → 40",
            "，因为 normalize.quality.min_reasoning.threshold 由 20 变为 40",
        ),
        ([CODE], True, " because stage normalize changed its code (medcot/text.py)", "，因为 normalize 阶段的代码有变（medcot/text.py）"),
        ([BENCHMARKS], True, " because data/benchmarks changed", "，因为 data/benchmarks 有变"),
        (
            [Change("download", "input", "hub.revision", "abc", None)],
            True,
            " because hub.revision went abc → —",
            "，因为 hub.revision 由 abc 变为 —",
        ),
        (
            [SOURCE, DEDUP],
            True,
            " because of one or more of: data/import changed; dedup.question.threshold went 0.5 → 0.7",
            "，原因为以下之一或几项：data/import 有变；dedup.question.threshold 由 0.5 变为 0.7",
        ),
        ([], True, "; no recorded change explains it", "；没有记录到可以解释的变化"),
        ([], False, "; what it was made with is not recorded", "；生成条件没有记录"),
    ],
)
def test_a_cause_is_said_in_both_languages(causes: list[Change], recorded: bool, english: str, chinese: str) -> None:
    assert because(causes, recorded) == (english, chinese)


def test_records_are_matched_by_id_and_then_by_content() -> None:
    before = [fate("a"), fate("b", read_hash="same"), fate("b-1", read_hash="same"), fate("c", read_hash="gone")]
    after = [fate("a", SHORT), fate("x", read_hash="same"), fate("n", read_hash="new")]
    found = [(one and one.id, two and two.id) for one, two in pair(before, after)]
    assert found == [("a", "a"), ("b", "x"), ("b-1", None), ("c", None), (None, "n")]


def test_every_record_is_counted_once_under_the_rule_that_decided() -> None:
    pairs = [
        (fate("a"), fate("a")),
        (fate("b"), fate("b", SHORT)),
        (fate("c", SHORT), fate("c")),
        (fate("d", SHORT), fate("d", SHORT)),
        (fate("e", SHORT), fate("e", "near_duplicate")),
        (None, fate("f")),
        (fate("g"), None),
    ]
    table = counts(pairs)
    assert {rule: dict(row) for rule, row in table.items()} == {
        "kept": {"unchanged": 1},
        SHORT: {"left": 1, "entered": 1, "unchanged": 1},
        "near_duplicate": {"from_other": 1},
        ABSENT: {"entered": 1, "left": 1},
    }
    assert sum(sum(row.values()) for row in table.values()) == len(pairs)


def revision(stage: str, **values: Any) -> Revision:
    return Revision("r", pl.DataFrame(), {stage: {tuple(key.split("__")): value for key, value in values.items()}})  # type: ignore[misc]


def test_code_is_one_change_and_an_input_that_was_not_read_is_none() -> None:
    ours = revision("download", param__seed=1, code__a="1", code__b="1", code__c="1")
    theirs = revision("download", param__seed=2, code__a="2", code__b="2", code__c="1")
    assert compare(ours, theirs) == [Change("download", "code", "a, b"), Change("download", "param", "seed")]
    made = {("param", "download.source"): "sample", ("input", "data/import"): "1", ("input", "data/sample/records.jsonl"): "1"}
    one, two = (
        Revision("r", pl.DataFrame(), {"download": {**made, ("input", "data/import"): each, ("input", "data/sample/records.jsonl"): each}})
        for each in "12"
    )
    assert compare(one, two) == [Change("download", "input", "data/sample/records.jsonl")]
    assert compare(one, Revision("workspace", pl.DataFrame(), {})) is None


def events(verdicts: dict[str, str]) -> pl.DataFrame:
    """A ledger of records that each end by one rule."""
    ends = []
    for key, rule in verdicts.items():
        end = fate(key, rule)
        split = "train" if rule == "kept" else None
        ends.append(Event(key, end.stage, "kept" if rule == "kept" else "removed", rule, split=split))
    read = [Event(key, "download", "read", "o1", hash_after=f"hash-{key}", source="样本", source_row=i) for i, key in enumerate(verdicts)]
    return join_parts([events_frame(read), events_frame(ends)])


def lock(md5: str, params: dict[str, Any], deps: dict[str, dict[str, str]]) -> str:
    """A dvc.lock of the data stages."""
    stages: dict[str, Any] = {}
    for stage, names in deps.items():
        sections = (f"{stage}.", "model.") if stage == "convert" else (f"{stage}.",)
        stages[stage] = {
            "deps": [{"path": name, "md5": value} for name, value in names.items()],
            "params": {"params.yaml": {name: value for name, value in params.items() if name.startswith(sections)}},
            "outs": [{"path": OUTS[stage], "md5": "o"}] if stage in OUTS else [],
        }
    stages["convert"]["outs"] = [{"path": LEDGER.as_posix(), "md5": md5}]
    return yaml.safe_dump({"schema": "2.0", "stages": stages})


def run_pipeline(verdicts: dict[str, str], params: dict[str, Any] | None = None, deps: dict[str, dict[str, str]] | None = None) -> str:
    """Leave in the workspace what a run of the pipeline leaves there: ledger, cache and lock; returns the ledger's hash."""
    write_ledger(LEDGER, events(verdicts))
    md5 = hashlib.md5(LEDGER.read_bytes(), usedforsecurity=False).hexdigest()
    cached = Path("cache/files/md5") / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(LEDGER.read_bytes())
    Path("dvc.lock").write_text(lock(md5, {**PARAMS, **(params or {})}, {**DEPS, **(deps or {})}), encoding="utf-8")
    return md5


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


FIRST = {"aaaa": "kept", "bbbb": "kept", "cccc": "near_duplicate", "dddd": "quality_min_reasoning"}


@pytest.fixture
def repository(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository whose first commit is a run; DVC is asked for nothing but the place of its cache, which is given."""
    bin_directory = in_tmp / "bin"
    bin_directory.mkdir()
    (bin_directory / "dvc").write_text('#!/bin/sh\n[ "$*" = "cache dir" ] && echo cache\n', encoding="utf-8")
    (bin_directory / "dvc").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_directory), prepend=":")
    cache_dir.cache_clear()
    git("init", "-q")
    run_pipeline(FIRST)
    git("add", "dvc.lock")
    git("commit", "-qm", "one")
    git("tag", "一")
    return in_tmp


def ledger(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["ledger", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def table(text: str) -> dict[str, tuple[int, int, int]]:
    rows = [line.split() for line in text.splitlines() if line[:9].strip().isdigit() and line.startswith(" ")]
    return {rule: (int(entered), int(left), int(same)) for entered, left, same, _, rule in rows}


def test_a_param_that_was_changed_is_named_with_what_left_because_of_it(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_pipeline(
        {**FIRST, "bbbb": "cutoff_len", "dddd": "kept"}, {"model.cutoff_len": 512, "normalize.quality.min_reasoning.threshold": 10}
    )
    text = ledger(capsys, "diff", "HEAD")
    assert text.startswith("HEAD → workspace: 4 → 4 records, 2 → 2 kept / 记录 4 → 4，保留 2 → 2\n")
    assert table(text) == {"cutoff_len": (0, 1, 0), "kept": (0, 0, 1), "near_duplicate": (0, 0, 1), "quality_min_reasoning": (1, 0, 0)}
    assert "1 left by cutoff_len because model.cutoff_len went 1024 → 512\n" in text
    assert "1 条因 cutoff_len 离开，因为 model.cutoff_len 由 1024 变为 512\n    bbbb\n" in text
    assert "1 entered, no longer kept out by quality_min_reasoning because normalize.quality.min_reasoning.threshold went 20 → 10\n" in text
    assert "1 条进入，此前被 quality_min_reasoning 挡下，因为 normalize.quality.min_reasoning.threshold 由 20 变为 10\n    dddd\n" in text


def test_two_commits_an_experiment_and_a_tag_are_compared(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {**DEPS["download"], "data/import": "d1"}
    run_pipeline({"aaaa": "kept", "cccc": "kept", "eeee": "kept"}, deps={"download": source})
    git("commit", "-qam", "two")
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/试验-1", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/twin", "HEAD")
    git("update-ref", "refs/exps/ab/cdef/twin", "HEAD~1")
    texts = [ledger(capsys, "diff", "一", name) for name in ("HEAD", "试验-1", head[:8])]
    assert texts[0].replace("HEAD", "x") == texts[1].replace("试验-1", "x") == texts[2].replace(head[:8], "x")
    assert (
        "1 left, no longer in the source because data/import changed\n1 条离开，来源中已没有，因为 data/import 有变\n    bbbb" in texts[0]
    )
    assert "1 entered, new in the source because data/import changed\n1 条进入，来源中新增，因为 data/import 有变\n    eeee" in texts[0]
    assert "1 entered, no longer kept out by near_duplicate because data/import changed" in texts[0]
    message = ledger(capsys, "diff", "twin", code=2)
    assert message.startswith("error: medcot ledger diff: several experiments have this name, got twin; give one of their commits: ")
    assert head[:10] in message


def test_nothing_changed_is_said(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ledger(capsys, "diff", "HEAD")
    assert text.endswith("No record entered, left or changed. / 没有记录进入、离开或改变。\n")
    assert table(text) == {"kept": (0, 0, 2), "near_duplicate": (0, 0, 1), "quality_min_reasoning": (0, 0, 1)}


def test_some_ids_are_shown_or_all_and_a_file_holds_every_record(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = {f"{i:04d}": "kept" for i in range(12)}
    run_pipeline(many)
    git("commit", "-qam", "two")
    run_pipeline(dict.fromkeys(many, "cutoff_len"), {"model.cutoff_len": 9})
    short, full = ledger(capsys, "diff", "HEAD"), ledger(capsys, "diff", "HEAD", "--ids", "--csv", "out/差异.csv")
    assert "    0000 0001 0002 0003 0004 … (12)\n" in short
    assert f"    {' '.join(many)}\n" in full
    with Path("out/差异.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(many)
    assert rows[0] == {
        "id": "0000",
        "id_before": "0000",
        "change": "left",
        "rule": "cutoff_len",
        "before": "kept: train",
        "after": "cutoff_len",
        "because": "because model.cutoff_len went 1024 → 9",
    }


def test_a_workspace_that_its_lock_does_not_describe_names_no_cause(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ledger(LEDGER, events({**FIRST, "bbbb": "cutoff_len"}))
    assert main(["ledger", "diff", "HEAD"]) == 0
    captured = capsys.readouterr()
    assert "1 left by cutoff_len; what it was made with is not recorded\n1 条因 cutoff_len 离开；生成条件没有记录\n" in captured.out
    assert "dvc.lock does not describe the workspace's ledger, so causes are not named; `dvc repro convert` mends this" in captured.err


def test_a_hub_that_moved_under_the_same_params_is_a_cause(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Path("metrics/download.json")
    metrics.parent.mkdir()
    metrics.write_text('{"hub": {"revision": "abc1"}}', encoding="utf-8")
    git("add", "metrics")
    git("commit", "-qm", "two")
    metrics.write_text('{"hub": {"revision": "abc2"}}', encoding="utf-8")
    run_pipeline({"aaaa": "kept"})
    assert "3 left" not in (text := ledger(capsys, "diff", "HEAD"))
    assert "1 left, no longer in the source because hub.revision went abc1 → abc2" in text


def test_the_summary_counts_every_event_and_adds_up(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ledger(capsys, "summary")
    assert [line.split() for line in text.splitlines()[1:5]] == [
        ["4", "download", "read", "o1"],
        ["1", "normalize", "removed", "quality_min_reasoning"],
        ["1", "dedup", "removed", "near_duplicate"],
        ["2", "convert", "kept", "kept"],
    ]
    assert text.splitlines()[-1] == "4 read = 2 kept + 2 removed + 0 refused / 读入 4 = 保留 2 + 移除 2 + 拒收 0"
    run_pipeline({"aaaa": "kept"})
    assert ledger(capsys, "summary", "HEAD") == text


def test_rows_that_a_hook_made_are_not_counted_as_read(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("data/ledger/ledger.parquet")
    made = [
        Event("aaaa-aug-x", "convert", "read", "synthetic", related_id="aaaa", source="augment:x"),
        Event("aaaa-aug-x", "convert", "kept", "kept", split="train", num_tokens=3),
    ]
    join_parts([pl.read_parquet(path), events_frame(made)]).write_parquet(path)
    end = "4 read + 1 made = 3 kept + 2 removed + 0 refused / 读入 4 + 生成 1 = 保留 3 + 移除 2 + 拒收 0"
    assert ledger(capsys, "summary").splitlines()[-1] == end


def test_what_cannot_be_read_is_one_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nowhere", "不存在"):
        assert ledger(capsys, "diff", name, code=2) == (
            f"error: medcot ledger diff: no such revision or experiment, got {name}; see `git log` and `dvc exp list -A`\n"
        )
    with pytest.raises(SystemExit):
        main(["ledger", "diff", "--output=x"])
    assert "not a revision, got -x" in ledger(capsys, "diff", "--", "-x", code=2)
    git("rm", "-q", "--cached", "dvc.lock")
    git("commit", "-qm", "none")
    assert ledger(capsys, "diff", "HEAD", code=2) == (
        "error: medcot ledger diff: dvc.lock names no ledger at this revision, got HEAD; "
        "choose one whose pipeline has run and was committed with its dvc.lock\n"
    )
    Path("dvc.lock").write_text("stages: 3\n", encoding="utf-8")
    assert ledger(capsys, "diff", "一", code=2) == "error: dvc.lock: not a lock file of DVC; `git checkout dvc.lock`, or `dvc repro`\n"
    LEDGER.unlink()
    assert "data/ledger/ledger.parquet: the file is missing; `dvc repro convert` makes it" in ledger(capsys, "diff", "一", code=2)


def test_a_ledger_that_is_not_in_the_cache_is_one_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cached,) = (path for path in Path("cache").rglob("*") if path.is_file())
    cached.write_bytes(b"PAR1, cut off")
    assert ledger(capsys, "diff", "HEAD", code=2).startswith("error: medcot ledger diff: the ledger of HEAD is damaged, got ")
    cached.unlink()
    assert ledger(capsys, "diff", "HEAD", code=3) == (
        "error: medcot ledger diff: the ledger of this revision is not in DVC's cache, got HEAD; "
        "`dvc fetch -A data/ledger/ledger.parquet` fetches it from your remote; else check the revision out and `dvc repro convert`\n"
    )


def test_the_fate_of_a_record_is_read_from_its_events() -> None:
    story = [
        Event("a", "download", "read", "o1", hash_after="h0", source="样本", source_row=0),
        Event("a", "normalize", "changed", "width", hash_before="h0", hash_after="h1"),
        Event("a", "normalize", "flagged", "curator", "keep: 理由", hash_after="h1"),
        Event("a", "convert", "kept", "kept", split="val"),
    ]
    parts = [events_frame([event for event in story if event.stage == stage]) for stage in ("download", "normalize", "convert")]
    assert fates(join_parts(parts)) == [
        Fate("a", "download", "h0", "h1", ("width",), ("keep: 理由",), "convert", "kept", "kept", "val"),
    ]
    assert fates(join_parts([])) == []


@pytest.mark.slow
def test_dvc_s_own_cache_and_lock_are_read(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One real `dvc repro`: where DVC keeps the ledger, and how it writes params and hashes."""
    write_ledger(Path("made.parquet"), events(FIRST))
    stage = {"cmd": f"cp made.parquet {LEDGER}", "params": ["model"], "deps": ["made.parquet"], "outs": [LEDGER.as_posix()]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"convert": stage}}), encoding="utf-8")
    Path("params.yaml").write_text("model: {cutoff_len: 1024}\n", encoding="utf-8")
    for name in (".dvc", LEDGER.parent):
        Path(name).mkdir(parents=True)
    Path(".dvc/config").touch()
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    cache_dir.cache_clear()
    git("init", "-q")
    subprocess.run(["dvc", "repro", "-q"], check=True)
    git("add", "dvc.lock")
    git("commit", "-qm", "one")
    recorded, md5 = Path("dvc.lock").read_text(encoding="utf-8"), hashlib.md5(LEDGER.read_bytes(), usedforsecurity=False).hexdigest()
    write_ledger(LEDGER, events({**FIRST, "bbbb": "cutoff_len"}))
    other = hashlib.md5(LEDGER.read_bytes(), usedforsecurity=False).hexdigest()
    Path("dvc.lock").write_text(recorded.replace(md5, other).replace("1024", "512"), encoding="utf-8")
    text = ledger(capsys, "diff", "HEAD")
    assert "1 left by cutoff_len because model.cutoff_len went 1024 → 512\n" in text
