"""Small changes to a row: slips that change no fact, and changes of one fact that matters."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from compose import Row, shingles

SIDED = ("dvt", "ureteral_stone", "trigeminal_neuralgia")  # left and right say nothing else in these facts
MIN_TOKENS = {"zh": 55, "en": 34}  # a near copy is taken from a question at least this long

# Slips of a second typist, in words that carry no content: any comparison should see through them. The first that fits is made.
QUESTION_EDITS = {
    "zh": [
        *[("最可能是", "请问最可能是"), ("怎么用", "怎样用"), ("哪种", "何种"), ("该开什么", "应该开什么"), ("怎样尽快", "如何尽快")],
        *[
            ("一名", "一位"),
            ("怎么解释", "如何解释"),
            ("怎么区分", "怎样区分"),
            ("请给出", "请你给出"),
            ("什么检查", "何种检查"),
            ("哪项", "哪一项"),
        ],
    ],
    "en": [
        *[("The patient, ", "This patient, "), ("The history includes", "This history includes"), ("Which ", "What ")],
        ("What do", "Please, what do"),
    ],
}
REASONING_EDITS = [("综合起来", "综合来看"), ("所以", "因此"), ("从机制看", "从机制上看"), ("把它们", "把这些"), ("因此", "由此")]


def everywhere(row: Row, change: Callable[[str], str]) -> Row:
    return replace(row, question=change(row.question), reasoning=change(row.reasoning), answer=change(row.answer))


def without_negation(row: Row) -> Row | None:
    """The row with what was absent now present."""
    turns = [(f"没有{row.absent}", f"有{row.absent}"), (f"无{row.absent}", f"有{row.absent}"), (f"no {row.absent}", row.absent)]
    for negated, present in turns:
        if row.absent and row.question.count(negated) == 1:
            return replace(row, question=row.question.replace(negated, present))
    return None


def other_side(row: Row) -> Row | None:
    """The row with left and right exchanged, where a side is named in the question."""
    swap = {"左": "右", "右": "左", "left": "right", "right": "left"}
    if row.disease not in SIDED or not re.search("[左右]|left|right", row.question):
        return None
    return everywhere(row, lambda text: re.sub("[左右]|left|right", lambda match: swap[match.group()], text))


def edit(text: str, edits: list[tuple[str, str]]) -> str:
    for old, new in edits:
        if old in text:
            return text.replace(old, new, 1)
    return text


def near_question(row: Row) -> Row | None:
    """The row with one slip in its question, still near by exact Jaccard; None where no slip fits or the question is short."""
    edited = edit(row.question, QUESTION_EDITS[row.lang])
    one, two = shingles(row.question, 3), shingles(edited, 3)
    if edited == row.question or len(one) < MIN_TOKENS[row.lang] or len(one & two) < 0.75 * len(one | two):
        return None
    return replace(row, question=edited)
