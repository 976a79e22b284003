"""The report: its figures are the record's, no text becomes markup, nothing personal is in it; both languages, and whatever is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import yaml
from browser import Browser, find_browser
from report_factory import MODEL, QUESTIONS, STAGES, make_inputs, replies, said, training_log
from test_verdict_stage import BETTER, write_arms
from verdict_factory import GAIN, KEPT, Counts

from medcot import health, report_texts, validity
from medcot.arm import POOLED, SETS
from medcot.endpoints import ROLES
from medcot.errors import DataError
from medcot.llamafactory import write_rows
from medcot.markup import Html, join, tag
from medcot.report import SECTIONS, render
from medcot.report_charts import Scale, curve, interval_mark, nice_step, scale_of
from medcot.report_data import CURVES, MOST_CHARACTERS, MOST_POINTS, Inputs, curves, gather, shorten, summarise, thin
from medcot.report_evidence import percent, perplexity
from medcot.report_texts import rule_name
from medcot.sentences import Sentence
from medcot.stage import run_stage
from medcot.tasks import Reply, Status, reply_frame
from medcot.training_health_texts import VERDICTS
from medcot.training_log import Line, Log
from medcot.verdict import State
from medcot.verdict_params import VerdictParams
from stages import report as stage
from stages import verdict as verdict_stage

FULL: dict[str, Counts] = {"choice": GAIN, "open": (60, 5, 15, 20), **KEPT}
WORSE: Counts = (600, 100, 40, 260)
KINDS: dict[str, tuple[dict[str, Counts], dict[str, Any]]] = {
    "BETTER": (FULL, {}),
    "TRADE-OFF": ({**FULL, "instructions": (700, 200, 20, 80)}, {}),
    "BETTER-FORGETTING-UNPROVEN": ({"choice": GAIN}, {}),
    "EQUIVALENT": ({"choice": (1500, 20, 20, 1460), **KEPT}, {}),
    "WORSE": ({"choice": WORSE, **KEPT}, {}),
    "INCONCLUSIVE": ({"choice": (500, 60, 70, 370), **KEPT}, {}),
    "INVALID": ({"choice": (50, 3, 7, 40)}, {}),
    "NO-ENDPOINT": (KEPT, {}),
}
TRAP = "</script></div><img src=x onerror=\"document.title='owned'\"> 头痛 & what next? `${1}` \x07"
SECRETS = ("11010519491231002X", "13800138000", "li.na@example.com")
PERSONAL = "患者身份证号11010519491231002X，电话13800138000，邮箱 li.na@example.com。 Call him."
CODES = {"en": "en", "zh": "zh-CN"}


class Page(HTMLParser):
    """The text of each article, the elements, and whether every one of them is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.shapes: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.article = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if name == "meta":
            return
        self.open.append(name)
        if name == "article":
            self.article = str(dict(attributes)["lang"])
        self.shapes.setdefault(self.article, []).append(f"{name}.{dict(attributes).get('class')}")

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.shapes.setdefault(self.article, []).append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.setdefault(self.article, []).append(data)

    def text(self, language: str) -> str:
        return " ".join(" ".join(self.texts[CODES[language]]).split())


def html_of(inputs: Inputs, num_replies: int = 6, num_items: int = 12) -> str:
    return render(gather(inputs, num_replies, num_items, 42))


def answered(inputs: Inputs, base: Sequence[Reply] | None = None, tuned: Sequence[Reply] | None = None) -> Inputs:
    """The same verdict with other replies."""
    told = {arm: replies for arm, replies in (("base", base), ("tuned", tuned)) if replies is not None}
    return replace(inputs, **{arm: replace(getattr(inputs, arm), replies=reply_frame(each)) for arm, each in told.items()})


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return make_inputs(FULL, log=training_log())


@pytest.fixture(scope="module")
def html(inputs: Inputs) -> str:
    return html_of(inputs)


# --- markup ---


