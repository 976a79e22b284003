"""Personal data of mainland China in free text: identity numbers, phones, cards, record numbers, addresses, names.

Every kind is a named rule, `pii_<kind>`; medcot/pii_rules.py and medcot/names.py hold the patterns. Where the evidence would also fit a
laboratory value, a code or a catalogue number, a hit is not certain and goes to review.

Masks are placeholders, numbered by first appearance in a record: `[手机号1]` in a record with Chinese text, `[MOBILE1]` in others.
A hash of the value would be no mask: eleven digits are found by trying them all.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from medcot.names import NAME_RULES
from medcot.params import Params
from medcot.pii_rules import VALUE_RULES, Rule
from medcot.records import TEXT_FIELDS, Record

# Kind and its placeholders; where hits overlap, the earlier kind names the whole.
_PLACEHOLDERS = {
    "id_number": ("身份证号", "ID"),
    "bank_card": ("银行卡号", "CARD"),
    "mobile": ("手机号", "MOBILE"),
    "phone": ("电话", "PHONE"),
    "email": ("邮箱", "EMAIL"),
    "passport": ("证件号", "PASSPORT"),
    "insurance": ("医保号", "INSURANCE"),
    "record_number": ("病历号", "RECORD"),
    "account": ("账号", "ACCOUNT"),
    "address": ("地址", "ADDRESS"),
    "name": ("姓名", "NAME"),
}
KINDS = tuple(_PLACEHOLDERS)
RULES = tuple(f"pii_{kind}" for kind in KINDS)
REVIEW = "pii_review"
MANY_VALUES = 50

Mode = Literal["off", "warn", "mask", "drop"]


class PiiParams(Params):
    """What happens to personal data."""

    mode: Literal["auto", "off", "warn", "mask", "drop"] = "auto"
    """`warn` flags, `mask` puts placeholders, `drop` removes records with a certain hit, `off` looks for nothing;
    `auto` is `mask` for an imported file and `warn` for the sample and the hubs."""


def effective_mode(params: PiiParams, source: str) -> Mode:
    """Resolve `auto`; source is `download.source`, and only a file may hold what was never published."""
    if params.mode != "auto":
        return params.mode
    return "mask" if source == "file" else "warn"


class Hit(NamedTuple):
    """A place of personal data in a text, start and end in characters; not certain = it may be something else."""

    kind: str
    start: int
    end: int
    certain: bool

    @property
    def rule(self) -> str:
        """The rule's name in the ledger."""
        return f"pii_{self.kind}"


class Found(NamedTuple):
    """The hits of one rule in a record; the detail names fields and counts, never a value."""

    rule: str
    certain: bool
    detail: str


# One character each, so that places stay: full width, the digits of every script (`\d` reads them all), dashes, spaces.
_FOLD = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FOLD |= {ord(digit): ord("0") + unicodedata.decimal(digit) for digit in re.findall(r"\d", "".join(map(chr, range(0x80, 0x20000))))}
_FOLD |= dict.fromkeys(map(ord, "—–‐‑−﹣"), ord("-")) | dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], ord(" "))
del _FOLD[ord("，")]  # a full stop of Chinese text is none of these, and its comma is told apart from that of numbers
_RULES = (*VALUE_RULES, *NAME_RULES)
_HINTS = re.compile("|".join(re.escape(word) for rule in _RULES if rule.hints for word in rule.words))
_FORMS = tuple(dict.fromkeys(rule.form for rule in _RULES if rule.form))
_HAN = re.compile("[\u4e00-\u9fff]")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
_WORDS_IN_USE = "|".join(word for pair in _PLACEHOLDERS.values() for word in pair)
_PLACEHOLDER = re.compile(rf"\[({_WORDS_IN_USE})(\d{{1,9}})\]")


def find(text: str) -> list[Hit]:
    """Find personal data in one text: hits in order, none of which overlap."""
    return find_all([text])[0]


