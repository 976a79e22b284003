"""The curator's page: its numbers are the ledger's, nothing personal and nothing executable is in it, and a person can work with it."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import Browser, find_browser
from conftest import ROOT

from medcot import audit, checks, guard, page_data, pii, quality, text
from medcot.decisions import COLUMNS, read_decisions
from medcot.errors import DataError
from medcot.ledger import Event, events_frame, join_parts, write_ledger
from medcot.normalization import DECIDABLE, normalize_record, steps
from medcot.normalize_params import Policy
from medcot.page import FILES, PLAIN_LIMIT, SCRIPTS, render
from medcot.page_data import Inputs, PageData, build
from medcot.page_texts import HEAD, size
from medcot.records import RawRecord, Record, write_jsonl, write_records, write_source
from medcot.statistics import wilson
from medcot.text import normalize_text
from stages import curation as stage

QUALITY = quality.QualityParams()
OFF = {name: getattr(QUALITY, name).model_copy(update={"action": "off"}) for name in type(QUALITY).model_fields}
POLICY = Policy(QUALITY.model_copy(update=OFF), "mask")
SECRETS = ("11010519491231002X", "13800138000", "１３９００１３９０００", "li.na@example.com", "张伟明")
TRAP = "</script><img src=x onerror=\"document.title='owned'\"> 头痛，what next? {{texts}}"
STRINGS: dict[str, dict[str, str]] = json.loads((FILES / "strings.json").read_text(encoding="utf-8"))


def raw(question: Any, reasoning: Any = "先看心电图。 Then decide.", answer: Any = "观察。Observe.", **fields: Any) -> RawRecord:
    record = RawRecord("", "mine.jsonl", question, reasoning, answer, **fields)
    return replace(record, id=record.content_hash)


CHANGED = raw("\u200b胸痛\u00a0三天，\r\n怎么办？  ", "Full width: ５０ mg。")
MISSING = raw("缺少推理 no reasoning?", None)
NUMBER = raw("答案是数字 a number?", answer=42)
BROKEN = raw(None, None, None, error="invalid_json", detail="line 5", raw='{"Question": "电话13800138000"')
WITNESS, COPY = raw("一位68岁女性胸闷，如何处理？ What now?"), raw("一名68岁女性胸闷，如何处理？ What now?")
FIVE, FIFTY = raw("患者服用氨氯地平 5 mg，是否合适？"), raw("患者服用氨氯地平 50 mg，是否合适？")
TRAPPED = raw(TRAP, "<b>不是标记</b> & not markup\u200b", "`${1}`")
PERSONAL = raw(
    "患者张伟明，男，身份证号11010519491231002X，胸痛。", "手机１３９００１３９０００，邮箱 li.na@example.com。", "立即就诊 now。"
)
PLAIN = [raw(f"普通病例 {i}：咳嗽 cough?") for i in range(8)]
RAWS = [CHANGED, MISSING, NUMBER, BROKEN, WITNESS, COPY, FIVE, FIFTY, TRAPPED, PERSONAL, *PLAIN]


def later_events(records: list[Record]) -> tuple[list[Event], list[Event]]:
    """What dedup and convert say: one near-duplicate, one conflict, everything else kept."""
    dedup = [Event(COPY.id, "dedup", "removed", "near_duplicate", "question", WITNESS.id, 0.91)]
    dedup += [Event(a.id, "dedup", "conflict", "conflict", "question: number", b.id, 0.87) for a, b in ((FIVE, FIFTY), (FIFTY, FIVE))]
    kept = [record.id for record in records if record.id != COPY.id]
    splits = ["test" if i == 0 else "val" if i == 1 else "train" for i in range(len(kept))]
    convert = [
        Event(i, "convert", "kept", "kept", split=split, num_tokens=100 + n) for n, (i, split) in enumerate(zip(kept, splits, strict=True))
    ]
    return dedup, convert


def make_inputs(raws: list[RawRecord] = RAWS, **changes: Any) -> Inputs:
    read = [
        Event(r.id, "download", "read", r.error or "o1", hash_after=r.content_hash, source=r.source, source_row=i)
        for i, r in enumerate(raws)
    ]
    outcomes = [normalize_record(r, POLICY) for r in raws]
    records = sorted((o.record for o in outcomes if o.record), key=lambda record: record.id)
    parts = [read, [event for o in outcomes for event in o.events], *later_events(records)]
    conflict = {
        "key": "question",
        "differs": "number",
        "places": [["5", "50"]],
        "jaccard": 0.87,
        "a": {"id": FIVE.id},
        "b": {"id": FIFTY.id},
    }
    inputs = Inputs(
        join_parts([events_frame(part) for part in parts]),
        sorted(raws, key=lambda r: r.id),
        records,
        [conflict],
        [{"id": WITNESS.id, "benchmark": "CMExam", "item": "17", "how": "ngram", "similarity": 0.8, "kept": True}],
        [{"from": 100, "to": 200, "train": 9, "val": 1, "test": 1, "left_out": 0}],
        [{"key": "question", "from": 0.85, "to": 0.9, "below": 0, "duplicate": 0, "conflict": 1, "similar": 2, "threshold": 0.5}],
        steps=lambda r: steps(r, None, POLICY),
        searched=True,
    )
    return replace(inputs, **changes)


def make_page(**changes: Any) -> PageData:
    return build(make_inputs(**changes), sample_size=3, seed=1)


@pytest.fixture(scope="module")
def built() -> PageData:
    return make_page()


@pytest.fixture(scope="module")
def html(built: PageData) -> str:
    return render(built.core, built.texts)


def number_of(page: PageData, record: RawRecord) -> int:
    found: int = page.core["records"]["id"].index(record.id)
    return found


# --- numbers ---


def test_the_size_of_an_entry_counts_every_text_that_it_holds() -> None:
    assert size({"raw": ["头痛", "ab"], "now": ["x"], "steps": [["nfc", {"0": [0, 1, "yz"]}]]}) == 7
    assert size({"unreadable": "{头"}) == 2


def test_the_funnel_and_the_counts_are_those_of_the_ledger(built: PageData) -> None:
    ledger = make_inputs().ledger
    ended = dict(ledger.filter(pl.col("action").is_in(["removed", "refused"])).group_by("stage").len().iter_rows())
    for row in built.core["stages"]:
        assert row["in"] + row["read"] - row["ended"] == row["out"]
        assert row["ended"] == ended.get(row["name"], 0)
    kept = ledger.filter(pl.col("action") == "kept")
    assert built.core["stages"][-1]["out"] == kept.height == built.metrics["num_kept"] == 14
    assert built.metrics["num_read"] == len(RAWS) == built.metrics["num_kept"] + built.metrics["num_left_out"]
    assert [built.core["records"]["split"].count(i) for i in (0, 1, 2)] == [kept.filter(split=s).height for s in ("train", "val", "test")]
    assert built.metrics | {"num_characters": 0, "num_texts": 0} == {
        **{"num_read": 18, "num_left_out": 4, "num_kept": 14, "num_changed": 3, "num_flagged": 0, "num_clusters": 1, "num_conflicts": 1},
        **{"num_decisions": 0, "num_decisions_unknown": 0, "num_texts": 0, "num_characters": 0},
    }


def test_every_event_of_the_ledger_is_on_the_page_but_read_and_kept(built: PageData) -> None:
    ledger = make_inputs().ledger.filter(~pl.col("action").is_in(["read", "kept"])).sort("id", "seq")
    ids, rules = built.core["records"]["id"], built.core["rules"]
    record, rule, _, related, _ = built.core["events"]
    shown = [(ids[r], *rules[u], None if o is None else ids[o]) for r, u, o in zip(record, rule, related, strict=True)]
    assert shown == list(ledger.select("id", "stage", "action", "rule", "related_id").iter_rows())


def test_rows_that_were_not_sampled_or_were_made_later_are_counted_where_they_come_and_go() -> None:
    more = events_frame(
        [Event("a" * 16, "download", "read", "o1", source="x", source_row=9), Event("a" * 16, "download", "removed", "max_samples")]
    )
    made = [Event("b" * 16, "convert", "read", "synthetic", source="augment:x"), Event("b" * 16, "convert", "kept", "kept", split="train")]
    inputs = make_inputs()
    page = build(replace(inputs, ledger=pl.concat([inputs.ledger, more, events_frame(made)])), 3, 1)
    rows = {row["name"]: (row["in"], row["read"], row["ended"], row["out"]) for row in page.core["stages"]}
    assert rows["download"] == (0, 19, 1, 18)
    assert rows["convert"] == (14, 1, 0, 15)
    assert page.core["records"]["head"][page.core["records"]["id"].index("a" * 16)] == ""


def test_samples_are_of_the_rule_and_do_not_follow_the_order_of_the_rows(built: PageData) -> None:
    assert [len(sample) for sample in built.core["samples"]] == [min(3, n) for n in sizes(built)]
    shuffled = RAWS[:]
    random.Random(3).shuffle(shuffled)
    other = make_inputs(raws=shuffled)
    rows = other.ledger.sample(fraction=1.0, shuffle=True, seed=2).with_columns(source_row=pl.lit(0))
    page = build(replace(other, ledger=rows, raw=shuffled), 3, 1)
    assert page.core["samples"] == built.core["samples"]
    assert page.texts == built.texts
    assert build(make_inputs(), 3, 2).core["samples"] != built.core["samples"]


def sizes(page: PageData) -> list[int]:
    """How many records each rule has, and how many have none."""
    record, rule = page.core["events"][:2]
    pairs = set(zip(record, rule, strict=True))
    return [*(sum(u == i for _, u in pairs) for i in range(len(page.core["rules"]))), len(RAWS) - len(set(record))]


# --- texts ---


def test_the_last_step_of_a_change_is_the_text_that_went_on(built: PageData) -> None:
    entry = built.texts[str(number_of(built, CHANGED))]
    texts = list(entry["raw"])
    for rule, fields in entry["steps"]:
        assert rule in [each[2] for each in built.core["rules"]]
        for i, (start, end, inserted) in fields.items():
            texts[int(i)] = texts[int(i)][:start] + inserted + texts[int(i)][end:]
    assert "now" not in entry
    assert texts == [normalize_text(v) for v in (CHANGED.question, CHANGED.reasoning, CHANGED.answer)]
    assert "\u200b" in entry["raw"][0]


def test_a_row_without_three_texts_shows_what_it_has(built: PageData) -> None:
    assert built.texts[str(number_of(built, MISSING))] == {"raw": [MISSING.question, "", MISSING.answer], "missing": [1]}
    assert built.texts[str(number_of(built, NUMBER))]["raw"][2] == "42"
    assert list(built.texts[str(number_of(built, BROKEN))]) == ["unreadable"]


def test_rows_to_which_nothing_happened_bring_only_their_beginning(built: PageData) -> None:
    untouched = built.core["samples"][-1]
    with_text = {int(i) for i in built.texts}
    plain = {number_of(built, record) for record in PLAIN}
    assert set(untouched) & plain
    assert with_text & plain <= set(untouched)
    assert all(built.core["records"]["head"][i].startswith("普通病例") for i in plain)


def test_when_the_texts_do_not_fit_the_most_urgent_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "TEXT_BUDGET", 120)
    page = build(make_inputs(), 0, 1)
    assert str(number_of(page, FIVE)) in page.texts  # a conflict waits for a decision
    assert str(number_of(page, CHANGED)) not in page.texts
    assert page.metrics["num_characters"] <= 120


def test_a_lone_surrogate_does_not_stop_the_page() -> None:
    page = make_page(raws=[*RAWS, raw("半个字符 \ud83d half")])
    assert "半个字符 ? half" in render(page.core, page.texts)


# --- what must not be in it ---


def test_no_personal_data_is_in_the_page(html: str, built: PageData) -> None:
    assert [secret for secret in SECRETS if secret in html] == []
    entry = built.texts[str(number_of(built, PERSONAL))]
    assert entry["masked"] == [0, 1]
    assert "[手机号1]" in entry["raw"][1]
    assert {rule for rule, _ in entry["steps"]} >= {"pii_id_number", "pii_mobile"}
    places = [place for rule, fields in entry["steps"] if rule.startswith("pii_") for place in fields.values()]
    assert all(start == end and not inserted for start, end, inserted in places)  # masked before and after: nothing to tell apart


def test_personal_data_is_masked_where_no_rule_looked_for_it() -> None:
    off = Policy(POLICY.quality, "off")
    torn = raw("手机\u200b１３９\u200b００１３９００００，胸痛？ What now?")
    ended = raw("电话13800138000，胸痛？", None)
    raws = [PERSONAL, WITNESS, COPY, FIVE, FIFTY, torn, ended]
    read = [Event(r.id, "download", "read", "o1", hash_after=r.content_hash, source=r.source, source_row=i) for i, r in enumerate(raws)]
    outcomes = [normalize_record(r, off) for r in raws]
    ledger = join_parts([events_frame(read), events_frame([event for o in outcomes for event in o.events])])
    for searched in (False, True):
        rows = raws if not searched else [torn, ended]  # where normalize looked, it is the raw text of these that it did not see
        inputs = Inputs(
            ledger.filter(pl.col("id").is_in([r.id for r in rows])), rows, [o.record for o in outcomes if o.record], searched=searched
        )
        page = build(inputs, 9, 1)
        assert [secret for secret in (*SECRETS, "00１３９") if secret in render(page.core, page.texts)] == []


def test_a_decision_with_personal_data_is_shown_masked_and_marked() -> None:
    row = dict.fromkeys(COLUMNS, "") | {"content_hash": PERSONAL.content_hash, "decision": "edit", "question": "电话13800138000，胸痛？"}
    other = dict.fromkeys(COLUMNS, "") | {"content_hash": "0" * 16, "decision": "drop", "reason": "重复 twice"}
    page = make_page(decisions=[row, other])
    assert [(d["masked"], d["known"]) for d in page.core["decisions"]] == [(True, True), (False, False)]
    assert "13800138000" not in render(page.core, page.texts)
    assert page.metrics["num_decisions_unknown"] == 1


def test_the_page_names_no_address_and_its_policy_forbids_every_connection(html: str) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'<>]*|//[a-z0-9-]+\.[a-z]{2,}", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace, never fetched
    code = html.split('<script type="application/json"')[0] + html.rsplit("<script>", 1)[1]
    assert re.findall(r"<(?:link|img|iframe|script src)|\bsrc=|url\(|@import|\bfetch\(|XMLHttpRequest|innerHTML|\beval\(", code) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_a_text_cannot_end_its_block_or_fill_a_place(html: str) -> None:
    assert html.count("</script>") == 4
    assert "<img" not in html
    assert "{{texts}}" in html  # of the trap, in which it stands as text
    blocks = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', html, re.DOTALL)
    assert [name for name, _ in blocks] == ["strings", "core", "texts"]
    assert any(entry.get("raw", [""])[0] == TRAP for entry in json.loads(blocks[2][1]).values())


def test_equal_data_gives_equal_bytes_and_a_large_block_is_compressed(built: PageData, html: str) -> None:
    again = make_page()
    assert render(again.core, again.texts) == html
    large = render(built.core, {"0": {"raw": ["咳嗽 cough " * (PLAIN_LIMIT // 8), "", ""]}})
    assert len(large) < PLAIN_LIMIT
    assert 'id="texts">eJ' in large


# --- words ---


def test_both_languages_have_every_string_and_they_fill_the_same_places() -> None:
    for name, entry in STRINGS.items():
        assert list(entry) == ["en", "zh"], name
        assert all(entry.values()), name
        assert sorted(re.findall(r"\{\w+\}", entry["en"])) == sorted(re.findall(r"\{\w+\}", entry["zh"])), name
    wrong = [name for name, entry in STRINGS.items() if re.search(r"[一-鿿][,;:?!][一-鿿]", entry["zh"])]
    assert wrong == []


def test_every_rule_of_the_project_has_a_name_and_a_sentence() -> None:
    rules = [*checks.CODES, *(rule.name for rule in text.RULES), *(code for code in audit.CODES if code != "too_long"), *quality.RULES]
    rules += ["exact_copy", "exact_question", "near_duplicate", "conflict", "cutoff_len", "bridges_splits", "max_samples", "curator"]
    rules += ["contaminated", "contaminated_cluster", "source_cap", "class_balance", "lost_superscript", pii.REVIEW]
    assert [rule for rule in rules if f"rule.{rule}" not in STRINGS or f"why.{rule}" not in STRINGS] == []
    assert [rule for rule in pii.RULES if f"rule.{rule}" not in STRINGS] == []


def test_every_string_that_the_script_asks_for_is_there() -> None:
    script = "".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    asked = set(re.findall(r"\bt\(\"([\w.]+)\"\s*[,)]", script)) | set(re.findall(r"need_\w+", script))
    assert sorted(asked - set(STRINGS)) == []


def test_placeholders_of_every_kind_are_recognised_by_the_script() -> None:
    source = re.search(r"const PLACEHOLDER = /(.*)/u;", (FILES / "diff.js").read_text(encoding="utf-8"))
    assert source
    for secret in (
        "身份证号11010519491231002X",
        "His ID is 11010519491231002X.",
        "电话13800138000",
        "mobile 13800138000",
        "li.na@example.com",
    ):
        assert re.search(source[1], pii.masked(secret)), pii.masked(secret)


def test_every_kind_of_fact_that_the_guard_tells_apart_has_words() -> None:
    kinds = {"number", "unit", *guard.KINDS.values(), guard.WORDING}
    assert sorted(kind for kind in kinds if f"fact_{kind}" not in STRINGS) == []


# --- the stage ---


def write_project(directory: Path) -> None:
    """What the earlier stages would have written."""
    inputs = make_inputs()
    for name in ("raw", "normalized", "dedup", "decontaminated", "curation"):
        (directory / "data" / name).mkdir(parents=True)
    write_records(directory / "data/raw", inputs.raw)
    write_source(directory / "data/raw", "file", public=False)
    write_records(directory / "data/normalized", inputs.records)
    write_jsonl(directory / "data/dedup/conflicts.jsonl", [dict(row) for row in inputs.conflicts])
    pl.DataFrame([dict(row) for row in inputs.similarities]).write_csv(directory / "data/dedup/similarity.csv")
    pl.DataFrame([dict(row) for row in inputs.hits]).write_parquet(directory / "data/decontaminated/hits.parquet")
    write_ledger(directory / "data/ledger/ledger.parquet", inputs.ledger)
    pl.DataFrame([dict(row) for row in inputs.lengths]).write_csv(directory / "data/ledger/lengths.csv")
    shutil.copyfile(ROOT / "params.yaml", directory / "params.yaml")
    (directory / "data/curation/decisions.csv").write_text(",".join(COLUMNS) + "\n", encoding="utf-8")


def test_the_stage_writes_the_page_beside_the_decisions_and_the_same_bytes_twice(in_tmp: Path) -> None:
    write_project(in_tmp)
    stage.main()
    first = stage.PAGE.read_bytes()
    metrics = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    assert metrics["num_read"] == 18 == metrics["num_kept"] + metrics["num_left_out"]
    stage.main()
    assert stage.PAGE.read_bytes() == first
    assert sorted(path.name for path in stage.PAGE.parent.iterdir()) == ["curation.html", "decisions.csv"]
    assert [secret for secret in SECRETS if secret.encode() in first] == []


@pytest.mark.parametrize("name", ["data/ledger/lengths.csv", "data/dedup/similarity.csv"])
def test_a_missing_or_damaged_histogram_is_named_with_what_to_run(in_tmp: Path, name: str) -> None:
    write_project(in_tmp)
    Path(name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name}: the file is damaged, .*; run `dvc repro -f"):
        stage.main()
    Path(name).unlink()
    with pytest.raises(DataError, match=f"{name}: the file is missing; run `dvc repro`"):
        stage.main()
    assert not stage.PAGE.exists()


# --- in a browser ---


@pytest.fixture(scope="module")
def page_file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "curation.html"
    path.write_text(html, encoding="utf-8", newline="\n")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("no Chromium on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Browser:
    """The page, fresh: nothing remembered, in English, wide."""
    browser.resize(1440, 900)
    browser.open(page_file)
    browser.run("localStorage.clear()")
    browser.open(page_file)
    browser.run("language === 'zh' && switchLanguage()")
    browser.errors.clear()
    browser.requests.clear()
    return browser


def click(browser: Browser, selector: str) -> None:
    browser.wait(f"document.querySelector({json.dumps(selector)})")
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")


def fill(browser: Browser, selector: str, value: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(value)}")


def shown(browser: Browser, selector: str = "main") -> str:
    found: str = browser.run(f"document.querySelector({json.dumps(selector)}).innerText")
    return found


def goto(browser: Browser, fragment: str) -> None:
    browser.run(f"location.hash = {json.dumps(fragment)}")
    browser.wait(f"location.hash === {json.dumps('#' + fragment)} && JSON.stringify(route) === JSON.stringify(readRoute())")


def export(browser: Browser, directory: Path) -> Path:
    """Click on the export and wait for the file."""
    session, browser.session = browser.session, None
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(directory), eventsEnabled=False)
    browser.session = session
    goto(browser, "view=decisions")
    click(browser, "#export")
    for _ in range(600):
        if (directory / "decisions.csv").exists():
            return directory / "decisions.csv"
        browser.run("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError("nothing was downloaded")


@pytest.mark.parametrize("width", [1440, 390])
def test_a_curator_walks_from_a_rule_to_a_record_decides_and_exports(opened: Browser, tmp_path: Path, width: int) -> None:
    opened.resize(width, 844)
    assert shown(opened, ".lead h2") == "18 rows were read: 14 are kept, 4 were left out."
    click(opened, "#language")
    assert shown(opened, ".lead h2") == "共读入 18 条：保留 14 条，去掉 4 条。"
    assert opened.run("document.documentElement.lang") == "zh-CN"
    click(opened, "a[href='#rule=near_duplicate']")
    opened.wait("document.querySelector('#precision')")
    opened.key("j")
    opened.key("n")
    assert shown(opened, "#precision") == "0%（0–79%），已判 1/1 条"
    click(opened, "a[href='#view=records&rule=near_duplicate']")
    opened.wait("document.querySelectorAll('.list-row').length === 1")
    opened.key("Enter")
    opened.wait("document.querySelector('.record')")
    assert COPY.id in shown(opened, ".record-head")
    opened.key("1")
    fill(opened, ".decision-form [id^=reason]", '不是重复, another "case"')
    click(opened, ".decision-form [type=submit]")
    assert "请填写审阅人" in shown(opened, ".problem")
    fill(opened, ".decision-form [id^=reviewer]", "=R")
    click(opened, ".decision-form [type=submit]")
    assert "已决定：保留" in shown(opened, ".decision")
    read = read_decisions(export(opened, tmp_path))
    assert [(d.decision, d.reason, d.reviewer) for d in read.values()] == [("keep", '不是重复, another "case"', "=R")]
    assert list(read) == [COPY.content_hash]
    assert opened.errors == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_view_scrolls_sideways_on_a_phone_or_logs_an_error(opened: Browser, language: str) -> None:
    opened.resize(390, 844)
    opened.run(f"language !== '{language}' && switchLanguage()")
    views = [f"view={view}" for view in ("overview", "records", "duplicates", "conflicts", "exposure", "decisions")]
    for fragment in (*views, "rule=conflict", "rule=untouched", "rule=none", f"record={TRAPPED.id}", "record=none", "view=records&q=zzzz"):
        goto(opened, fragment)
        assert opened.run("document.documentElement.scrollWidth") == 390, fragment
        assert shown(opened).strip(), fragment
    assert opened.errors == []
    assert {url.split(":")[0] for url in opened.requests} <= {"file", "blob", "about"}


def test_a_text_with_markup_is_shown_as_text(opened: Browser) -> None:
    goto(opened, f"record={TRAPPED.id}")
    opened.wait("document.querySelector('.record')")
    assert TRAP in shown(opened, ".record")
    assert opened.run("document.title") != "owned"
    assert opened.run("document.images.length") == 0


def test_a_change_shows_what_cannot_be_seen(opened: Browser) -> None:
    goto(opened, f"record={CHANGED.id}")
    assert opened.run("[...document.querySelectorAll('.record .unseen')].map((node) => node.textContent)") == ["ZWSP", "NBSP", "CR"]
    assert opened.run("[...document.querySelectorAll('.record ins')].map((node) => node.textContent)") == ["·", "50"]
    goto(opened, "rule=invisible")
    assert opened.run("[...document.querySelectorAll('.card del .unseen')].map((node) => node.textContent)") == ["ZWSP", "ZWSP"]


def test_a_rule_that_masked_is_judged_by_the_text_around_the_placeholders(opened: Browser) -> None:
    goto(opened, "rule=pii_mobile")
    opened.wait("document.querySelector('.card .masked')")
    assert "Reasoning × 1" in shown(opened, ".card .detail")
    assert "手机[手机号1]，邮箱 [邮箱1]。" in shown(opened, ".card")
    goto(opened, f"record={PERSONAL.id}")
    assert f"from mine.jsonl, row {RAWS.index(PERSONAL)} (the first is 0)" in shown(opened, ".story")  # as `medcot why` counts


def test_rows_that_a_hook_made_are_told_apart_from_those_that_were_read(browser: Browser, tmp_path: Path) -> None:
    inputs = make_inputs()
    row = f"{WITNESS.id}-aug-x"
    made = [
        Event(row, "convert", "read", "synthetic", related_id=WITNESS.id, source="augment:x"),
        Event(row, "convert", "kept", "kept", split="train", num_tokens=9),
    ]
    page = build(replace(inputs, ledger=pl.concat([inputs.ledger, events_frame(made)])), 3, 1)
    path = tmp_path / "curation.html"
    path.write_text(render(page.core, page.texts), encoding="utf-8", newline="\n")
    browser.resize(1440, 900)
    browser.open(path, "#view=overview")
    browser.run("language === 'zh' && switchLanguage()")
    assert shown(browser, ".lead h2") == "18 rows were read and 1 made from them: 15 are kept, 4 were left out."
    counts = browser.run("[...document.querySelectorAll('.funnel > .bar-row .bar-count')].map((node) => Number(node.innerText))")
    assert (counts[0], counts[-1]) == (18, 15)
    assert "1 made here" in shown(browser, ".funnel")
    browser.open(path, f"#record={row}")
    assert "made by augment:x, not read from the source" in shown(browser, ".story")
    assert "Decide about that one: " + WITNESS.id in shown(browser, ".record")  # a decision here would be its parent's
    assert browser.run("document.querySelectorAll('.record button').length") == 0
    browser.open(path, f"#record={WITNESS.id}")
    assert "identical rows" not in shown(browser, ".record-head")


def test_the_page_knows_which_refusals_no_decision_overrules(opened: Browser) -> None:
    assert set(opened.run("[...UNREAD]")) == {*checks.UNREADABLE_CODES, "think_block"}
    beyond = set(opened.run("[...BEYOND]"))
    assert {*checks.CODES} - beyond - {*checks.UNREADABLE_CODES, "think_block"} == set(DECIDABLE)
    assert {code for code in audit.CODES if code != "too_long"} <= beyond


def test_a_record_that_no_decision_brings_back_says_so(opened: Browser) -> None:
    goto(opened, f"record={BROKEN.id}")
    assert "cannot be kept: mend it in the source" in shown(opened, ".decision")
    assert opened.run("[...document.querySelectorAll('.decision .choice')].map((node) => node.disabled)") == [True, False, True]
    goto(opened, f"record={MISSING.id}")
    assert "Keep does not bring this record back" in shown(opened, ".decision")
    goto(opened, f"record={COPY.id}")
    assert "bring this record back" not in shown(opened, ".decision")


def test_a_cut_beginning_ends_in_dots(opened: Browser) -> None:
    assert opened.run("data.core.head") == HEAD == 60
    opened.run("data.core.records.head[0] = 'x'.repeat(60); data.core.records.head[1] = 'y'.repeat(59)")
    assert opened.run("[headOf(0).slice(-2), headOf(1).slice(-2)]") == ["x…", "yy"]


def test_a_conflict_is_decided_with_one_button_and_may_be_decided_anew(opened: Browser, tmp_path: Path) -> None:
    goto(opened, "view=conflicts")
    assert "1. Another number" in shown(opened, ".conflict-card")
    assert opened.run("[...document.querySelectorAll('.conflict-card mark')].map((node) => node.textContent).sort()") == ["5", "50"]
    click(opened, ".conflict-card [data-verb=a]")
    assert "Say who decides" in shown(opened, "#toast")
    fill(opened, "#conflict-reviewer-0", "RV")
    assert "1 of 1 undecided" in shown(opened, ".lead")
    click(opened, ".conflict-card [data-verb=both]")
    assert "0 of 1 undecided" in shown(opened, ".lead")
    drafts = opened.run("Object.fromEntries(store.drafts)")
    assert FIFTY.id in drafts[FIVE.content_hash]["reason"]  # the reason names the other side
    assert FIVE.id in drafts[FIFTY.content_hash]["reason"]
    click(opened, ".conflict-card [data-verb=b]")
    read = read_decisions(export(opened, tmp_path))
    assert [(d.content_hash, d.decision) for d in read.values()] == [(FIFTY.content_hash, "drop")]
    assert FIVE.id in read[FIFTY.content_hash].reason


def test_an_edit_never_writes_placeholders_over_personal_data_without_consent(opened: Browser, tmp_path: Path) -> None:
    goto(opened, f"record={PERSONAL.id}")
    click(opened, ".choice.edit")
    fill(opened, ".decision-form [id^=reason]", "更正 correct")
    fill(opened, ".decision-form [id^=reviewer]", "RV")
    click(opened, ".decision-form [type=submit]")
    assert "Nothing was changed" in shown(opened, ".problem")
    fill(opened, "textarea[id^=edit-question]", "患者[姓名1]，胸痛三天。")
    click(opened, ".decision-form [type=submit]")
    assert "Question: this text shows placeholders" in shown(opened, ".problem")
    assert opened.run("numDrafts()") == 0
    click(opened, ".consent input")
    fill(opened, "textarea[id^=edit-answer]", '-立即就诊\n"now", 120。')
    click(opened, ".decision-form [type=submit]")
    (decision,) = read_decisions(export(opened, tmp_path)).values()
    assert (decision.question, decision.reasoning) == ("患者[姓名1]，胸痛三天。", "")
    assert normalize_text(decision.answer) == '-立即就诊\n"now", 120。'  # a space in front, against spreadsheets, which normalising strips


def test_an_imported_file_is_kept_and_a_wrong_one_names_its_line(opened: Browser) -> None:
    header = ",".join(COLUMNS)
    file = f'{header}\n{WITNESS.content_hash},drop,"两行\n理由",RV,2026-01-31,,,\n{"0" * 16},keep,why,RV,2026-02-01,,,\n'
    assert opened.run(f"importCsv({json.dumps(file)})") == 2
    assert opened.run("decisionsCsv()") == "\n".join([header, f"{'0' * 16},keep,why,RV,2026-02-01,,,", *file.split("\n")[1:3], ""])
    goto(opened, "view=decisions")
    assert "not in this data" in shown(opened, ".decisions")
    for wrong, message in (
        ("a,b\n1,2\n", "This is no decisions.csv"),
        (f"{header}\nxyz,keep,,,,,,\n", "Row 2: the content hash"),
        (f"{header}\n{'0' * 16},hold,,,,,,\n", "Row 2: the decision"),
    ):
        assert message in opened.run(f"(() => {{ try {{ importCsv({json.dumps(wrong)}); }} catch (error) {{ return error.message; }} }})()")
    assert opened.run("allDecisions().length") == 2


def test_a_draft_outlives_the_page_and_can_be_withdrawn(opened: Browser, page_file: Path) -> None:
    opened.run(f"decide({json.dumps(WITNESS.content_hash)}, 'drop', 'why', 'RV')")
    opened.open(page_file, f"#record={WITNESS.id}")
    assert "Decided: drop" in shown(opened, ".decision")
    click(opened, ".decision .quiet")
    assert opened.run("allDecisions().length") == 0


def test_a_search_finds_ids_hashes_rules_and_texts_in_both_languages(opened: Browser) -> None:
    for query, expected in (
        (WITNESS.id[:9], {WITNESS.id}),
        ("near_dup", {COPY.id}),
        ("氨氯地平 50", {FIFTY.id}),
        ("FULL WIDTH", {CHANGED.id}),
    ):
        found = opened.run(f"search({{ q: {json.dumps(query)} }}).map((i) => data.core.records.id[i])")
        assert set(found) == expected, query
    assert opened.run("search({ fate: 'refused' }).length") == 3


def test_the_marks_of_a_difference_give_both_texts_again(opened: Browser) -> None:
    rng, alphabet = random.Random(7), "胸痛三天五 mg0.5１50\n，ab"
    pairs = [["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(2)] for _ in range(60)]
    pairs += [[one, one[:20] + "错" + one[25:]] for one, _ in pairs[:20]] + [["甲" * 3000, "乙" * 3000], ["", "x"], ["x", ""], ["", ""]]
    for (one, two), runs in zip(pairs, opened.run(f"{json.dumps(pairs)}.map(([a, b]) => diff(a, b))"), strict=True):
        assert "".join(part for sign, part in runs if sign != "+") == one
        assert "".join(part for sign, part in runs if sign != "-") == two
    assert opened.run("diff('氨氯地平 0.5 mg', '氨氯地平 0.05 mg')") == [["=", "氨氯地平 "], ["-", "0.5"], ["+", "0.05"], ["=", " mg"]]


def test_the_interval_is_wilsons(opened: Browser) -> None:
    for hits, total in ((0, 1), (20, 20), (13, 20), (3, 7)):
        assert opened.run(f"wilson({hits}, {total})") == pytest.approx(list(wilson(hits, total)), abs=1e-6)


def test_the_keys_move_open_and_go_back(opened: Browser) -> None:
    goto(opened, "view=records")
    for key in ("j", "j", "k"):
        opened.key(key)
    opened.key("Enter")
    opened.wait("route.record !== undefined")
    assert opened.run("data.byId.get(route.record)") == 1
    opened.key("j")
    opened.wait("data.byId.get(route.record) === 2")
    opened.key("Escape")
    opened.wait("route.record === undefined")
    opened.key("/")
    assert opened.run("document.activeElement.id") == "search"
    opened.key("Escape")
    opened.key("?")
    assert opened.run("document.getElementById('dialog').open")
