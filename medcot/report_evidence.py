"""The figures of the report: all differences, perplexity by segment, generation health, and the training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medcot.endpoints import POOLED_FORGETTING, ROLES
from medcot.health import HEADLINE
from medcot.health import MEASURES as MEASURE_NAMES
from medcot.health import RATES as RATE_NAMES
from medcot.markup import Child, Html, join, tag
from medcot.report_charts import Scale, axis, curve, dumbbell, interval_mark, scale_of
from medcot.report_data import Report
from medcot.report_front import direction
from medcot.report_tables import table
from medcot.report_texts import FAULTS, MEASURES, RATES, say, word
from medcot.training_health_texts import SEVERITIES, VERDICTS
from medcot.verdict_texts import Language, endpoint_name, points, signed

Row = Mapping[str, Any]
SETS = ("heldout", "train", "general")
MAX_EXPONENT = 11.0  # exp of more is no perplexity that anyone reads


def differences(report: Report, language: Language) -> Html:
    """The forest plot, which is a table whose rows are drawn on one scale."""
    record = report.record
    rows = record["comparisons"]
    if not rows:
        return _note("no_differences", language)
    declared = record["declaration"]
    scale, ticks = scale_of(_bounds(rows, declared))
    columns = [
        (say("measure", language), "name"),
        (say("base", language), "num"),
        (say("tuned", language), "num"),
        (say("scale", language), "plot"),
        (say("difference", language), "num wide"),
        (say("mde", language), "num"),
    ]
    groups = [
        (say(f"role_{role}", language), [_difference(row, scale, declared, language) for row in rows if row["role"] == role])
        for role in ROLES
    ]
    level = f"{100 * declared['confidence']:g}"
    note = tag("p", say("all_note", language, level=level), class_="note")
    return join([note, table(columns, groups, "forest", ("", "", "", axis(scale, ticks, say("scale", language), "+"), "", ""))])


def _bounds(rows: Sequence[Row], declared: Row) -> list[float]:
    """What the scale must hold, in points: the intervals that may decide or veto, and the margins; small benchmarks may go beyond it."""
    weighty = [row for row in rows if row["role"] not in ("benchmark", "contaminated")] or rows
    limits = [-100 * declared[key] for key in ("margin", "forgetting_floor", "safety_margin")]
    return [100 * declared["margin"], *limits, *(100 * row[key] for row in weighty for key in ("ci_low", "ci_high"))]


def _difference(row: Row, scale: Scale, declared: Row, language: Language) -> list[Child]:
    colon = "：" if language == "zh" else ": "
    name = endpoint_name(row["endpoint"], language) + (f"{colon}{row['benchmark']}" if row["benchmark"] else "")
    stop = "，" if language == "zh" else ", "
    beneath = say("questions", language, n=row["n"]) + stop + say("won_lost", language, won=row["num_better"], lost=row["num_worse"])
    told = stop.join(word(FAULTS, fault, language) for fault in row["faults"].split(","))
    faults = row["faults"] and tag("small", say("faulty", language, faults=told), class_="faulty")
    values = tuple(100 * row[key] for key in ("difference", "ci_low", "ci_high"))
    margin, floor = _limits(row, declared)
    kind = f"{direction(row)}{' hollow' if row['faults'] else ''}{' main' if row['role'] == 'primary' else ''}"
    plot = interval_mark(
        values, scale, margin=100 * margin, floor=100 * floor, kind=kind, label=f"{name}{colon}{signed(row['difference'])}"
    )
    return [
        [name, tag("small", beneath), faults],
        points(row["base"]),
        points(row["tuned"]),
        plot,
        [tag("b", signed(row["difference"])), tag("small", span(signed(row["ci_low"]), signed(row["ci_high"]), language))],
        points(row["mde"]),
    ]


def _limits(row: Row, declared: Row) -> tuple[float, float]:
    """The margin around 0 and the most that may be lost, of this comparison; 0 = none was declared."""
    if row["role"] == "primary":
        return declared["margin"], 0.0
    if row["role"] == "safety":
        return 0.0, declared["safety_margin"]
    if row["role"] == "forgetting":
        return 0.0, declared["forgetting_margin" if row["endpoint"] == POOLED_FORGETTING else "forgetting_floor"]
    return 0.0, 0.0


def span(low: str, high: str, language: Language) -> str:
    """An interval without its confidence."""
    return f"{low} 至 {high}" if language == "zh" else f"{low} to {high}"


def likelihood(report: Report, language: Language) -> Html:
    """Perplexity of both arms by set and segment, over-fitting, and divergence from the base."""
    rows = report.record["observations"]
    found = {row["name"]: row for row in rows if row["kind"] == "likelihood"}
    if not found:
        return _note("no_likelihood", language)
    columns = [
        ("", "name"),
        (say("base", language), "num"),
        (say("tuned", language), "num"),
        (say("change", language), "num wide"),
        ("n", "num"),
    ]
    groups = [
        (say(f"set_{name}", language), [_segment(key, row, language) for key, row in found.items() if key.startswith(f"{name}.")])
        for name in SETS
    ]
    others = [row for row in rows if row["kind"] in ("overfitting", "divergence")]
    beside = [tag("div", tag("dt", say(row["name"], language)), tag("dd", _alone(row, language))) for row in others]
    return join(
        [tag("p", say("likelihood_note", language), class_="note"), table(columns, groups), beside and tag("dl", beside, class_="beside")]
    )


def _segment(name: str, row: Row, language: Language) -> list[Child]:
    change = tag("b", percent(row["difference"]))
    within = row["ci_low"] is not None and tag("small", span(percent(row["ci_low"]), percent(row["ci_high"]), language))
    segment = say(f"segment_{name.partition('.')[2]}", language)
    return [segment, perplexity(row["base"]), perplexity(row["tuned"]), [change, within], f"{row['n']}"]


def perplexity(nll: float) -> str:
    """The perplexity of a mean NLL in nats: three digits or so, and how many nats where nobody could read it."""
    if nll > MAX_EXPONENT:
        return f"e^{nll:.1f}"
    value = math.exp(nll)
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def percent(change: float) -> str:
    """The change of a perplexity whose NLL changed by so many nats, such as `−4.1 %`."""
    if change > MAX_EXPONENT:
        return f"×e^{change:.1f}"
    return f"{signed(math.expm1(change))} %"


def _alone(row: Row, language: Language) -> Html:
    share = row["unit"] == "share"

    def shown(value: float) -> str:
        return points(value) if share else f"{value + 0.0:.3f}".replace("-0.000", "0.000").replace("-", "−")

    within = row["ci_low"] is not None and tag("small", span(shown(row["ci_low"]), shown(row["ci_high"]), language))
    return join([tag("b", shown(row["difference"])), " ", within])


def health(report: Report, language: Language) -> Html:
    """Rates of bad replies, the few that matter first; then what only describes."""
    found = {row["name"]: row for row in report.record["observations"] if row["kind"] == "health"}
    if not found:
        return _note("no_health", language)
    n = max(row["n"] for row in found.values())
    note = tag("p", say("health_note", language), " ", say("questions", language, n=n), "。" if language == "zh" else ".", class_="note")
    rates = [name for name in RATE_NAMES if name in found]
    scale, ticks = scale_of([100 * found[name][arm] for name in rates for arm in ("base", "tuned")] + [5.0])
    further = [name for name in rates if name not in HEADLINE]
    measures = [found[name] for name in MEASURE_NAMES if name in found]
    return join(
        [
            note,
            _rates([found[name] for name in HEADLINE if name in found], scale, ticks, language),
            further and _folded("further_rates", _rates([found[name] for name in further], scale, ticks, language), language),
            measures and _folded("measures", _measures(measures, language), language),
        ]
    )


def _rates(rows: Sequence[Row], scale: Scale, ticks: Sequence[float], language: Language) -> Html:
    columns = [
        (say("measure", language), "name"),
        (say("base", language), "num"),
        (say("tuned", language), "num"),
        ("%", "plot"),
        (say("difference", language), "num wide"),
    ]
    lines = [_rate(row, scale, language) for row in rows]
    return table(columns, [("", lines)], "rates", ("", "", "", axis(scale, ticks, "%"), ""))


def _rate(row: Row, scale: Scale, language: Language) -> list[Child]:
    name = word(RATES, row["name"], language)
    plot = dumbbell(100 * row["base"], 100 * row["tuned"], scale, f"{name}: {points(row['base'])} → {points(row['tuned'])}")
    within = row["ci_low"] is not None and tag("small", span(signed(row["ci_low"]), signed(row["ci_high"]), language))
    return [name, points(row["base"]), points(row["tuned"]), plot, [tag("b", signed(row["difference"])), within]]


def _measures(rows: Iterable[Row], language: Language) -> Html:
    columns = [
        (say("measure", language), "name"),
        *((say(arm, language), "num") for arm in ("base", "tuned")),
        (say("difference", language), "num wide"),
    ]
    lines = []
    for row in rows:
        figures = [f"{row[key] + 0.0:.3f}" for key in ("base", "tuned")]
        difference = f"{row['difference']:+.3f}".replace("-0.000", "0.000").replace("+0.000", "0.000").replace("-", "−")
        lines.append([word(MEASURES, row["name"], language), *figures, difference])
    return table(columns, [("", lines)])


def _folded(name: str, content: Html, language: Language) -> Html:
    return tag("details", tag("summary", say(name, language)), content)


def training(report: Report, language: Language) -> Html:
    """The health verdict of the run with its findings, and its curves."""
    run = report.record["training"]
    if run is None and not report.curves:
        return _note("no_training", language)
    parts: list[Child] = []
    if run is not None:
        verdict = str(run["verdict"])
        state = {"HEALTHY": "shown", "WARN": "unproven"}.get(verdict, "harm")
        parts.append(tag("p", tag("span", verdict, class_=f"state {state}"), " ", getattr(VERDICTS[verdict], language), class_="judged"))
        found = [
            tag("li", tag("b", word(SEVERITIES, finding["severity"], language)), " ", finding[f"text_{language}"])
            for finding in run["findings"]
        ]
        parts.append(found and tag("ul", found, class_="findings"))
    parts.append(tag("div", list(_curves(report, language)), class_="curves"))
    return join(parts)


def _curves(report: Report, language: Language) -> Iterable[Html]:
    losses = [(kind, report.curves[name]) for kind, name in (("line", "loss"), ("line second", "eval_loss")) if name in report.curves]
    if losses:
        names = [tag("span", say(f"curve_{name}", language), class_=name) for name in ("train", "eval")[: len(losses)]]
        yield _figure("curve_loss", losses, language, tag("p", names, class_="legend"))
    for name in ("learning_rate", "grad_norm"):
        if name in report.curves:
            yield _figure(f"curve_{name}", [("line", report.curves[name])], language)


def _figure(name: str, lines: Sequence[tuple[str, Sequence[tuple[int, float]]]], language: Language, legend: Html | None = None) -> Html:
    title = say(name, language)
    return tag("figure", tag("figcaption", title, legend), curve(lines, say("step", language), title), class_=name)


def _note(name: str, language: Language) -> Html:
    return tag("p", say(name, language), class_="empty")