def test_whatever_is_no_markup_is_escaped_in_text_and_in_attributes() -> None:
    made = tag("p", "a < b & 中文", tag("b", 1.5), [None, False, ["x"]], title='"><i>', data_x=True, hidden=False)
    assert made == '<p title="&quot;&gt;&lt;i&gt;" data-x>a &lt; b &amp; 中文<b>1.5</b>x</p>'
    assert join(["<i>", Html("<i></i>")]) == "&lt;i&gt;<i></i>"
    assert tag("p", "\ud83d\x07") == "<p>?\ufffd</p>"
    assert tag("p", str(Html("<b></b>") + "x")) == "<p>&lt;b&gt;&lt;/b&gt;x</p>"  # markup that was handled as text is text again


# --- what it says ---


def test_the_figures_are_those_of_the_record(inputs: Inputs, html: str) -> None:
    primary, page = inputs.record["primary"], Page(html)
    for language in ("en", "zh"):
        text = page.text(language)
        assert f"{100 * primary['base']:.1f}" in text
        assert f"+{100 * primary['difference']:.1f}" in text
        assert f"+{100 * primary['ci_low']:.1f} {'to' if language == 'en' else '至'} +{100 * primary['ci_high']:.1f}" in text
        assert f"{100 * primary['mde']:.1f}" in text
        assert inputs.record["declaration_hash"] in text
        for row in inputs.record["comparisons"]:
            assert f"{100 * row['tuned']:.1f}" in text
    assert "1000 questions" in page.text("en")
    assert "1000 道题" in page.text("zh")


@pytest.mark.parametrize("verdict", KINDS)
def test_every_verdict_has_a_page_in_both_languages(verdict: str) -> None:
    endpoints, params = KINDS[verdict]
    made = make_inputs(endpoints, VerdictParams(**params))
    assert made.record["verdict"] == verdict
    page = Page(html_of(made))
    assert not page.open
    chinese = page.shapes["zh-CN"]
    at = next(i for i, shape in enumerate(chinese) if shape.startswith("h1.verdict")) + 1
    assert chinese[at] == "span.None"  # the Chinese word beneath the verdict's name
    assert chinese[:at] + chinese[at + 1 :] == page.shapes["en"]
    for language, sentence in (("en", "What to do next"), ("zh", "下一步")):
        assert verdict in page.text(language)
        assert sentence in page.text(language)
        for reason in made.record["reasons"]:
            assert reason["name"] in page.text(language)


def test_a_loss_is_named_and_safety_is_marked_as_screened_by_rules_alone() -> None:
    page = Page(html_of(make_inputs(*KINDS["TRADE-OFF"][:1])))
    assert "a loss was shown: instructions that a rule verifies" in page.text("en")
    assert "已证明有损失：可由规则核验的指令" in page.text("zh")
    assert "rule-based screening, not reviewed by a physician" in page.text("en")
    assert "规则筛查，未经医师审核" in page.text("zh")


def test_arms_that_differ_are_shown_without_any_difference() -> None:
    page = Page(html_of(make_inputs(FULL, base_changes={"precision": "bf16"})))
    assert "arms_differ:precision" in page.text("en")
    assert "nothing was subtracted" in page.text("en")
    assert "因此没有相减" in page.text("zh")
    assert "No item was compared." in page.text("en")
    assert "Replies side by side" in page.text("en")


def test_looks_at_test_are_counted_and_warned_of(inputs: Inputs) -> None:
    twice = replace(inputs, record={**inputs.record, "split": "test", "num_looks": 2})
    page = Page(html_of(twice))
    assert "2 fine-tunes have been measured on this test set. Warning: each look" in page.text("en")
    assert "警告" in page.text("zh")
    assert "Warning" not in Page(html_of(replace(inputs, record={**inputs.record, "split": "test", "num_looks": 1}))).text("en")


def test_what_was_not_measured_is_said(inputs: Inputs) -> None:
    bare = make_inputs({"choice": GAIN}, base_replies=[], tuned_replies=[])
    page = Page(html_of(bare))
    for words in ("There is no training log: the adapter was imported", "No reply to a held-out question was generated", "not measured"):
        assert words in page.text("en")
    for words in ("没有训练日志：适配器是导入的", "没有生成对留出问题的回答", "未测量"):
        assert words in page.text("zh")
    assert Page(html_of(replace(inputs, record={**inputs.record, "observations": []}))).text("en").count("No likelihood was compared.") == 1


