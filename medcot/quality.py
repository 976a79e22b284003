"""Quality rules: what makes a complete, readable record a poor example, each rule named, bounded and switchable.

Nothing is repaired. A rule that is certain drops the record, one that is not flags it for review; the defaults were chosen by reading
what each rule hits among published rows. The rules read normalised texts (medcot/text.py), after the refusals of medcot/checks.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from rapidfuzz.distance import Indel, LCSseq

from medcot import defects
from medcot.params import Params
from medcot.records import TEXT_FIELDS, Record

Action = Literal["off", "flag", "drop"]


class SwitchParams(Params):
    """A rule without a number."""

    action: Action
    """What happens to a record that the rule hits: `drop` removes it, `flag` keeps it and says so, `off` = the rule is not asked."""


class LengthParams(SwitchParams):
    """How long a field may be."""

    min: int = Field(ge=0, le=1_000_000)
    """Fewest characters; raising it hits more short texts."""
    max: int = Field(ge=1, le=10_000_000)
    """Most characters; raising it hits fewer long texts."""

    @model_validator(mode="after")
    def check_order(self) -> Self:
        """Refuse bounds that no text meets."""
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so that every text would be hit")
        return self


class RunParams(SwitchParams):
    """One character over and over."""

    max_run: int = Field(ge=3, le=100_000)
    """Longest run of one letter, Han character or punctuation mark that is allowed; raising it hits fewer texts."""


class ShareParams(SwitchParams):
    """Passages that come again."""

    max_share: float = Field(ge=0, le=1)
    """Largest share of 16-letter windows of reasoning or answer that repeat an earlier one, 0 to 1; raising it hits fewer texts."""


class LanguageParams(SwitchParams):
    """Fields in different languages."""

    max_difference: float = Field(ge=0, le=1)
    """Largest difference between two fields' shares of Han characters (among Han characters and Latin words); raising it hits fewer."""


class SimilarityParams(SwitchParams):
    """An answer that says again what stands before it."""

    threshold: float = Field(gt=0, le=1)
    """Normalised indel similarity of the letters, 0 to 1, from which two fields are nearly the same text; raising it hits fewer."""


class BalanceParams(SwitchParams):
    """Brackets and quotation marks without a partner."""

    max_unmatched: int = Field(ge=0, le=1000)
    """Most unmatched marks that a field may have; raising it hits fewer texts."""


class QualityParams(Params):
    """The quality rules; each is `quality_<key>` in the ledger."""

    question_length: LengthParams = LengthParams(action="flag", min=5, max=4000)
    """Characters of the question."""
    reasoning_length: LengthParams = LengthParams(action="flag", min=20, max=20_000)
    """Characters of the chain of thought."""
    answer_length: LengthParams = LengthParams(action="flag", min=2, max=8000)
    """Characters of the answer."""
    no_content: SwitchParams = SwitchParams(action="drop")
    """A field that is punctuation only, or a stand-in such as 略, 同上, N/A."""
    answer_copy: SwitchParams = SwitchParams(action="drop")
    """An answer equal to the question or the reasoning, or a reasoning equal to the question, but for case, spaces and punctuation."""
    near_copy: SimilarityParams = SimilarityParams(action="flag", threshold=0.9)
    """The same fields, nearly equal, where the later one adds no letter."""
    refusal: SwitchParams = SwitchParams(action="drop")
    """An answer that begins by refusing to answer."""
    boilerplate: SwitchParams = SwitchParams(action="flag")
    """A text in which a language model speaks of itself."""
    char_run: RunParams = RunParams(action="drop", max_run=20)
    """One character over and over."""
    repetition: ShareParams = ShareParams(action="drop", max_share=0.3)
    """Passages over and over, as when generation loops."""
    mojibake: SwitchParams = SwitchParams(action="drop")
    """Text decoded with the wrong character set: ä½ å¥½, Ã©, 锟斤拷."""
    language: LanguageParams = LanguageParams(action="flag", max_difference=0.5)
    """Reasoning or answer in another language than the question."""
    truncated: SwitchParams = SwitchParams(action="flag")
    """A reasoning without final punctuation, or a text that stops within a sentence or a list."""
    unbalanced: BalanceParams = BalanceParams(action="flag", max_unmatched=0)
    """Brackets and quotation marks without a partner."""
    missing_image: SwitchParams = SwitchParams(action="flag")
    """A picture that the text refers to and that is not there: 如图所示, [img=…], as shown in the figure."""
    control_lookalike: SwitchParams = SwitchParams(action="flag")
    """Chat-template marks of other models, such as [INST], <s> or ### Instruction:."""


class Finding(NamedTuple):
    """A rule that a record does not pass; the detail is one line that quotes no text but marks and names."""

    rule: str
    action: Literal["flag", "drop"]
    detail: str
    value: float


class _Found(NamedTuple):
    detail: str
    value: float


_Check = Callable[[Record, Any], _Found | None]


def _texts(record: Record) -> dict[str, str]:
    return {name: getattr(record, name) for name in TEXT_FIELDS}


