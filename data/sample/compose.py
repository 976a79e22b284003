"""Compose questions, chains of thought and answers from the fact tables and the sentence frames."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
KINDS = ("diagnosis", "test", "drug", "mechanism", "differential", "dose")
ADULT_AGE = 14
# Characters allowed in reasoning and answer: cheap to train on, long enough to be a chain of thought.
LENGTHS = {"zh": ((80, 300), (26, 130)), "en": ((180, 900), (50, 420))}


@dataclass(frozen=True, slots=True)
class Row:
    """One composed row and what the flaws need to know about it."""

    question: str
    reasoning: str
    answer: str
    lang: str
    disease: str
    kind: str
    age: int
    absent: str = ""  # what the question says is not there


class Dice:
    """Seeded choices built on `random.random` alone, the one sequence that Python promises to keep between versions."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[Any], count: int) -> list[Any]:
        """`count` different items in random order."""
        return sorted(items, key=lambda _: self._random.random())[:count]


def load(name: str) -> dict[str, Any]:
    """Read one of the YAML tables that lie beside this file."""
    content: dict[str, Any] = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
    return content


def compose(disease: str, fact: dict[str, Any], lang: str, kind: str, frames: dict[str, Any], dice: Dice) -> Row:
    """Compose one row; its lengths are not checked here."""
    text, style = fact[lang], frames[lang]
    direct = kind != "diagnosis" and dice.chance(0.35)
    known = kind != "test" and (direct or dice.chance(0.6))
    case = _Case(fact, lang, style, dice)
    question = case.say(style["direct"][kind]) if direct else case.story(known) + case.gap + case.say(style["ask"][kind])
    plan = dice.pick(style["plan"][kind])
    steps = [case.say(style["step"][_known_step(name, known)]) for name in plan]
    answers = style["answer"]
    pool = answers[kind] if kind in answers else answers[f"{kind}_{'known' if known else 'open'}"]
    absent = text["absent"] if isinstance(text["absent"], list) else [text["absent"]]
    named = next((item for item in absent if item in question), "") if not direct else ""
    return Row(tidy(question), tidy(case.gap.join(steps)), tidy(case.say(pool)), lang, disease, kind, case.age, named)


def _known_step(name: str, known: bool) -> str:
    return f"evidence_{'known' if known else 'open'}" if name == "evidence" else name


class _Case:
    """One patient: the choices that stay the same throughout a row."""

    def __init__(self, fact: dict[str, Any], lang: str, style: dict[str, Any], dice: Dice) -> None:
        self._text, self._style, self._dice, self._zh = fact[lang], style, dice, lang == "zh"
        self.gap = "" if self._zh else " "
        self.age = dice.integer(*fact["age"])
        self._side = style[dice.pick(("left", "right"))]
        sex = fact["sex"] if fact["sex"] != "any" else dice.pick(("male", "female"))
        adult = self.age >= ADULT_AGE
        word = style[sex] if self._zh else style[sex][0 if adult else 1]
        article = "an" if self.age in (8, 11, 18) or 80 <= self.age < 90 else "a"
        pools = style["adult" if adult else "child"]
        self._patient = fill(dice.pick(pools), {"age": str(self.age), "sex": word, "A": article.capitalize()})
        signs = fact[lang]["signs"]
        others = sorted(dice.sample(range(1, len(signs)), 2))  # the first sign is the complaint; others may be findings or refer to it
        self._signs = [signs[i] for i in (0, *others)]
        self._told: dict[str, str] = {}

    def say(self, pool: Sequence[str]) -> str:
        """One sentence of the pool with its slots filled; each fact in one of its phrasings."""
        return fill(self._dice.pick(pool), self._slots())

    def story(self, known: bool) -> str:
        """The vignette: complaints first, then further facts in random order."""
        extras = self._dice.sample(["more_signs", "history", "absent"], self._dice.integer(1, 2))
        parts = extras + (["finding"] if known else [])
        order = self._dice.sample(parts, len(parts))
        return self.gap.join([self.say(self._style["story"]), *(self.say(self._style[name]) for name in order)])

    def _slots(self) -> dict[str, str]:
        values = {**self._text, **dict(zip("abc", self._signs, strict=True))}
        return {"pt": self._patient, **{name: self._phrase(name, value) for name, value in values.items()}}

    def _phrase(self, name: str, value: str | list[str]) -> str:
        """A phrasing of a fact; one with numbers, and what belongs to this patient, is the same throughout the row."""
        if name in self._told:
            return self._told[name]
        chosen = self._dice.pick(value) if isinstance(value, list) else value
        phrase = str(self._dice.pick(chosen.split(" | "))).replace("<side>", self._side)
        if name in ("finding", "history", "course", "absent", "mechanism") or any(c.isdigit() for c in chosen):
            self._told[name] = phrase
        return phrase