def test_a_healthy_training_is_told_in_one_sentence_and_another_with_its_findings(inputs: Inputs) -> None:
    def page(verdict: str, *findings: dict[str, str]) -> Page:
        training = {"verdict": verdict, "findings": list(findings)}
        return Page(html_of(replace(inputs, record={**inputs.record, "training": training})))

    healthy, found = page("HEALTHY"), page("WARN", {"severity": "warn", "text_en": "step 7: a spike", "text_zh": "第 7 步：尖峰"})
    assert f"HEALTHY {VERDICTS['HEALTHY'].en} Loss, nats per supervised token" in healthy.text("en")
    assert f"HEALTHY {VERDICTS['HEALTHY'].zh} 损失（奈特/受监督词元）" in healthy.text("zh")
    assert f"WARN {VERDICTS['WARN'].en} WARN step 7: a spike" in found.text("en")
    assert f"WARN {VERDICTS['WARN'].zh} 警告 第 7 步：尖峰" in found.text("zh")


def test_the_base_model_is_named_with_its_licence(inputs: Inputs, html: str) -> None:
    assert "Qwen/Qwen3-1.7B at 70d244cc (huggingface)" in Page(html).text("en")
    assert "apache-2.0" in Page(html).text("zh")
    local = {"num_parameters": 7, "fingerprint": "f"}
    assert "not stated: look it up before any use" in Page(html_of(replace(inputs, model=local))).text("en")
    assert "演示模型" in Page(html_of(replace(inputs, model={**local, "train_nll": 2.0}))).text("zh")


def test_rows_are_counted_from_stage_to_stage_with_the_rules_that_took_them(html: str) -> None:
    text = Page(html).text("en")
    assert "Normalise 716 Control token in the text 13, Not valid JSON 4 699".lower() in text.lower()
    assert "convert and split 8 made 672 nothing 680" in text
    assert "Of these: 536 train, 73 val, 71 test." in text
    assert rule_name("near_duplicate", "zh") in Page(html).text("zh")
    assert rule_name("of_tomorrow", "zh") == "of_tomorrow"


# --- what must not be in it ---


def test_a_reply_cannot_become_markup_or_code(inputs: Inputs) -> None:
    planted = [said(item, TRAP, reasoning=TRAP) for item in QUESTIONS]
    html = html_of(replace(answered(inputs, tuned=planted), questions=dict.fromkeys(QUESTIONS, TRAP)))
    page = Page(html)
    assert not page.open
    assert "<img" not in html
    assert html.count("</script>") == 1
    assert page.text("zh").count("onerror=") == 18  # six questions, each with a thought and an answer
    assert "头痛 & what next? `${1}` \ufffd" in page.text("en")


def test_personal_data_is_masked(inputs: Inputs) -> None:
    planted = [said(item, PERSONAL, reasoning=PERSONAL) for item in QUESTIONS]
    html = html_of(replace(answered(inputs, base=planted), questions=dict.fromkeys(QUESTIONS, PERSONAL)))
    assert [secret for secret in SECRETS if secret in html] == []
    assert "[手机号1]" in html


