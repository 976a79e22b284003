"""Quality rules: what makes a complete, readable record a poor example, each rule named, bounded and switchable.

Nothing is repaired. A rule that is certain drops the record, one that is not flags it for review; the defaults were chosen by reading
what each rule hits among published rows. The rules read normalised texts (medcot/text.py), after the refusals of medcot/checks.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field
from rapidfuzz import fuzz

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


class RunParams(SwitchParams):
    """One character over and over."""

    max_run: int = Field(ge=3, le=100_000)
    """Longest run of one letter, Han character or punctuation mark that is allowed; raising it hits fewer texts."""


class ShareParams(SwitchParams):
    """Passages that come again."""

    max_share: float = Field(ge=0, le=1)
    """Largest share of 16-character windows of a field that repeat an earlier one, 0 to 1; raising it hits fewer texts."""


class LanguageParams(SwitchParams):
    """Fields in different languages."""

    max_difference: float = Field(ge=0, le=1)
    """Largest difference between two fields' shares of Han characters (among Han characters and Latin words); raising it hits fewer."""


class SimilarityParams(SwitchParams):
    """An answer that says again what stands before it."""

    threshold: float = Field(gt=0, le=1)
    """Normalised indel similarity, 0 to 1, from which two fields are nearly the same text; raising it hits fewer."""


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
    """The same fields, nearly equal."""
    refusal: SwitchParams = SwitchParams(action="drop")
    """An answer that begins by refusing to answer."""
    boilerplate: SwitchParams = SwitchParams(action="flag")
    """A text in which a language model speaks of itself."""
    char_run: RunParams = RunParams(action="drop", max_run=20)
    """One character over and over."""
    repetition: ShareParams = ShareParams(action="drop", max_share=0.5)
    """Passages over and over, as when generation loops."""
    mojibake: SwitchParams = SwitchParams(action="drop")
    """Text decoded with the wrong character set: ä½ å¥½, Ã©, 锟斤拷."""
    language: LanguageParams = LanguageParams(action="flag", max_difference=0.5)
    """Reasoning or answer in another language than the question."""
    truncated: SwitchParams = SwitchParams(action="flag")
    """A reasoning without final punctuation, or a text that stops within a sentence or a list."""
    unbalanced: BalanceParams = BalanceParams(action="flag", max_unmatched=0)
    """Brackets and quotation marks without a partner."""
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


_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
_WORD = re.compile("[A-Za-z]{2,}")
_PUNCTUATION = re.compile(r"[\W_]+")
WINDOW = 16  # characters: longer than a term that is named again and again, shorter than a sentence
MIN_WORDS = 20  # Han characters and Latin words that a field needs before it has a language