def find_all(texts: Sequence[str]) -> list[list[Hit]]:
    """Find personal data in the texts of one record, raw or normalised: a value that one text labels is found without its label in all."""
    found = _find_visible([_INVISIBLE.sub("", text) for text in texts])
    return [_in_raw(text, hits) if hits and _INVISIBLE.search(text) else hits for text, hits in zip(texts, found, strict=True)]


def _in_raw(text: str, hits: list[Hit]) -> list[Hit]:
    """The hits of a text without its invisible characters, at their places in the text with them."""
    places = [i for i, character in enumerate(text) if not _INVISIBLE.match(character)]
    return [hit._replace(start=places[hit.start], end=places[hit.end - 1] + 1) for hit in hits]


def _find_visible(texts: Sequence[str]) -> list[list[Hit]]:
    rules = [_candidates(text) for text in texts]
    if not any(rules):
        return [[] for _ in texts]
    flats = [_PLACEHOLDER.sub(_blank, text.translate(_FOLD)) for text in texts]
    found: list[list[Hit]] = [[] for _ in texts]
    while any(new := _search(flats, rules)):  # again, because a number that stood beside a hit is parted from it once that is masked
        for i, hits in enumerate(new):
            found[i] += hits
            flats[i] = replace_hits(flats[i], [(hit, "\0" * (hit.end - hit.start)) for hit in hits])
    return [sorted(hits, key=lambda hit: hit.start) for hits in found]


def replace_hits(text: str, places: Iterable[tuple[Hit, str]]) -> str:
    """Put a string in place of each hit; hits in order."""
    parts, end = [], 0
    for hit, string in places:
        parts += [text[end : hit.start], string]
        end = hit.end
    return "".join([*parts, text[end:]])


def _blank(match: re.Match[str]) -> str:
    return "\0" * len(match.group())


def _candidates(text: str) -> list[Rule]:
    """The rules that may find something, by what is cheap to see in the raw text: most rules can be left out of most texts."""
    lower = text.lower()
    hinted = _HINTS.search(lower)
    forms = {form: bool(form.search(text)) for form in _FORMS}
    return [
        rule
        for rule in _RULES
        if (forms[rule.form] if rule.form else hinted) and (not rule.hints or any(word in lower for word in rule.words))
    ]


def _search(flats: Sequence[str], rules: Sequence[Sequence[Rule]]) -> list[list[Hit]]:
    """One look at every text of a record."""
    found = [list(_matches(flat, some)) for flat, some in zip(flats, rules, strict=True)]
    known = {flat[hit.start : hit.end]: hit.kind for flat, hits in zip(flats, found, strict=True) for hit in hits if hit.certain}
    return [_merge([*hits, *_repeats(flat, known)]) for flat, hits in zip(flats, found, strict=True)]


def _matches(flat: str, rules: Sequence[Rule]) -> Iterator[Hit]:
    for rule in rules:
        for match in rule.search.finditer(flat):
            certain = rule.judge(flat, match)
            if certain is not None:
                yield Hit(rule.kind, *match.span("v"), certain)


def _repeats(flat: str, known: dict[str, str]) -> Iterator[Hit]:
    """The values known from anywhere in the record; a short number, such as a bed's, means nothing elsewhere."""
    values = {value: kind for value, kind in known.items() if len(value) >= (2 if kind == "name" else 5)}
    for start, value in _places(flat, values):
        end = start + len(value)
        if not value.isascii() or not (_is_word(flat[max(0, start - 1) : start]) or _is_word(flat[end : end + 1])):
            yield Hit(values[value], start, end, True)


def _places(flat: str, values: Collection[str]) -> Iterator[tuple[int, str]]:
    """Where the values stand; of many, in one pass for each length rather than for each value."""
    if len(values) > MANY_VALUES:
        for size in sorted({len(value) for value in values}):
            yield from ((at, flat[at : at + size]) for at in range(len(flat) - size + 1) if flat[at : at + size] in values)
        return
    for value in values:
        at = flat.find(value)
        while at >= 0:
            yield at, value
            at = flat.find(value, at + 1)


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _merge(hits: list[Hit]) -> list[Hit]:
    """Join hits that overlap into one, of the kind that comes first in KINDS."""
    merged: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, KINDS.index(hit.kind), -hit.end)):
        if merged and hit.start < merged[-1].end:
            last = merged.pop()
            kind = min(last.kind, hit.kind, key=KINDS.index)
            hit = Hit(kind, last.start, max(last.end, hit.end), last.certain or hit.certain)
        merged.append(hit)
    return merged


