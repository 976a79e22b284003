"""The first screen of the report, which is also its first printed page: the verdict, what it rests on, what was lost, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcot.markup import Html, tag
from medcot.report_charts import axis, interval_mark, scale_of
from medcot.report_data import Report
from medcot.report_texts import say
from medcot.verdict_page import ON_VAL, WARNING, guessing_note, num_looks
from medcot.verdict_texts import IN_CHINESE, Language, endpoint_name, gate_text, interval_text, next_step, points, sentence, signed

Row = Mapping[str, Any]
HUES = {
    "BETTER": "good",
    "TRADE-OFF": "mixed",
    "BETTER-FORGETTING-UNPROVEN": "mixed",
    "WORSE": "bad",
    "INVALID": "bad",
}
"""The colour of a verdict; the others claim nothing and have none."""
LONG = 14
"""Letters above which the verdict's name is set smaller."""


def front(report: Report, language: Language) -> Html:
    """The verdict on one page."""
    record = report.record
    hue = HUES.get(record["verdict"], "calm")
    note = guessing_note(record, language)
    chinese = language == "zh" and tag("span", IN_CHINESE[record["verdict"]])
    answer = tag(
        "div",
        tag("p", say("question", language), class_="question"),
        tag("h1", record["verdict"], chinese, class_="verdict long" if len(record["verdict"]) > LONG else "verdict"),
        tag("p", sentence(record, language), class_="answer"),
        note and tag("p", note, class_="note"),
        class_="said",
    )
    return tag(
        "div",
        tag("div", answer, _primary(record, language), class_="hero"),
        tag("div", _lost(record, language), _rests(record, language), class_="under"),
        tag("p", tag("b", say("next", language)), code(next_step(record, language)), class_="next"),
        class_=f"front {hue} {record['verdict'].lower()}",
        id=f"{language}-verdict",
    )


def _primary(record: Row, language: Language) -> Html:
    """The primary endpoint in figures."""
    row = record["primary"]
    name = [
        tag("p", say("endpoint", language), class_="question"),
        tag("p", endpoint_name(record["declaration"]["primary"], language), class_="endpoint"),
    ]
    if row is None:
        text = "not_subtracted" if any(reason["code"] == "arms_differ" for reason in record["reasons"]) else "no_primary"
        return tag("div", name, tag("p", say(text, language), class_="note"), class_="primary")
    shares = {"base": points(row["base"]), "tuned": points(row["tuned"]), "difference": signed(row["difference"])}
    figures = [tag("div", tag("dt", say(what, language)), tag("dd", shown), class_=what) for what, shown in shares.items()]
    asked = "questions" if row["num_clusters"] >= row["n"] else "of_cases"
    told = [
        say("scale", language),
        interval_text(row, language),
        say(asked, language, n=row["n"], cases=row["num_clusters"]),
        say("could_see", language, mde=points(row["mde"])),
    ]
    beneath = tag("p", [tag("span", one) for one in told], class_="note told")
    return tag("div", name, tag("dl", figures, class_="figures"), _plot(row, record, language), beneath, class_="primary")


def _plot(row: Row, record: Row, language: Language) -> Html:
    margin = 100 * record["declaration"]["margin"]
    values = (100 * row["difference"], 100 * row["ci_low"], 100 * row["ci_high"])
    scale, ticks = scale_of([*values, margin, -margin], 5)
    label = f"{signed(row['difference'])}, {interval_text(row, language)}"
    strip = interval_mark(values, scale, margin=margin, label=label, kind=direction(row))
    return tag("div", strip, axis(scale, ticks, say("scale", language), "+"))


def direction(row: Row) -> str:
    """Where an interval lies: good above 0, bad below, calm across."""
    return "good" if row["ci_low"] > 0 else "bad" if row["ci_high"] < 0 else "calm"


def _lost(record: Row, language: Language) -> Html:
    """What is known of a loss, gate by gate; where arms were not subtracted nothing is."""
    lines = []
    for gate in record["gates"]:
        name, _, rest = gate_text(gate, language).partition("：" if language == "zh" else ": ")
        state = tag("span", say(f"state_{gate['state']}", language), class_=f"state {gate['state']}")
        more = gate["state"] != "not_measured" and tag("p", rest)
        lines.append(tag("li", tag("div", tag("b", name), state), more))
    none = not lines and tag("p", say("not_subtracted", language), class_="note")
    return tag("div", tag("h2", say("lost", language)), none, lines and tag("ul", lines, class_="gates"), class_="lost")


def _rests(record: Row, language: Language) -> Html:
    """What was declared, whether it may be read, and how often the test was looked at."""
    declared = record["declaration"]
    limits = {"forgetting": "forgetting_margin", "floor": "forgetting_floor", "safety": "safety_margin", "margin": "margin"}
    values = {name: points(declared[key]) for name, key in limits.items()}
    text = say(
        "declaration",
        language,
        **values,
        tier=declared["tier"],
        min_items=declared["min_items"],
        confidence=f"{100 * declared['confidence']:g}",
    )
    named = [tag("code", reason["name"]) for reason in record["reasons"]]
    facts = [
        ("declared", [text, " ", tag("code", record["declaration_hash"])]),
        ("valid", [[name, " "] for name in named] or say("no_reason", language)),
        ("looks", _looks(record, language)),
    ]
    rows = [tag("div", tag("dt", say(name, language)), tag("dd", value)) for name, value in facts]
    return tag("div", tag("h2", say("rests", language)), tag("dl", rows, class_="facts"), class_="rests")


def _looks(record: Row, language: Language) -> Html:
    if record["split"] != "test":
        return code(getattr(ON_VAL, language))
    warning = record["num_looks"] > 1 and tag("strong", getattr(WARNING, language).replace("**", ""), class_="warning")
    return Html(tag("span", num_looks(record, language)) + " " + (warning or ""))


def code(text: str) -> Html:
    """A text in which what stands between backticks is code."""
    parts = text.split("`")
    return Html("".join(tag("code", part) if i % 2 else tag("span", part) for i, part in enumerate(parts) if part))