_STAND_INS = frozenset(
    ["略", "略过", "同上", "见上", "见上文", "如上", "如上所述", "见解析", "见答案", "暂无", "暂无答案", "无答案", "没有答案", "待补充", "待完善", "答案", "解析", "答", "回答", "null", "nan", "na", "undefined", "todo", "tbd", "answer", "seeabove", "sameasabove", "noanswer", "notavailable", "notapplicable", "placeholder"]
)
_REFUSAL = re.compile(
    r"^.{0,40}?(?:我(?:是|作为).{0,12}?，)?(?:我?(?:无法|不能|没有办法|没办法)(?:直接)?(?:提供|给出|回答|回应|协助|帮助|做出|满足)"
    r".{0,20}?(?:医疗建议|医学建议|诊断|处方|答案|回答|帮助|信息|问题|请求|要求|服务)|(?:抱歉|对不起|不好意思)[，,！!].{0,20}?(?:无法|不能|不便|没法)(?:回答|提供|给出|帮|协助|满足|处理))"
    r"|^.{0,80}?\b(?:I(?:'m| am) (?:sorry|unable|not able)\b.{0,20}?\b(?:can't|cannot|can not|unable|not able|to (?:provide|give|answer|assist|help|offer))"
    r"|I (?:can't|cannot|can not|won't) (?:provide|give|answer|assist|help|offer|diagnose|comply|fulfil))",
    re.IGNORECASE | re.DOTALL,
)
_BOILERPLATE = re.compile(
    r"作为(?:一个|一名|一款|一种)?(?:大型|大)?(?:AI|人工智能|语言)(?:语言)?(?:大?模型|助手|医生助手|聊天机器人|程序)"
    r"|我(?:只?是|仅仅?是)(?:一个|一名|一款)?(?:大型|大)?(?:AI|人工智能|语言模型|聊天机器人)"
    r"|我的(?:训练数据|知识截止)|由(?:OpenAI|DeepSeek|百度|阿里(?:云|巴巴)?|智谱)(?:公司)?(?:训练|开发|研发)"
    r"|\b(?:[Aa]s|I(?:'m| am)(?: just| only)?) an? (?:AI|artificial intelligence|large language|language)(?: language)?(?: model| assistant| chatbot|, I\b)"
    r"|\bmy (?:training data|knowledge cut-?off)\b|\b(?:ChatGPT|GPT-4|OpenAI)\b"
)
_CONTINUATION = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸŽ"
_MOJIBAKE = re.compile(
    f"[ÃÐÑ][{_CONTINUATION}]|Â[\u0080-\u00bf]|[ÎÏ][\u0080-\u00bf]|â[€„‰†…ˆ‚]|ã€|ï¼|ï»¿|(?:[ä-é][{_CONTINUATION}]{{1,2}} ?){{2,}}"
    "|锟斤拷|锟斤|烫烫烫|屯屯屯|銆[\u4e00-\u9fff]|锛[屽氱侀岋]"
)
_RUN = re.compile(r"([^\s\d_=*.·…~#|+\-—–─0])\1{2,}")
_FINAL = tuple("。！？；.!?;…)）】]」』”’\"'》|`$。～~")
_MID_SENTENCE = re.compile(
    r"(?:[，、,：:（(\[【「《“]|(?:因为|由于|所以|因此|但是|而且|并且|以及|或者|如果|为了|例如|比如|包括)"
    r"|\b(?:and|or|but|because|the|of|with|that|which|such as|due to|if|when|an)|\n\s*(?:\d{1,2}[.、)）]|[-*•]))$"
)
_MARKS = re.compile(r"[()（）\[\]［］【】〔〕{}｛｝《》「」『』“”]")
_PAIRS = {"(": ")", "[": "]", "{": "}", "《": "》", "「": "」", "『": "』", "“": "”"}
_SAME = str.maketrans("（）［］【】〔〕｛｝", "()[][][]{}")
_NUMBERING = re.compile(r"(?:^|[\s，。；：;:,、.!?！？“*])(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,4}|[一二三四五六七八九十]{1,3}|[①-⑳])$|[:;]-?$")
_NO_PAIR = re.compile(r"[\[(]\s*[-\d.∞a-z]+\s*[,，]\s*[-+\d.∞a-z]+\s*[\])]|\\(?:left|right)\s*[\[\]().|]")
_LOOKALIKE = re.compile(
    r"\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn|reserved_\w+)>|\[(?:CLS|SEP|PAD|UNK|MASK|gMASK)\]"
    r"|</?(?:answer|reasoning|thinking|reflection|output|tool)>|<\||\|>|^#{2,3} ?(?:Instruction|Response|Input|Output|Human|Assistant)\s*[:：]"
    r"|^(?:Human|Assistant|User|System)\s*[:：]",
    re.MULTILINE,
)


def _texts(record: Record) -> dict[str, str]:
    return {name: getattr(record, name) for name in TEXT_FIELDS}


def _key(text: str) -> str:
    return _PUNCTUATION.sub("", text).lower()


def _length(field: str) -> Callable[[Record, LengthParams], _Found | None]:
    def check(record: Record, params: LengthParams) -> _Found | None:
        length = len(getattr(record, field))
        return None if params.min <= length <= params.max else _Found(f"{field}: {length} characters", length)

    return check


def _no_content(record: Record, _: SwitchParams) -> _Found | None:
    for name, text in _texts(record).items():
        if len(text) < 40 and ((key := _key(text)) in _STAND_INS or not key):
            return _Found(f"{name}: no content", len(text))
    return None


def _copies(record: Record) -> list[tuple[str, str, str, str]]:
    texts = _texts(record)
    pairs = (("answer", "question"), ("answer", "reasoning"), ("reasoning", "question"))
    return [(one, other, texts[one], texts[other]) for one, other in pairs]


def _answer_copy(record: Record, _: SwitchParams) -> _Found | None:
    for one, other, a, b in _copies(record):
        if abs(len(a) - len(b)) <= 0.3 * max(len(a), len(b)) and _key(a) == _key(b):
            return _Found(f"{one}: the {other} again", 1.0)
    return None


def _near_copy(record: Record, params: SimilarityParams) -> _Found | None:
    for one, other, a, b in _copies(record):
        similarity = fuzz.ratio(a, b, score_cutoff=100 * params.threshold) / 100
        if similarity and _key(a) != _key(b):
            return _Found(f"{one}: nearly the {other}, similarity {similarity:.2f}", similarity)
    return None


