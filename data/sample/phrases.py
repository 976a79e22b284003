"""Compose rows that copy phrases: how the demo base model comes to know the words of the finetune facts without the facts.

A row lists phrases of several diseases, one of each, so nothing in it says which belong together; its answer repeats them. Without
such rows the model meets most words of the fine-tuning data for the first time there, and any fine-tune wins by teaching spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compose import Dice, Row

NUM_PHRASES = 8
FRAMES = {
    "zh": ("抄写下列短语：{}。", "；", "这些短语互不相干，照原样写，先后不变。{}。", "然后", "{}。"),
    "en": ("Copy these phrases: {}.", "; ", "They have nothing to do with each other; I keep their order. {}.", ", then ", "{}."),
}


def phrases_of(fact: dict[str, Any]) -> list[str]:
    """Every phrasing of every entry of one disease in one language, sides filled in."""
    values = [text for value in fact.values() for text in (value if isinstance(value, list) else [value])]
    phrases = [phrase.strip() for text in values if text for phrase in str(text).split("|")]
    return [phrase.replace("<side>", "left" if phrase.isascii() else "左") for phrase in phrases if phrase]


def compose_phrases(facts: Sequence[dict[str, Any]], count: int, english: float, seed: str) -> list[Row]:
    """Compose `count` rows over the diseases of all tables, an `english` share of them in English."""
    dice = Dice(seed)
    by_lang = {lang: [phrases_of(fact[lang]) for table in facts for fact in table.values()] for lang in FRAMES}
    rows = []
    for _ in range(count):
        lang = "en" if dice.chance(english) else "zh"
        question, comma, reasoning, then, answer = FRAMES[lang]
        chosen = [dice.pick(phrases) for phrases in dice.sample(by_lang[lang], NUM_PHRASES)]
        listed = comma.join(chosen)
        rows.append(Row(question.format(listed), reasoning.format(then.join(chosen)), answer.format(listed), lang, "", "phrases", 0))
    return rows