def fill(frame: str, slots: dict[str, str]) -> str:
    """Put values into `{slots}`; a value is never a frame itself."""
    return re.sub(r"\{(\w+)\}", lambda match: slots[match.group(1)], frame)


def tidy(text: str) -> str:
    """Start English sentences with a capital and drop doubled punctuation."""
    text = re.sub(r"([，；：])[，；]", r"\1", text.strip())
    return re.sub(r"(^|[.?!] )([a-z])", lambda match: match.group(1) + match.group(2).upper(), text)


def fits(row: Row) -> bool:
    """Whether reasoning and answer have a useful length."""
    (low, high), (short, long) = LENGTHS[row.lang]
    return low <= len(row.reasoning) <= high and short <= len(row.answer) <= long


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """Sets of `size` consecutive tokens: a Han character or an alphanumeric run each, punctuation dropped."""
    tokens = re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", text.lower())
    return {tuple(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1))}


class Crowd:
    """Texts so far, asked how much a new one looks like the nearest of them (exact Jaccard)."""

    def __init__(self, size: int) -> None:
        self._size, self._sets, self._holders = size, list[set[tuple[str, ...]]](), dict[tuple[str, ...], list[int]]()

    def nearest(self, text: str) -> float:
        new = shingles(text, self._size)
        shared = Counter(index for shingle in new for index in self._holders.get(shingle, ()))
        return max((count / (len(new) + len(self._sets[index]) - count) for index, count in shared.items()), default=0.0)

    def add(self, text: str) -> None:
        new = shingles(text, self._size)
        for shingle in new:
            self._holders.setdefault(shingle, []).append(len(self._sets))
        self._sets.append(new)


def compose_many(
    facts: dict[str, Any], count: int, english: float, limits: tuple[float, float], frames: dict[str, Any], seed: str
) -> list[Row]:
    """Compose `count` rows, diseases and kinds in turn, none closer to another than the limits.

    english: share of English rows · limits: Jaccard of questions (3 tokens) and of whole rows (5 tokens), both exclusive.
    """
    dice, rows = Dice(seed), list[Row]()
    questions, whole = Crowd(3), Crowd(5)
    turns = dice.sample([(disease, kind) for kind in KINDS for disease in facts], len(KINDS) * len(facts))
    num_english = round(count * english)
    for lang, wanted in (("zh", count - num_english), ("en", num_english)):
        done = attempts = 0
        while done < wanted:
            disease, kind = turns[(done + attempts // 40) % len(turns)]  # a cell that is used up gives way
            attempts += 1
            row = compose(disease, facts[disease], lang, kind, frames, dice)
            text = " ".join((row.question, row.reasoning, row.answer))
            if fits(row) and questions.nearest(row.question) < limits[0] and whole.nearest(text) < limits[1]:
                questions.add(row.question)
                whole.add(text)
                rows.append(row)
                done += 1
    return dice.sample(rows, len(rows))