def _length(field: str) -> _Check:
    def check(record: Record, params: LengthParams) -> _Found | None:
        length = len(getattr(record, field))
        return None if params.min <= length <= params.max else _Found(f"{field}: {length} characters", length)

    return check


def _no_content(record: Record, _: SwitchParams) -> _Found | None:
    for name, text in _texts(record).items():
        if len(text) < 40 and ((said := defects.letters(text)) in defects.STAND_INS or not said):
            return _Found(f"{name}: no content", len(text))
    return None


def _pairs(record: Record) -> list[tuple[str, str, str, str]]:
    """Which field may not repeat which, with the letters of both; only of fields of like length, for the others cannot."""
    pairs = []
    for one, other in (("answer", "question"), ("answer", "reasoning"), ("reasoning", "question")):
        a, b = getattr(record, one), getattr(record, other)
        if min(len(a), len(b)) >= 0.4 * max(len(a), len(b)):
            pairs.append((one, other, defects.letters(a), defects.letters(b)))
    return pairs


def _answer_copy(record: Record, _: SwitchParams) -> _Found | None:
    return next((_Found(f"{one}: the {other} again", 1.0) for one, other, a, b in _pairs(record) if a == b), None)


def _near_copy(record: Record, params: SimilarityParams) -> _Found | None:
    for one, other, a, b in _pairs(record):
        similarity = Indel.normalized_similarity(a, b, score_cutoff=params.threshold)
        # A question said again with its blank filled in is a good answer: what it adds counts, not only how much it shares.
        if similarity and a != b and LCSseq.similarity(a, b) == len(a):
            return _Found(f"{one}: nearly the {other}, similarity {similarity:.2f}", similarity)
    return None


def _refusal(record: Record, _: SwitchParams) -> _Found | None:
    return _Found("answer: refuses to answer", 1) if defects.REFUSAL.search(record.answer) else None


def _matches(pattern: re.Pattern[str], what: str) -> _Check:
    def check(record: Record, _: SwitchParams) -> _Found | None:
        counts = {name: sum(1 for _ in pattern.finditer(text)) for name, text in _texts(record).items()}
        hit = {name: count for name, count in counts.items() if count}
        return _Found(", ".join(f"{name}: {count} × {what}" for name, count in hit.items()), sum(hit.values())) if hit else None

    return check


def _char_run(record: Record, params: RunParams) -> _Found | None:
    length, name = max((defects.longest_run(text), name) for name, text in _texts(record).items())
    return _Found(f"{name}: one character {length} times", length) if length > params.max_run else None


def _repetition(record: Record, params: ShareParams) -> _Found | None:
    for name in ("reasoning", "answer"):  # a question lists options, which are alike by nature
        share = defects.repeated_share(getattr(record, name))
        if share > params.max_share:
            return _Found(f"{name}: {share:.0%} repeated", share)
    return None


def _language(record: Record, params: LanguageParams) -> _Found | None:
    shares = {name: defects.han_share(text) for name, text in _texts(record).items()}
    asked = shares["question"]
    for name in ("reasoning", "answer"):
        share = shares[name]
        if asked is not None and share is not None and abs(share - asked) > params.max_difference:
            return _Found(f"{name}: {share:.0%} Han, question: {asked:.0%}", abs(share - asked))
    return None


def _truncated(record: Record, _: SwitchParams) -> _Found | None:
    if not defects.ends(record.reasoning):  # an answer may end in an option's name
        return _Found("reasoning: no final punctuation", 1)
    if defects.stops_within(record.answer):
        return _Found("answer: stops within a sentence or a list", 1)
    return None


def _unbalanced(record: Record, params: BalanceParams) -> _Found | None:
    for name, text in _texts(record).items():
        marks = defects.unmatched_marks(text)
        if len(marks) > params.max_unmatched:
            return _Found(f"{name}: {' '.join(marks[:5])} without a partner", len(marks))
    return None


_CHECKS: dict[str, _Check] = {
    "question_length": _length("question"),
    "reasoning_length": _length("reasoning"),
    "answer_length": _length("answer"),
    "no_content": _no_content,
    "answer_copy": _answer_copy,
    "near_copy": _near_copy,
    "refusal": _refusal,
    "boilerplate": _matches(defects.BOILERPLATE, "a model speaking of itself"),
    "char_run": _char_run,
    "repetition": _repetition,
    "mojibake": _matches(defects.MOJIBAKE, "wrongly decoded text"),
    "language": _language,
    "truncated": _truncated,
    "unbalanced": _unbalanced,
    "missing_image": _matches(defects.MISSING_IMAGE, "a picture that is not there"),
    "control_lookalike": _matches(defects.LOOKALIKE, "a chat template's mark"),
}
RULES = tuple(f"quality_{name}" for name in _CHECKS)


def check_quality(record: Record, params: QualityParams) -> list[Finding]:
    """Apply every rule that is on, in order of RULES."""
    findings = []
    for name, check in _CHECKS.items():
        rule: SwitchParams = getattr(params, name)
        if rule.action != "off" and (found := check(record, rule)):
            findings.append(Finding(f"quality_{name}", rule.action, found.detail, found.value))
    return findings
