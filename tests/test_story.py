"""medcot why: one record's events as sentences, with the texts before and after, found by id, hash or place, and masked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from medcot.checks import CODES
from medcot.cli import main
from medcot.ledger import SCHEMA, Event, events_frame, join_parts, write_ledger
from medcot.lookup import LEDGER, PAIRS, ends, find_line
from medcot.normalization import normalize_record, quarantine_row
from medcot.normalize_params import NormalizeParams
from medcot.pii import RULES as PII_RULES
from medcot.quality import RULES as QUALITY_RULES
from medcot.records import RawRecord, Record, record_row, write_jsonl, write_records
from medcot.sentences import REASONS, sentence
from medcot.text import RULES

PHONE = "13812345678"
TEXTS = {
    "aaaa0000": ("患者男，５４岁，胸痛\u00a0三天？", "先看心电图。\r\n再查肌钙蛋白。", "考虑急性心肌梗死。 "),
    "bbbb0000": ("患者男，54岁，胸痛 3天？", "先看心电图。", "考虑急性心肌梗死。"),
    "bbbb1111": ("Which drug first?", "Blood pressure is high, so think of ACE inhibitors first.", "Lisinopril 10 mg."),
    "cccc0000": ("Which drug comes first?", "Blood pressure is high, so think of ACE inhibitors first.", "Lisinopril 10 mg."),
    "dddd0000": ("患者男，45岁，胸痛三天？", "先看心电图。", "考虑急性心肌梗死。"),
    "eeee0000": (f"家属电话 {PHONE}，ｘ线怎么看？", "看片。", "正常。"),
    "ffff0000": ("某评测题的题干？", "略。", "甲。"),
}
UNREADABLE = RawRecord("9999abcd", "样本.jsonl", error="invalid_json", detail="at byte 9", raw=f'{{"Question": "电话 {PHONE}"')


def event(record_id: str, row: int) -> dict[str, Any]:
    frame = pl.read_parquet("data/ledger/ledger.parquet")
    return frame.filter((pl.col("id") == record_id) & (pl.col("seq") == row)).to_dicts()[0]


@pytest.fixture
def project(in_tmp: Path) -> Path:
    """A repository's data of eight records, normalised by the real rules; the other stages' verdicts are given."""
    raws = [*(RawRecord(key, "样本.jsonl", *texts) for key, texts in TEXTS.items()), UNREADABLE]
    read = [
        Event(r.id, "download", "read", r.error or "o1", r.detail, hash_after=r.content_hash, source=r.source, source_row=i)
        for i, r in enumerate(raws)
    ]
    outcomes = {raw.id: normalize_record(raw, NormalizeParams(max_bad_ratio=0.5).policy(public=True)) for raw in raws}
    later = [
        Event("bbbb0000", "dedup", "removed", "near_duplicate", "row; the answers differ: number", "aaaa0000", 0.9321),
        Event("cccc0000", "dedup", "removed", "near_duplicate", "question", "bbbb1111", 0.8),
        Event("aaaa0000", "dedup", "conflict", "conflict", "question: number", "dddd0000", 0.9),
        Event("aaaa0000", "dedup", "conflict", "conflict", "row: number", "dddd0000", 0.95),
        Event("dddd0000", "dedup", "conflict", "conflict", "question: number", "aaaa0000", 0.9),
    ]
    gone = Event("ffff0000", "decontaminate", "removed", "contaminated", "exact", "cmexam:item-7", 1.0)
    ends = [
        Event("aaaa0000", "convert", "kept", "kept", split="train", num_tokens=77),
        Event("bbbb1111", "convert", "removed", "cutoff_len", "2000 tokens, cutoff_len 1024", num_tokens=2000),
        Event("dddd0000", "convert", "kept", "kept", split="val", num_tokens=70),
        Event("eeee0000", "convert", "kept", "kept", split="train", num_tokens=50),
    ]
    write_records(_directory("data/raw"), raws)
    Path("data/raw/source.json").write_text('{"kind":"hub","public":true}', encoding="utf-8")
    write_records(_directory("data/normalized"), [out.record for out in outcomes.values() if out.record])
    refused = [quarantine_row(raw, out.ended) for raw in raws if (out := outcomes[raw.id]).ended]
    write_jsonl(Path("data/normalized/quarantine.jsonl"), refused)
    pairs = {
        "a": ["aaaa0000"],
        "b": ["bbbb0000"],
        "key": ["row"],
        "jaccard": [0.9321],
        "alignment": [0.97],
        "verdict": ["duplicate"],
        "detail": [""],
    }
    _directory("data/dedup")
    pl.DataFrame(pairs).write_parquet("data/dedup/pairs.parquet")
    rows = ",\n".join(json.dumps({"id": key, "instruction": "…"}) for key in ("aaaa0000", "eeee0000"))
    (_directory("data/llamafactory") / "train.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    parts = [read, [event for out in outcomes.values() for event in out.events], later, [gone], ends]
    write_ledger(Path("data/ledger/ledger.parquet"), join_parts([events_frame(part) for part in parts]))
    Path("params.yaml").write_text(yaml.safe_dump({"normalize": {"max_bad_ratio": 0.5}}), encoding="utf-8")
    return in_tmp


def _directory(name: str) -> Path:
    path = Path(name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def why(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["why", *arguments]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["why", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err.removeprefix("error: ").rstrip("\n")


def test_the_story_of_a_kept_record_in_both_languages(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, "aaaa0000")
    assert text.startswith("aaaa0000  样本.jsonl:0  kept\n")
    for line in (
        "Read from 样本.jsonl, row 0 (the first is 0), as o1.",
        "读自 样本.jsonl 第 0 行（从 0 起），o1。",
        "Full-width digits, letters and signs became half-width: question.",
        "全角数字、字母和符号改为半角：question。",
        "question: 患者男，[-５４-]{+54+}岁，胸痛\u00a0三天？",
        "question: 患者男，54岁，胸痛[-⟨NBSP⟩-]{+␣+}三天？",
        "reasoning: 先看心电图。[-␍⏎",
        "answer: 考虑急性心肌梗死。[-␣-]",
        "Looks like dddd0000 (similarity 0.90) but states another fact (question: number)",
        "question: 患者男，[-54-]{+45+}岁，胸痛[-␣-]三天？",
        "dddd0000 itself: Kept: goes to val, 70 tokens long.",
        "dddd0000 自身：已保留：归入 val，长 70 个词元。",
        "It is row 0 of data/llamafactory/train.json (the first is 0), on line 2 of the file.",
    ):
        assert line in text, line
    assert text.count("from this record to dddd0000") == 1, "the same two texts are not compared twice"


def test_one_language_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    english, chinese = (why(capsys, "aaaa0000", "--lang", language) for language in ("en", "zh"))
    assert "Kept: goes to train" in english
    assert "已保留" not in english
    assert "已保留：归入 train" in chinese
    assert "Kept" not in chinese


def test_a_duplicate_stands_beside_its_witness(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, "bbbb0000", "--lang", "en")
    assert "Removed: nearly the same as aaaa0000, which stays; similarity 0.93 (row; the answers differ: number)." in text
    assert "question: 患者男，54岁，胸痛 [-3-]{+三+}天？" in text
    assert "reasoning: 先看心电图。{+⏎\n" in text
    assert "answer: =" in text
    assert "By the whole row, the two align to 0.97." in text
    assert "aaaa0000 itself: Kept: goes to train" in text


def test_a_witness_that_went_itself_is_followed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, "cccc0000", "--lang", "en")
    assert "question: Which drug [-comes␣-]first?" in text
    assert "bbbb1111 itself: Removed: longer than model.cutoff_len allows; rows are never cut (2000 tokens, cutoff_len 1024)." in text


def test_a_benchmark_item_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, "ffff0000")
    assert "Removed: it gives away the benchmark item cmexam:item-7 (exact)." in text
    assert "已移除：泄露评测题 cmexam:item-7（exact）。" in text


def test_a_refused_row_says_where_its_text_is_kept_and_masks_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, "9999abcd")
    assert "Refused: the row is not valid JSON (at byte 9)." in text
    assert "Its raw fields are kept in data/normalized/quarantine.jsonl." in text
    assert 'raw: {"Question": "电话 [手机号1]"' in text


@pytest.mark.parametrize("options", [[], ["--full"], ["--json"]])
def test_no_personal_data_is_shown(project: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    for record_id in ("eeee0000", "9999abcd"):
        text = why(capsys, record_id, *options)
        assert "138" not in text
        assert "[手机号1]" in text


def test_what_normalize_masked_is_not_shown_as_a_change(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"家属电话 {PHONE}，\u00a0１小时前来电。"
    raw = RawRecord("eeee0000", "私有.jsonl", text, "看片。", "正常。")
    outcome = normalize_record(raw, NormalizeParams(max_bad_ratio=0.5).policy(public=False))
    assert [event.rule for event in outcome.events if event.action == "changed"] == ["width", "spaces", "pii_mobile"]
    read = Event("eeee0000", "download", "read", "o1", hash_after=raw.content_hash, source="私有.jsonl", source_row=0)
    write_ledger(Path("data/ledger/ledger.parquet"), join_parts([events_frame([read]), events_frame(outcome.events)]))
    write_records(Path("data/raw"), [raw])
    Path("data/raw/source.json").write_text('{"kind":"file","public":false}', encoding="utf-8")
    told = why(capsys, "eeee0000")
    assert "question: 家属电话 [手机号1]，\u00a0[-１-]{+1+}小时前来电。" in told
    assert "question: 家属电话 [手机号1]，[-⟨NBSP⟩-]{+␣+}1小时前来电。" in told
    assert "Personal data was masked: question × 1." in told
    assert "In its place stands [手机号1]; the value is not shown here either." in told
    assert PHONE not in told
    write_records(Path("data/normalized"), [record for record in [outcome.record] if record])
    events = [text.partition("download")[2] for text in (why(capsys, "eeee0000"), told)]
    assert events[0] == events[1]  # the placeholder that the normalised text holds is the value's own, not one more


def test_a_change_within_personal_data_is_told_without_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = RawRecord("eeee0000", "私有.jsonl", "家属电话 １３８12345678，怎么看？", "看片。", "正常。")
    outcome = normalize_record(raw, NormalizeParams(max_bad_ratio=0.5).policy(public=True))
    read = Event("eeee0000", "download", "read", "o1", hash_after=raw.content_hash, source="私有.jsonl", source_row=0)
    write_ledger(Path("data/ledger/ledger.parquet"), join_parts([events_frame([read]), events_frame(outcome.events)]))
    write_records(Path("data/raw"), [raw])
    told = why(capsys, "eeee0000")
    assert "The change lies in personal data, which is not shown here." in told
    assert "12345678" not in told


def test_a_row_that_a_hook_made_has_no_place_in_a_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("data/ledger/ledger.parquet")
    made = Event("aaaa0000-aug-x", "convert", "read", "synthetic", related_id="aaaa0000", source="augment:x")
    kept = Event("aaaa0000-aug-x", "convert", "kept", "kept", split="train", num_tokens=9)
    write_ledger(path, join_parts([pl.read_parquet(path), events_frame([made, kept])]))
    text = why(capsys, "aaaa0000-aug-x")
    assert text.startswith("aaaa0000-aug-x  augment:x  kept\n\n")
    assert "None" not in text


def test_full_shows_every_text_and_hides_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, full = (why(capsys, "cccc0000", *options) for options in ([], ["--full"]))
    assert "Lisinopril" not in short
    assert "answer:\n  Lisinopril 10 mg." in full
    long = "头" * 100 + "１" + "尾" * 100
    record = RawRecord("aaaa0000", "样本.jsonl", long, "甲", "乙")
    write_records(Path("data/raw"), [record])
    assert " … " + "头" * 30 + "[-１-]{+1+}" + "尾" * 30 + " …\n" in why(capsys, "aaaa0000")
    assert "头" * 100 + "[-１-]{+1+}" + "尾" * 100 in why(capsys, "aaaa0000", "--full")


def test_json_holds_the_same_story(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = json.loads(why(capsys, "bbbb0000", "--json"))
    assert (story["id"], story["source_row"], story["end"], story["rule"]) == ("bbbb0000", 1, "removed", "near_duplicate")
    assert story["texts"]["question"] == "患者男，54岁，胸痛 3天？"
    last = story["events"][-1]
    assert last["event"]["related_id"] == "aaaa0000"
    assert last["comparison"]["fields"]["answer"] == [["equal", "考虑急性心肌梗死。"]]
    assert ["delete", "3"] in last["comparison"]["fields"]["question"]
    assert last["sentence"]["zh"].startswith("已移除：与保留的 aaaa0000 几乎相同")


@pytest.mark.parametrize("wanted", ["dddd0000", "dddd", "样本.jsonl:4"])
def test_a_record_is_found_by_id_prefix_or_place(project: Path, capsys: pytest.CaptureFixture[str], wanted: str) -> None:
    assert why(capsys, wanted).startswith("dddd0000 ")


def test_a_record_is_found_by_the_hash_of_any_of_its_texts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 1, 2):
        assert why(capsys, event("aaaa0000", number)["hash_after"]).startswith("aaaa0000 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bbbb"], "medcot why: 2 records are meant by this, got bbbb; give one of bbbb0000, bbbb1111"),
        (["aaaa0001"], "medcot why: no such record, got aaaa0001; the nearest ids are aaaa0000, "),
        (["aaa"], "medcot why: no such record, got aaa; an id's beginning has at least 4 characters; the nearest ids are aaaa0000, "),
        (["样本.jsonl:99"], "medcot why: no such record, got 样本.jsonl:99; the ledger has 样本.jsonl:0 to 样本.jsonl:7"),
        (["mine.csv:0"], "medcot why: no such record, got mine.csv:0; the ledger has 样本.jsonl:0 to 样本.jsonl:7"),
        ([], "medcot why: one of ID and --rule is needed; `medcot why ID`, or `medcot why --rule near_duplicate`"),
        (["aaaa0000", "--rule", "width"], "medcot why: one of ID and --rule is needed; "),
        (
            ["--rule", "widths"],
            "medcot why --rule: no record met this rule, got widths; the ledger has conflict, contaminated, ",
        ),
        (["--rule", "width", "-n", "0"], "medcot why -n: at least one record must be asked for, got 0; give 1 or more"),
    ],
)
def test_a_wrong_question_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert error(capsys, *arguments).startswith(message)


def test_without_a_ledger_it_says_how_to_get_one(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys, "aaaa0000") == (
        "data/ledger/ledger.parquet: the file is missing; `dvc repro convert` makes it, `dvc pull data/ledger/ledger.parquet` fetches it"
    )


@pytest.mark.parametrize(("path", "stage"), [(LEDGER, "convert"), (PAIRS, "dedup")])
def test_a_damaged_file_is_one_line_that_says_how_to_make_it_again(
    project: Path, capsys: pytest.CaptureFixture[str], path: Path, stage: str
) -> None:
    removed = pl.read_parquet(LEDGER).filter((pl.col("action") == "removed") & (pl.col("stage") == "dedup"))["id"][0]
    path.write_bytes(b"PAR1 cut off")
    said = error(capsys, removed)
    assert said.startswith(f"{path}: the file is damaged, got ")
    assert said.endswith(f"run `dvc repro -f {stage}`")


def test_with_the_ledger_alone_the_events_are_told_and_what_is_missing_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("raw", "normalized", "dedup", "llamafactory"):
        shutil.rmtree(f"data/{name}")
    kept, copy, refused = (why(capsys, key) for key in ("aaaa0000", "bbbb0000", "9999abcd"))
    assert "Full-width digits, letters and signs became half-width: question." in kept
    assert "data/raw is not here, so its text cannot be shown: `dvc pull data/raw`." in kept
    assert "本机没有 data/llamafactory，无法显示文本：`dvc pull data/llamafactory`。" in kept
    assert "data/normalized is not here" in copy
    assert "aaaa0000 itself: Kept" in copy
    assert "data/normalized is not here" in refused


def test_a_change_that_no_present_rule_makes_is_admitted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(Path("data/raw"), [RawRecord("aaaa0000", "样本.jsonl", "患者", "想", "答")])
    assert "The present rules and params do not make this change any more." in why(capsys, "aaaa0000")


def test_a_train_file_of_another_run_is_not_taken_for_this_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/llamafactory/train.json").write_text("[]\n", encoding="utf-8")
    assert "data/llamafactory/train.json is of another run." in why(capsys, "aaaa0000")


def test_records_of_a_rule_are_drawn_by_seed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = why(capsys, "--rule", "near_duplicate", "-n", "9", "--lang", "en").splitlines()
    assert sorted(line.split()[0] for line in lines) == ["bbbb0000", "cccc0000"]
    assert why(capsys, "--rule", "conflict", "-n", "1") == why(capsys, "--rule", "conflict", "-n", "1")
    drawn = {why(capsys, "--rule", "kept", "-n", "1", "--seed", str(seed)).split()[0] for seed in range(12)}
    assert drawn == {"aaaa0000", "dddd0000", "eeee0000"}
    (event,) = json.loads(why(capsys, "--rule", "contaminated", "--json"))
    assert (event["id"], event["sentence"]["zh"]) == ("ffff0000", "已移除：泄露评测题 cmexam:item-7（exact）。")


def test_a_line_is_found_without_parsing_the_others(in_tmp: Path) -> None:
    path = Path("x.jsonl")
    assert find_line(path, "a") is None
    path.write_text("", encoding="utf-8")
    assert find_line(path, "a") is None
    path.write_text(
        '{"id": "a", "q": "甲"}\n{"id": "b", broken\n{"id": "a-1", "x": "\\"id\\": \\"c\\","}\n{"id": "末", "q": 1}', encoding="utf-8"
    )
    assert find_line(path, "a") == (0, {"id": "a", "q": "甲"})
    assert find_line(path, "a-1") == (2, {"id": "a-1", "x": '"id": "c",'})
    assert find_line(path, "末") == (3, {"id": "末", "q": 1})
    assert find_line(path, "c") is None
    write_records(in_tmp, [Record("z", "样本", "问", "想", "答")])
    assert find_line(Path("records.jsonl"), "z") == (0, record_row(Record("z", "样本", "问", "想", "答")))


ROW = {**dict.fromkeys(SCHEMA), "source": "s", "source_row": 1, "stage": "normalize", "detail": "d"}


@pytest.mark.parametrize("rule", [*(rule.name for rule in RULES), *CODES, *QUALITY_RULES])
def test_every_rule_of_normalize_has_words_of_its_own(rule: str) -> None:
    assert rule in REASONS
    assert all("{" not in said and said for said in sentence({**ROW, "action": "changed", "rule": rule}))


@pytest.mark.parametrize(
    ("action", "rule", "detail", "english", "chinese"),
    [
        ("flagged", "brand_new", "x 3", "Flagged, and stays in: rule brand_new (x 3).", "已标记，仍保留：规则 brand_new（x 3）。"),
        ("refused", "brand_new", None, "Refused: rule brand_new.", "已拒收：规则 brand_new。"),
        ("changed", "brand_new", None, "Rule brand_new.", "规则 brand_new。"),
        ("praised", "brand_new", None, "praised: rule brand_new.", "praised：规则 brand_new。"),
        ("changed", PII_RULES[0], "question × 1", "Personal data was masked: question × 1.", "个人信息已遮盖：question × 1。"),
        ("flagged", PII_RULES[0], "question × 1", f"Flagged, and stays in: it holds personal data, {PII_RULES[0]} (question × 1).", None),
        ("removed", "curator", "drop: 重复 {x}", "Removed: a curator decided so (drop: 重复 {x}).", None),
    ],
)
def test_what_has_no_words_of_its_own_is_named(action: str, rule: str, detail: str | None, english: str, chinese: str | None) -> None:
    said = sentence({**ROW, "action": action, "rule": rule, "detail": detail})
    assert said.en == english
    assert chinese is None or said.zh == chinese


def test_a_detail_is_masked_and_cannot_steer_the_terminal() -> None:
    said = sentence({**ROW, "action": "flagged", "rule": "x", "detail": f"电话 {PHONE}\x1b[2J"})
    assert said.en == "Flagged, and stays in: rule x (电话 [手机号1]\\x1b[2J)."


def test_who_stands_for_a_record_is_followed_to_the_last(in_tmp: Path) -> None:
    chain = [
        Event("copy", "dedup", "removed", "near_duplicate", "row", "witness", 0.9),
        Event("witness", "decontaminate", "removed", "contaminated_cluster", "near", "hit", 0.8),
        Event("hit", "decontaminate", "removed", "contaminated", "exact", "cmexam:1", 1.0),
        Event("one", "dedup", "removed", "near_duplicate", "row", "other", 0.9),
        Event("other", "dedup", "removed", "near_duplicate", "row", "one", 0.9),
    ]
    write_ledger(Path("data/ledger/ledger.parquet"), events_frame(chain))
    assert [end["id"] for end in ends("copy")] == ["copy", "witness", "hit"]
    assert [end["id"] for end in ends("one")] == ["one", "other"]  # a circle, which no stage writes, is left