def test_the_page_fetches_nothing_and_allows_no_other_script(html: str) -> None:
    assert (
        re.findall(r"https?:|<(?:link|img|iframe|object)|\bsrc=|url\(|@import|\bfetch\(|innerHTML|\beval\(|\bstyle=|\bon\w+=", html) == []
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert "default-src 'none'" in policy[1].replace("&#x27;", "'")
    assert "unsafe" not in policy[1]
    assert policy[1].count("sha256-") == 2


def test_equal_inputs_give_equal_bytes_in_any_order_of_rows(inputs: Inputs, html: str) -> None:
    assert html_of(make_inputs(FULL, log=training_log())) == html
    shuffled = [
        replace(arm, **{name: getattr(arm, name).sample(fraction=1.0, shuffle=True, seed=3) for name in ("replies", "scores", "health")})
        for arm in (inputs.base, inputs.tuned)
    ]
    items = inputs.items.sample(fraction=1.0, shuffle=True, seed=4)
    assert html_of(replace(inputs, base=shuffled[0], tuned=shuffled[1], items=items)) == html
    assert render(gather(inputs, 6, 12, 43)) != html


# --- what is chosen ---


def test_replies_and_items_are_capped_and_what_is_left_is_counted(inputs: Inputs) -> None:
    report = gather(inputs, 3, 12, 42)
    assert (len(report.pairs), report.num_questions) == (3, len(QUESTIONS))
    choice = next(one for one in report.changes if one.endpoint == "choice")
    assert (choice.num_items, choice.num_won, choice.num_lost) == (1000, 100, 40)
    assert [(change.base, change.tuned) for change in choice.shown] == [(0.0, 1.0)] * 6 + [(1.0, 0.0)] * 6
    assert {(change.read_base, change.read_tuned) for change in choice.shown} == {("unparseable", "A"), ("A", "unparseable")}
    assert "and 128 more in data/verdict/items.parquet" in Page(render(report)).text("en")
    figures = summarise(report)
    assert (figures["verdict"], figures["num_questions_shown"]) == ("BETTER", 3)
    assert figures["num_items_differ"] == sum(one.num_won + one.num_lost for one in report.changes)
    assert summarise(gather(inputs, 0, 0, 42))["num_items_shown"] == 0


def test_every_item_that_is_shown_stands_in_the_items_under_its_name(inputs: Inputs) -> None:
    names = {f"{row['benchmark']}:{row['item']}" for row in inputs.items.iter_rows(named=True)}
    shown = [change.name for one in gather(inputs, 0, 12, 42).changes for change in one.shown]
    assert shown
    assert set(shown) <= names


def test_where_few_were_lost_more_won_ones_are_shown() -> None:
    made = make_inputs({"choice": (600, 1, 100, 299)})
    (one,) = gather(made, 0, 12, 42).changes
    assert sum(change.tuned > change.base for change in one.shown) == 11


def test_a_reply_that_fails_is_marked_with_the_reason_and_one_that_is_missing_is_said(inputs: Inputs) -> None:
    cut = [said(item, "", text="<think>先看", think_state="unclosed", truncated=True) for item in list(QUESTIONS)[1:]]
    made = answered(inputs, tuned=cut)
    flags = made.tuned.health.with_columns(pl.lit(True).alias("failed"), pl.lit(True).alias("truncated"))
    marked = gather(replace(made, tuned=replace(made.tuned, health=flags)), 8, 0, 42)
    bare = gather(replace(made, tuned=replace(made.tuned, health=pl.DataFrame())), 8, 0, 42)
    assert {pair.tuned.faults for pair in bare.pairs if pair.tuned} == {("failed",)}
    assert {pair.tuned.faults for pair in marked.pairs if pair.tuned} >= {("truncated",)}
    assert sum(pair.tuned is None for pair in marked.pairs) == 1
    assert "This model has no reply." in Page(render(marked)).text("en")
    assert "被长度上限截断" in Page(render(marked)).text("zh")


def test_texts_are_masked_before_they_are_cut_and_say_how_much_is_gone() -> None:
    long = "字" * (MOST_CHARACTERS - 3) + "电话13800138000，" + "后" * 50
    assert "1380" not in shorten(long)
    assert re.search(r"… \[\+\d+\]$", shorten(long))
    assert shorten("  短 short ") == "短 short"


# --- curves and scales ---


def test_a_long_curve_keeps_its_ends_and_its_spike() -> None:
    points = [(step, 1.0 + 0.001 * (step % 7)) for step in range(10_000)]
    points[5_001] = (5_001, 99.0)
    thinned = thin(points)
    assert len(thinned) <= MOST_POINTS
    assert {points[0], points[-1], points[5_001]} <= set(thinned)
    assert thinned == sorted(thinned)
    assert thin(points[:10]) == points[:10]


def test_curves_leave_out_what_is_not_finite_and_take_the_later_line_of_a_step() -> None:
    log = Log((Line(1, 2.0), Line(2, float("nan")), Line(2, grad_norm=float("inf")), Line(3, 1.5), Line(3, 1.25)))
    assert curves(log) == {"loss": [(1, 2.0), (3, 1.25)]}
    assert curves(None) == {}
    assert set(curves(training_log())) == set(CURVES)


def test_a_curve_of_one_point_and_of_equal_values_can_be_drawn() -> None:
    for points in ([(5, 0.0)], [(1, 2.0), (2, 2.0)], [(1, 1e-5), (9, 1e7)]):
        drawn = curve([("line", points)], "第 {n} 步", "损失 loss")
        assert "nan" not in drawn
        assert drawn.count("<polyline") == 1
        assert f"第 {points[0][0]} 步" in drawn


@pytest.mark.parametrize("values", [[0.0], [-0.4, 0.3], [2.0, 8.6], [-97.0, -3.0], [100.0]])
def test_a_scale_holds_zero_and_every_value_at_round_ticks(values: list[float]) -> None:
    scale, ticks = scale_of(values)
    assert scale.low <= min(0.0, *values)
    assert scale.high >= max(0.0, *values)
    assert ticks[0] == pytest.approx(scale.low)
    assert ticks[-1] == pytest.approx(scale.high)
    assert 2 <= len(ticks) <= 9
    assert 0.0 in ticks


def test_steps_are_round_and_an_interval_beyond_the_scale_ends_in_an_arrow() -> None:
    assert [nice_step(value) for value in (0.7, 1.0, 1.2, 2.2, 3.0, 30.0)] == [1, 1, 2, 2.5, 5, 50]
    scale = Scale(-10, 10)
    assert (scale.at(-10), scale.at(0), scale.at(10), scale.at(99)) == ("3.00%", "50.00%", "97.00%", "97.00%")
    assert interval_mark((0, -5, 5), scale).count("arrow") == 0
    assert interval_mark((0, -50, 50), scale).count("arrow") == 2


def test_perplexities_are_readable_and_their_change_is_in_percent() -> None:
    assert [perplexity(nll) for nll in (1.0, 5.0, 300.0)] == ["2.72", "148", "e^300.0"]
    assert [percent(change) for change in (-0.05, 0.0, 0.1, 400.0)] == ["−4.9 %", "0.0 %", "+10.5 %", "×e^400.0"]


# --- words ---


TABLES = [
    value for value in vars(report_texts).values() if isinstance(value, dict) and value and isinstance(next(iter(value.values())), Sentence)
]


def test_both_languages_have_every_word_and_fill_the_same_places() -> None:
    assert len(TABLES) >= 6
    for name, sentence in ((name, sentence) for table in TABLES for name, sentence in table.items()):
        assert all(sentence), name
        assert sorted(re.findall(r"\{\w+\}", sentence.en)) == sorted(re.findall(r"\{\w+\}", sentence.zh)), name
        assert not re.search(r"[一-鿿][,;:?!][一-鿿]", sentence.zh), name


def test_every_rate_measure_status_stage_and_section_has_words() -> None:
    assert set(report_texts.RATES) == set(health.RATES)
    assert set(report_texts.MEASURES) == set(health.MEASURES)
    assert set(report_texts.STATUSES) == set(get_args(Status)) - {"ok"}
    assert set(report_texts.STAGES) == set(STAGES)
    about_all = {"arms_differ", "too_few_items", "too_few_clusters"}  # never said of a single comparison
    assert set(report_texts.FAULTS) == set(validity.CODES) - about_all
    needed = [f"role_{name}" for name in ROLES] + [f"set_{name}" for name in SETS] + [f"segment_{name}" for name in POOLED]
    needed += [f"state_{name}" for name in get_args(State)]
    assert sorted(set(needed) - set(report_texts.TEXTS)) == []
    assert set(report_texts.LINKS) == {name for name, _ in SECTIONS} <= set(report_texts.TEXTS)


# --- the stage ---


def write_project(split: str = "val") -> None:
    """What the earlier stages would have written, in the working directory."""
    write_arms(split=split)
    assert run_stage("verdict", verdict_stage.main) == 0
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    model = {"template": "qwen3", "system": "", "cutoff_len": 1024, "quantization": "none"}
    Path("params.yaml").write_text(yaml.safe_dump({**params, "model": model, "report": {"num_items": 5}}), encoding="utf-8")
    Path("data/llamafactory").mkdir()
    row = {"id": "题0", "instruction": "胸痛怎么办？ What now?", "input": "", "output": "<think>\n先查。\n</think>\n\n心电图。"}
    write_rows(Path(f"data/llamafactory/{split}.json"), [row])
    for name, values in {**STAGES, "base": MODEL}.items():
        Path(f"metrics/{name}.json").write_text(json.dumps(values), encoding="utf-8")


def test_the_stage_writes_the_page_and_the_same_bytes_twice(in_tmp: Path) -> None:
    write_project()
    assert run_stage("report", stage.main) == 0
    first = stage.PAGE.read_bytes()
    found = json.loads(stage.METRICS.read_text(encoding="utf-8"))
    assert (found["verdict"], found["num_characters"]) == ("BETTER", len(first.decode("utf-8")))
    assert found["num_items_shown"] == sum(min(5, counts[1] + counts[2]) for counts in BETTER.values())
    assert run_stage("report", stage.main) == 0
    assert stage.PAGE.read_bytes() == first


@pytest.mark.parametrize("name", ["data/verdict/verdict.json", "metrics/dedup.json", "metrics/base.json"])
def test_a_missing_or_damaged_file_is_named_with_what_to_run(in_tmp: Path, name: str) -> None:
    write_project()
    Path(name).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}: the file is damaged, .*; run `dvc repro -f \w+`"):
        stage.main()
    Path(name).unlink()
    with pytest.raises(DataError, match=f"{name}: the file is missing; run `dvc repro`"):
        stage.main()
    assert not stage.PAGE.exists()