def _refusal(record: Record, _: SwitchParams) -> _Found | None:
    return _Found("answer: refuses to answer", 1) if _REFUSAL.search(record.answer) else None


def _matches(pattern: re.Pattern[str], what: str) -> Callable[[Record, SwitchParams], _Found | None]:
    def check(record: Record, _: SwitchParams) -> _Found | None:
        counts = {name: sum(1 for _ in pattern.finditer(text)) for name, text in _texts(record).items()}
        hit = {name: count for name, count in counts.items() if count}
        return _Found(", ".join(f"{name}: {count} × {what}" for name, count in hit.items()), sum(hit.values())) if hit else None

    return check


def _char_run(record: Record, params: RunParams) -> _Found | None:
    runs = [(len(match.group()), name) for name, text in _texts(record).items() for match in _RUN.finditer(text)]
    length, name = max(runs, default=(0, ""))
    return _Found(f"{name}: one character {length} times", length) if length > params.max_run else None


def repeated_share(text: str) -> float:
    """The share of a text's 16-character windows that stand earlier in it too; 0 for a text shorter than two windows."""
    count = len(text) - WINDOW + 1
    return 1 - len({text[i : i + WINDOW] for i in range(count)}) / count if count > WINDOW else 0.0


def _repetition(record: Record, params: ShareParams) -> _Found | None:
    for name, text in _texts(record).items():
        share = repeated_share(text)
        if share > params.max_share:
            return _Found(f"{name}: {share:.0%} repeated", share)
    return None


def _han_share(text: str) -> float | None:
    han = len(_HAN.findall(text))
    total = han + len(_WORD.findall(text))
    return han / total if total >= MIN_WORDS else None


def _language(record: Record, params: LanguageParams) -> _Found | None:
    question, *others = [(name, _han_share(text)) for name, text in _texts(record).items()]
    for name, share in others:
        if question[1] is not None and share is not None and abs(share - question[1]) > params.max_difference:
            return _Found(f"{name}: {share:.0%} Han, question: {question[1]:.0%}", abs(share - question[1]))
    return None


def _truncated(record: Record, _: SwitchParams) -> _Found | None:
    if not record.reasoning.rstrip("*_ \n").endswith(_FINAL):
        return _Found("reasoning: no final punctuation", 1)
    for name in ("reasoning", "answer"):
        if _MID_SENTENCE.search(getattr(record, name).rstrip("*_ ")[-40:]):
            return _Found(f"{name}: stops within a sentence or a list", 1)
    return None


def unmatched_marks(text: str) -> list[str]:
    """The brackets and quotation marks without a partner; width and nesting are free, `1)` and `a）` are numbering."""
    text = _NO_PAIR.sub("", text)
    marks = [(match.start(), match.group().translate(_SAME)) for match in _MARKS.finditer(text)]
    unmatched = []
    for opening, closing in _PAIRS.items():
        depth = 0
        for position, mark in marks:
            if mark == opening:
                depth += 1
            elif mark == closing and depth:
                depth -= 1
            elif mark == closing and not _NUMBERING.search(text[max(0, position - 5) : position]):
                unmatched.append(closing)
        unmatched += [opening] * depth
    return unmatched


def _unbalanced(record: Record, params: BalanceParams) -> _Found | None:
    for name, text in _texts(record).items():
        marks = unmatched_marks(text)
        if len(marks) > params.max_unmatched:
            return _Found(f"{name}: {' '.join(marks[:5])} without a partner", len(marks))
    return None


_CHECKS: dict[str, Callable[[Record, Any], _Found | None]] = {
    "question_length": _length("question"),
    "reasoning_length": _length("reasoning"),
    "answer_length": _length("answer"),
    "no_content": _no_content,
    "answer_copy": _answer_copy,
    "near_copy": _near_copy,
    "refusal": _refusal,
    "boilerplate": _matches(_BOILERPLATE, "a model speaking of itself"),
    "char_run": _char_run,
    "repetition": _repetition,
    "mojibake": _matches(_MOJIBAKE, "wrongly decoded text"),
    "language": _language,
    "truncated": _truncated,
    "unbalanced": _unbalanced,
    "control_lookalike": _matches(_LOOKALIKE, "a chat template's mark"),
}
RULES: Sequence[str] = tuple(f"quality_{name}" for name in _CHECKS)


def check_quality(record: Record, params: QualityParams) -> list[Finding]:
    """Apply every rule that is on, in order of RULES."""
    findings = []
    for name, check in _CHECKS.items():
        rule: SwitchParams = getattr(params, name)
        if rule.action != "off" and (found := check(record, rule)):
            findings.append(Finding(f"quality_{name}", rule.action, found.detail, found.value))
    return findings