class Numbering:
    """The placeholders of one record: the same value has the same one in all its texts, and none is given out twice."""

    def __init__(self, *texts: str, context: Sequence[str] = ()) -> None:
        """Take a record's texts; `context` is searched with them, but its placeholders are numbered already."""
        self._texts = (*texts, *context)
        self._found = dict(zip(self._texts, find_all(self._texts), strict=True))
        self._language = 0 if any(_HAN.search(text) for text in texts) else 1
        self._values: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for match in (match for text in texts for match in _PLACEHOLDER.finditer(text)):
            self._last[match[1]] = max(self._last[match[1]], int(match[2]))

    def hits(self, text: str) -> list[Hit]:
        """The hits of a text, with what the record's other texts tell."""
        return self._found[text] if text in self._found else find_all([text, *self._texts])[0]

    def placeholder(self, kind: str, value: str) -> str:
        """The placeholder of a value; one that differs in width, case, separators or country code alone is the same value."""
        key = kind, _canonical(kind, value)
        if key not in self._values:
            name = _PLACEHOLDERS[kind][self._language]
            self._last[name] += 1
            self._values[key] = f"[{name}{self._last[name]}]"
        return self._values[key]


def _canonical(kind: str, value: str) -> str:
    value = _INVISIBLE.sub("", value).translate(_FOLD).lower()
    if kind in ("name", "address"):
        return value
    value = re.sub(r"[\s()-]", "", value)
    return re.sub(r"^(?:\+|00)?86(?=1\d{10}$)", "", value) if kind == "mobile" else value


def placeholders(text: str) -> list[str]:
    """The placeholders that a text holds, in its order."""
    return [match[0] for match in _PLACEHOLDER.finditer(text)]


def mask(text: str, numbering: Numbering) -> str:
    """Replace every hit by its placeholder, certain or not, and touch nothing else; masking again changes nothing."""
    return replace_hits(text, [(hit, numbering.placeholder(hit.kind, text[hit.start : hit.end])) for hit in numbering.hits(text)])


def masked(text: str) -> str:
    """Mask a text on its own: what reports and pages show."""
    return mask(text, Numbering(text))


def mask_record(record: Record) -> tuple[Record, dict[str, int]]:
    """Mask a record's texts and count the hits of each rule, in order of RULES; uncertain hits count under REVIEW too."""
    texts = [getattr(record, name) for name in TEXT_FIELDS]
    numbering = Numbering(*texts)
    hits = [hit for text in texts for hit in numbering.hits(text)]
    if not hits:
        return record, {}
    counts = Counter(hit.rule for hit in hits) + Counter(REVIEW for hit in hits if not hit.certain)
    changed = {name: mask(text, numbering) for name, text in zip(TEXT_FIELDS, texts, strict=True)}
    return replace(record, **changed), {rule: counts[rule] for rule in (*RULES, REVIEW) if counts[rule]}


def find_record(record: Record) -> list[Found]:
    """Say what a record holds, rule by rule, certain hits first; safe for the ledger."""
    hits = dict(zip(TEXT_FIELDS, find_all([getattr(record, name) for name in TEXT_FIELDS]), strict=True))
    found = []
    for certain in (True, False):
        for rule in RULES:
            counts = {name: sum(hit.rule == rule and hit.certain is certain for hit in some) for name, some in hits.items()}
            places = ", ".join(f"{name} × {count}" for name, count in counts.items() if count)
            if places:
                found.append(Found(rule if certain else REVIEW, certain, places if certain else f"{rule}: {places}"))
    return found