# --- in a browser ---


@pytest.fixture(scope="module")
def page_file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html, encoding="utf-8", newline="\n")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("no Chromium on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


SHOWN = "[...document.querySelectorAll('article')].filter((one) => one.offsetHeight).map((one) => one.lang).join()"


def test_the_language_is_that_of_the_address_and_the_switch_changes_it(browser: Browser, page_file: Path) -> None:
    browser.errors.clear()
    for asked, code in CODES.items():
        browser.open(page_file, f"?lang={asked}")
        assert browser.run(SHOWN) == browser.run("document.documentElement.lang") == code
    assert browser.run("document.title") == "medcot · 报告: BETTER"
    browser.run("document.querySelector('article[lang=zh-CN] .switch').click()")
    assert browser.run(SHOWN) == "en"
    assert browser.run("document.activeElement.textContent") == "中文"
    browser.open(page_file)
    assert browser.run(SHOWN) == "en"  # remembered
    assert browser.errors == []
    assert {url.split("?")[0] for url in browser.requests} <= {"about:blank", f"file://{page_file}"}


def test_names_of_items_are_shown_as_they_are_and_groups_take_the_whole_width_of_a_phone(browser: Browser, page_file: Path) -> None:
    browser.resize(390, 900)
    browser.open(page_file, "?lang=en")
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run("document.querySelector('.items tbody .name').innerText").startswith("exam:题")
    assert browser.run("document.querySelector('.group th').offsetWidth") > 300


@pytest.mark.parametrize("width", [390, 760, 1440])
def test_nothing_sticks_out_at_any_width(browser: Browser, page_file: Path, width: int) -> None:
    browser.resize(width, 900)
    for language in CODES:
        browser.open(page_file, f"?lang={language}")
        browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert browser.run("document.documentElement.scrollWidth") <= width


def test_planted_code_does_not_run(browser: Browser, inputs: Inputs, tmp_path: Path) -> None:
    planted = [said(item, TRAP + "<script>document.title = 'owned'</script>") for item in QUESTIONS]
    path = tmp_path / "trap.html"
    path.write_text(html_of(answered(inputs, replies(TRAP), planted)), encoding="utf-8")
    browser.open(path, "?lang=en")
    assert browser.run("document.title") == "medcot · Report: BETTER"


def test_the_first_printed_page_holds_the_verdict(browser: Browser, page_file: Path) -> None:
    browser.open(page_file, "?lang=zh")
    browser.resize(680, 1000)  # A4 within its margins, in CSS pixels
    browser.call("Emulation.setEmulatedMedia", media="print")
    for language in CODES:
        browser.open(page_file, f"?lang={language}")
        bottom = browser.run(f"document.getElementById('{language}-verdict').getBoundingClientRect().bottom")
        assert bottom < 1000
    browser.call("Emulation.setEmulatedMedia", media="")
