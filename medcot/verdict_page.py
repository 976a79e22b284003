"""verdict.md: the verdict on one page, in Chinese and in English, for a reader who knows medicine and no statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medcot.sentences import Sentence
from medcot.verdict_texts import (
    IN_A_WORD,
    IN_CHINESE,
    SCREENING,
    Language,
    Record,
    endpoint_name,
    gate_text,
    interval_text,
    next_step,
    points,
    reason_text,
    sentence,
    signed,
)

HEAD = {
    "title": Sentence("Verdict: {verdict}", "结论：{verdict}（{chinese}）"),
    "question": Sentence(
        "**Question.** Is the fine-tuned model better than its base? Measured by: {endpoint}.",
        "**问题。** 微调后的模型是否比基座更好？衡量方式：{endpoint}。",
    ),
    "answer": Sentence("**Answer.** {sentence}", "**回答。** {sentence}"),
    "measured": Sentence("What was measured", "测了什么"),
    "lost": Sentence("What was lost", "失去了什么"),
    "beside": Sentence("Reported beside it, deciding nothing", "另行报告，不参与判定"),
    "not": Sentence("What this does not say", "这不能说明什么"),
    "next": Sentence("What to do next", "下一步"),
    "looks": Sentence("Looks at the test set", "测试集被查看的次数"),
}
GUESSING = Sentence(
    "Neither is shown to do better than guessing, which scores {chance} points out of 100: the base lies within {base}, the fine-tune "
    "within {tuned} ({level} % intervals). Whether they differ or not then says nothing about what they know.",
    "没有证据表明两者比随机猜测更好：猜测可得每 100 分 {chance} 分，基座在 {base} 之间，微调模型在 {tuned} 之间（{level} % 区间）。"
    "此时二者有无差异，都说明不了它们懂得多少。",
)
NOTE = Sentence("**Note.** {note}", "**注意。** {note}")
COLUMNS = Sentence(
    "| Measure | Questions | Base | Fine-tune | Difference | Could have seen |", "| 项目 | 题数 | 基座 | 微调 | 差异 | 可检出的最小差异 |"
)
FIGURES = Sentence("| Figure | n | Base | Fine-tune | Difference | Unit |", "| 指标 | n | 基座 | 微调 | 差异 | 单位 |")
CONTAMINATED = Sentence("in the training data, counts for nothing", "出现在训练数据中，不计入结论")
FAULTY = Sentence(" (not to be read: {faults})", "（不可解读：{faults}）")
UNITS = {
    "nats per token": Sentence("nats per token", "奈特/词元"),
    "share": Sentence("of 100", "每 100"),
    "value": Sentence("as it is", "原值"),
}
BESIDE = {
    "heldout.all": Sentence("surprise at held-out rows, lower is better", "对留出数据的意外程度，越低越好"),
    "general.text": Sentence("surprise at general texts, lower is better", "对通用文本的意外程度，越低越好"),
    "heldout_minus_train": Sentence("over-fitting: change on held-out minus training rows", "过拟合：留出数据与训练数据变化之差"),
    "kl": Sentence("divergence from the base", "与基座的偏离"),
    "top1": Sentence("tokens where both predict the same", "两者预测一致的词元"),
    "failed": Sentence("replies that fail", "失败的回答"),
    "loop": Sentence("replies that loop", "陷入循环的回答"),
    "contradiction": Sentence("replies that contradict their reasoning", "与自身推理矛盾的回答"),
    "language_drift": Sentence("replies in another language", "语言漂移的回答"),
    "refusal": Sentence("refusals", "拒答"),
}
LIMITS = (
    Sentence(
        "Nothing about the treatment of patients: answering exam questions is not clinical practice.",
        "不能说明对患者的诊疗效果：会答考题不等于会看病。",
    ),
    Sentence(f"Nothing certain about safety: the red-flag rules are {SCREENING.en}.", f"不能保证安全：危险信号为{SCREENING.zh}。"),
    Sentence(
        "It compares two models, not two recipes: another seed may come out differently.",
        "比较的是两个模型，不是两种做法：换一个随机种子，结果可能不同。",
    ),
    Sentence("Nothing about questions unlike those measured, or in another language.", "不能推及与所测题目不同的题目或其他语言。"),
)
ON_VAL = Sentence(
    "Measured on val, which also serves to choose settings. Report a fine-tune once, on test (`evaluate.split: test`).",
    "在验证集（val）上测得，它也用于选择设置。请在测试集上只报告一次（`evaluate.split: test`）。",
)
LOOKS = Sentence("{n} fine-tunes have been measured on this test set.", "已有 {n} 个微调模型在这个测试集上测过。")
ONE_LOOK = Sentence("1 fine-tune has been measured on this test set.", "已有 1 个微调模型在这个测试集上测过。")
WARNING = Sentence(
    "**Warning: each look beyond the first makes a lucky result likelier.** The more fine-tunes see a test, the more the best of them "
    "owes to chance.",
    "**警告：第一次之后每多看一次，就更可能得到侥幸的结果。** 看过测试集的模型越多，其中最好的就越多靠运气。",
)
METHOD = Sentence(
    "Every figure is paired by question; an interval holds the true value in {level} of 100 such comparisons. “Could have seen” is the "
    "smallest true difference found four times out of five. Failed, cut or unreadable replies count as wrong. "
    "Rules declared before: `{hash}`.",
    "所有数字均按题配对；在 100 次这样的比较中，区间有 {level} 次包含真值。“可检出的最小差异”指五次中能发现四次的最小真实差异。"
    "失败、截断或无法解析的回答均按错误计。事先声明的规则：`{hash}`。",
)


def pages(record: Record) -> str:
    """Both pages, Chinese first, as Markdown."""
    return "\n".join(["\n".join(page(record, "zh")), "---\n", "\n".join(page(record, "en"))]) + "\n"


def page(record: Record, language: Language) -> Iterator[str]:
    """The page of one language, block by block."""

    def say(name: str, level: str = "") -> str:
        return f"{level}{getattr(HEAD[name], language)}"

    yield say("title", "# ").format(verdict=record["verdict"], chinese=IN_CHINESE[record["verdict"]]) + "\n"
    yield say("question").format(endpoint=endpoint_name(record["declaration"]["primary"], language)) + "\n"
    yield say("answer").format(sentence=sentence(record, language)) + "\n"
    if note := guessing_note(record, language):
        yield getattr(NOTE, language).format(note=note) + "\n"
    if record["reasons"]:
        yield "\n".join(f"- `{reason['name']}` {reason_text(reason, language)}" for reason in record["reasons"]) + "\n"
    if measured := _rows(record, ("primary", "secondary", "benchmark", "contaminated"), language):
        yield say("measured", "## ") + "\n"
        yield "\n".join([getattr(COLUMNS, language), "|---|---|---|---|---|---|", *measured]) + "\n"
        level, rules = f"{100 * record['declaration']['confidence']:g}", record["declaration_hash"]
        yield getattr(METHOD, language).format(level=level, hash=rules) + "\n"
    if record["gates"]:
        yield say("lost", "## ") + "\n"
        yield "\n".join(f"- {gate_text(gate, language)}" for gate in record["gates"]) + "\n"
    if lost := _rows(record, ("forgetting", "safety"), language):
        yield "\n".join([getattr(COLUMNS, language), "|---|---|---|---|---|---|", *lost]) + "\n"
    if beside := _beside(record, language):
        yield say("beside", "## ") + "\n"
        yield "\n".join([getattr(FIGURES, language), "|---|---|---|---|---|---|", *beside]) + "\n"
    yield say("not", "## ") + "\n"
    yield "\n".join(f"- {getattr(limit, language)}" for limit in LIMITS) + "\n"
    yield say("next", "## ") + "\n"
    yield next_step(record, language) + "\n"
    yield say("looks", "## ") + "\n"
    yield from _looks(record, language)


def guessing_note(record: Record, language: Language) -> str | None:
    """That neither arm does better than guessing, with the figures; None where one does, or where it is not known what guessing scores."""
    found = record["guessing"]
    if found is None or not found["neither"]:
        return None
    within = {arm: (" 至 " if language == "zh" else " to ").join(map(points, found[arm])) for arm in ("base", "tuned")}
    level = f"{100 * record['declaration']['confidence']:g}"
    return str(getattr(GUESSING, language)).format(chance=points(found["chance"]), level=level, **within)


def num_looks(record: Record, language: Language) -> str:
    """How many fine-tunes have looked at this test set, as a sentence."""
    n = record["num_looks"]
    return str(getattr(ONE_LOOK if n == 1 else LOOKS, language)).format(n=n)


def _looks(record: Record, language: Language) -> Iterator[str]:
    if record["split"] != "test":
        yield getattr(ON_VAL, language) + "\n"
        return
    yield num_looks(record, language) + "\n"
    if record["num_looks"] > 1:
        yield getattr(WARNING, language) + "\n"


def _rows(record: Record, roles: Sequence[str], language: Language) -> list[str]:
    return [_row(row, language) for row in record["comparisons"] if row["role"] in roles]


def _row(row: Record, language: Language) -> str:
    name = endpoint_name(row["endpoint"], language)
    if row["benchmark"]:
        name += f": {row['benchmark']}" if language == "en" else f"：{row['benchmark']}"
    if row["role"] == "contaminated":
        name += f" ({CONTAMINATED.en})" if language == "en" else f"（{CONTAMINATED.zh}）"
    name = f"**{name}**" if row["role"] == "primary" else name
    if row["faults"]:
        words = [getattr(IN_A_WORD[code], language) for code in row["faults"].split(",")]
        name += getattr(FAULTY, language).format(faults=("、" if language == "zh" else ", ").join(words))
    brackets = ("{} ({})", "{}（{}）")[language == "zh"]
    difference = brackets.format(signed(row["difference"]), interval_text(row, language))
    return f"| {name} | {row['n']} | {points(row['base'])} | {points(row['tuned'])} | {difference} | {points(row['mde'])} |"


def _beside(record: Record, language: Language) -> list[str]:
    return [_figure(row, language) for row in record["observations"] if row["name"] in BESIDE]


def _figure(row: Record, language: Language) -> str:
    scale, digits = (100.0, 1) if row["unit"] == "share" else (1.0, 3)

    def shown(value: float | None, plus: str = "") -> str:
        if value is None:
            return "—"
        rounded = round(scale * value, digits) + 0.0  # no −0.0
        return f"{rounded:{plus if rounded else ''}.{digits}f}".replace("-", "−")

    alone = row["base"] is None and row["kind"] == "divergence"
    difference = shown(row["difference"], "" if alone else "+")
    if row["ci_low"] is not None:
        low, high = (shown(row[bound], "" if alone else "+") for bound in ("ci_low", "ci_high"))
        difference += f" ({low} to {high})" if language == "en" else f"（{low} 至 {high}）"
    unit = getattr(UNITS[row["unit"]], language)
    return (
        f"| {getattr(BESIDE[row['name']], language)} | {row['n']} | {shown(row['base'])} | {shown(row['tuned'])} | {difference} | {unit} |"
    )
