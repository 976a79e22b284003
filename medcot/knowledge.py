"""Knowledge and general questions: from benchmark files to the prompts that both arms are given.

Each item with choices is asked twice: by the likelihood of its letters and in a reply. Items without choices are open questions,
scored by key points, or general ones with an exact answer. An item belongs to val or test by a hash of its benchmark and case, so
that it never moves, whatever other items come or go. An item that cannot be scored is asked of neither arm, and counted.

Choices are put in an order that a hash of the item gives, the same for both arms. Right answers are seldom spread evenly over the
letters of a benchmark, and a fine-tune that merely comes to prefer another letter would then gain or lose by it, more surely the more
items there are; in hashed orders it gains nothing on average, and the interval covers the rest.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from medcot.benchmarks import LETTERS, Item, read_benchmarks
from medcot.defects import han_share
from medcot.evaluate_params import MaxItems
from medcot.exact_answers import exact_reference
from medcot.general_texts import GeneralText, Unfit, read_texts, text_files, unfit_text
from medcot.key_points import key_points
from medcot.ledger import read_frame
from medcot.matching import matching_key
from medcot.records import seeded_order, short_hash
from medcot.tasks import Prompt
from medcot.text import find_control_token

EvalSplit = Literal["val", "test"]
Reason = Literal[
    "no_answer", "answer_names_no_choice", "several_right_choices", "no_exact_answer", "no_key_points", "no_text", "control_token",
    "unclear_choices", "too_many_choices", "asked_twice",
]  # fmt: skip
READ_LETTERS = 8  # A to H: as many letters as medcot/letters.py reads from a reply
ASKED: dict[str, dict[str, str]] = {
    "letter": {"zh": "请只回答正确选项的字母。", "en": "Answer with the letter of the right choice only."},
    "one": {
        "zh": "请在最后一行写“答案：”，后接正确选项的字母。",
        "en": "End with a line that says `Answer: ` and the letter of the right choice.",
    },
    "several": {
        "zh": "本题有多个正确选项。请在最后一行写“答案：”，后接全部正确选项的字母。",
        "en": "More than one choice is right. End with a line that says `Answer: ` and the letters of all right choices.",
    },
    "exact": {"zh": "请在最后一行写“答案：”，后接最终结果。", "en": "End with a line that says `Answer: ` and the final result."},
    "open": {"zh": "", "en": ""},
}
# A choice such as 以上都是 or "both A and B" holds for one order only.
_SPEAKS_OF_OTHERS = re.compile(
    "以上|上述|上列|前述|皆是|皆非|(?<![A-Za-z])[A-H] ?(?:[、,+/&]|和|与|及|或|and|or) ?[A-H](?![A-Za-z])"
    r"|\b(?:all|none|both|neither|any) of\b|\b(?:above|both)\b",
    re.I,
)
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class Excluded:
    """An item that cannot be scored under an endpoint, and is therefore asked of neither arm."""

    endpoint: str
    benchmark: str
    item: str
    reason: Reason


class Tasks(NamedTuple):
    """What both arms are asked, sorted; what could not be asked of either; and the general texts."""

    prompts: list[Prompt]
    excluded: list[Excluded]
    texts: list[GeneralText]


def read_marks(path: Path) -> dict[str, bool]:
    """Which items a row of the training data held, by item key; empty where stage decontaminate has not run.

    The mark is that of `items.parquet`: it stays when the row was removed, so that clean items are beyond doubt.
    """
    if not path.exists():
        return {}
    frame = read_frame(path, ("benchmark", "item", "contaminated"), "decontaminate")
    return {f"{benchmark}:{item}": bool(mark) for benchmark, item, mark in frame.select("benchmark", "item", "contaminated").iter_rows()}


def knowledge_tasks(items: Sequence[Item], marks: Mapping[str, bool], split: EvalSplit, most: MaxItems, seed: int) -> Tasks:
    """Prompts of `choice`, `choice_generated` and `open` for the items of a split, at most so many of each benchmark."""
    with_choices, without = [item for item in items if item.choices], [item for item in items if not item.choices]
    tasks = (
        _tasks("choice", with_choices, marks, split, most.choice, seed),
        _tasks("choice_generated", with_choices, marks, split, most.choice_generated, seed),
        _tasks("open", without, marks, split, most.open, seed),
    )
    return _joined(tasks, [])


def general_tasks(folder: Path, further: Mapping[str, Path], split: EvalSplit, most: MaxItems, seed: int) -> Tasks:
    """Prompts of `general_choice` and `general_answer`, and the general texts of a split, from a folder and further files by name.

    Raises DataError naming file and row for whatever is neither a benchmark nor texts.
    """
    texts_at = text_files(folder, further)
    items = read_benchmarks(folder, {name: path for name, path in further.items() if name not in texts_at}, set(texts_at.values()))
    tasks = (
        _tasks("general_choice", [item for item in items if item.choices], {}, split, most.general_choice, seed),
        _tasks("general_answer", [item for item in items if not item.choices], {}, split, most.general_answer, seed),
    )
    found = [(name, text) for name, path in sorted(texts_at.items()) for text in read_texts(path, name) if half(name, text.id) == split]
    unfit: dict[str, Unfit | None] = {text.id: unfit_text(text) for _, text in found}
    excluded = [Excluded("general_text", name, text.id, reason) for name, text in found if (reason := unfit[text.id])]
    chosen = sorted((text for _, text in found if not unfit[text.id]), key=lambda text: seeded_order(text.id, seed))[: most.general_text]
    return _joined((*tasks, Tasks([], excluded, [])), sorted(chosen, key=lambda text: text.id))


def half(benchmark: str, case: str) -> EvalSplit:
    """Val or test, one in two, by a hash of benchmark and case alone."""
    return "test" if hashlib.sha256(f"{benchmark}:{case}".encode()).digest()[0] % 2 else "val"


def case_of(item: Item) -> str:
    """What the item shares with other questions about one patient: a hash of the description, or its own id where it has none."""
    return short_hash(item.case) if item.case else item.id


def excluded_frame(tasks: Tasks) -> pl.DataFrame:
    """What could not be scored, one line each: endpoint, benchmark, item, reason."""
    schema = {field.name: pl.String for field in fields(Excluded)}
    return pl.DataFrame([asdict(each) for each in tasks.excluded], schema=schema).sort(list(schema))


def _tasks(endpoint: str, items: Iterable[Item], marks: Mapping[str, bool], split: EvalSplit, most: int, seed: int) -> Tasks:
    prompts: dict[str, list[Prompt]] = {}
    excluded, asked = [], set()
    for item in items if most else ():
        reason, question = why_not(item, endpoint), question_key(item)
        if reason is None and question in asked:
            reason = "asked_twice"  # in one split or in both: a copy of a file would make chance look like proof
        asked.add(question if reason is None else None)
        if half(item.benchmark, case_of(item)) != split:
            continue
        if reason:
            excluded.append(Excluded(endpoint, item.benchmark, item.id, reason))
        else:
            prompts.setdefault(item.benchmark, []).append(make_prompt(item, endpoint, marks.get(item.key)))
    # The order leaves the endpoint out: what is asked in a reply is among what is asked by likelihood.
    chosen = [each for of in prompts.values() for each in sorted(of, key=lambda p: seeded_order(f"{p.benchmark}:{p.item}", seed))[:most]]
    return Tasks(chosen, excluded, [])


def question_key(item: Item) -> tuple[str, ...]:
    """What makes two items one question: the text in whatever typing, and the choices in whatever order."""
    return (matching_key(item.text), *sorted(choice.strip() for choice in item.choices))


def why_not(item: Item, endpoint: str) -> Reason | None:
    """Say why an item cannot be scored under an endpoint, or None."""
    if not (item.answer or "").strip():
        return "no_answer"
    if any(map(find_control_token, (item.text, *item.choices))):
        return "control_token"  # it would end the turn within the question
    answer = str(item.answer)
    if endpoint in ("choice", "choice_generated", "general_choice"):
        if len(item.choices) > (READ_LETTERS if endpoint == "choice_generated" else len(LETTERS)):
            return "too_many_choices"
        if not set(answer) <= set(LETTERS[: len(item.choices)]):
            return "answer_names_no_choice"
        if len(texts := {choice.strip() for choice in item.choices}) < max(2, len(item.choices)) or "" in texts:
            return "unclear_choices"  # one alone, two of one text, or one without a text
        return "several_right_choices" if len(answer) > 1 and endpoint != "choice_generated" else None
    if endpoint == "general_answer":
        return None if exact_reference(answer) else "no_exact_answer"
    return None if key_points(answer) else "no_key_points"


def make_prompt(item: Item, endpoint: str, contaminated: bool | None) -> Prompt:
    """Put an item as a prompt in its own language: case, question, lettered choices, and how to answer."""
    answer, order = str(item.answer), choice_order(item)
    choices = tuple(item.choices[place] for place in order)
    kind = {"choice_generated": "several" if len(answer) > 1 else "one", "general_answer": "exact", "open": "open"}.get(endpoint, "letter")
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    spoken = "zh" if "zh" in (language(item.question), language(item.question + listed)) else "en"  # a question may be a mere FDP
    text = "\n\n".join(filter(None, (item.text, listed, ASKED[kind][spoken])))
    if choices:
        reference = "".join(letter for letter, place in zip(LETTERS, order, strict=False) if LETTERS[place] in answer)
    else:
        reference = exact_reference(answer) if endpoint == "general_answer" else answer
    return Prompt(endpoint, item.benchmark, item.id, case_of(item), contaminated, text, choices, reference)


def choice_order(item: Item) -> list[int]:
    """The places of an item's choices in the order in which they are asked: hashed, or as they are where one speaks of the others."""
    places = range(len(item.choices))
    if any(map(_SPEAKS_OF_OTHERS.search, item.choices)):
        return list(places)
    return sorted(places, key=lambda place: short_hash(f"{item.key}:{place}"))


def language(text: str) -> str:
    """`zh` or `en`: Chinese from a quarter of Han characters on, or with any in a short text."""
    share = han_share(text)
    if share is None:
        return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"
    return "zh" if share >= 0.25 else "en"


def _joined(parts: Sequence[Tasks], texts: list[GeneralText]) -> Tasks:
    prompts = sorted((each for part in parts for each in part.prompts), key=lambda p: (p.endpoint, p.benchmark, p.item))
    excluded = sorted((each for part in parts for each in part.excluded), key=lambda e: (e.endpoint, e.benchmark, e.item))
    for (endpoint, benchmark, reason), count in sorted(Counter((e.endpoint, e.benchmark, e.reason) for e in excluded).items()):
        first = next(e.item for e in excluded if (e.endpoint, e.benchmark, e.reason) == (endpoint, benchmark, reason))
        log.warning("%s: %d items of %s cannot be scored (%s), such as %s", endpoint, count, benchmark, reason, first)
    return Tasks(prompts, excluded, texts)
