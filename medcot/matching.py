"""The lossy matching key and its shingles, for Chinese, English and mixed text. Neither is ever written out as data.

The key forgets what does not matter when one case is typed twice: case, width, punctuation, spaces, HTML tags, spellings of a
unit, Chinese or Arabic numerals before a measure word. It remembers every number with its separators, superscripts of numbers,
signs, comparisons and negations: 3.5 is not 35, 10⁹ not 109, 5-10 not 510, (+) not (-), ≥ not ≤.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

HASH_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
# Han with its extensions and radicals, kana, bopomofo, hangul: no spaces between words, so each character is a token.
WIDE_RANGES = (
    (0x1100, 0x11FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3041, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip
SIGNS = "+−±<>≥≤%‰°℃↑↓→"  # tokens of their own; "−" is a minus sign, told from hyphens and dashes by `_fold_signs`
SEPARATORS = ".,:/×^-"  # kept between two digits only

_WIDE = "".join(f"{chr(low)}-{chr(high)}" for low, high in WIDE_RANGES)
_NUMBER = r"[0-9]+(?:(?:[.,:/×-]|\^[−+]?)[0-9]+)*"
_WORD = rf"[^\s0-9{_WIDE}{SIGNS}{re.escape(SEPARATORS)}]"
TOKEN = re.compile(rf"(?:{_NUMBER}|{_WORD})+|[{_WIDE}{SIGNS}]")
_RUN = re.compile(rf"(?:{_NUMBER}|{_WORD})+|[{_WIDE}{SIGNS}]+")
ATOM = re.compile(rf"[0-9{re.escape(SEPARATORS)}]|{_WORD}+|[{_WIDE}{SIGNS}]")

_BLOCK_TAG = re.compile(r"</?(?:p|br|div|li|ul|ol|tr|td|th|table|tbody|img)(?:\s[^<>]*)?/?>", re.I)
_SUPERSCRIPT_TAG = re.compile(r"<sup>\s*([0-9+\-−]+)\s*</sup>", re.I)
_INLINE_TAG = re.compile(r"</?(?:sub|sup|b|i|u|em|strong|span|font|a)(?:\s[^<>]*)?/?>", re.I)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_ENCLOSED = re.compile("[¼-¾⅐-⅞①-⒛㈠-㈩㊀-㊉❶-➓]")  # NFKC would glue their digits to a neighbouring number

_ONE_CHARACTER_VARIANTS = str.maketrans("燥粘査−–—―‐‑‒~〜∼≧≦✕╳*μ⁄", "躁黏查----------≥≤×××u/")
_DIGIT_VALUES = {
    char: value for value, chars in enumerate(("零〇", "一", "二两", "三", "四", "五", "六", "七", "八", "九")) for char in chars
}
_POWERS = {"十": 10, "百": 100, "千": 1000, "万": 10_000}
# 一 before 名, 位, 例 or 个 alone is an article and stays as it is.
_NUMERAL = re.compile(r"[零〇一二两三四五六七八九十百千万]+(?=年|岁|天|周|日(?!咳)|个?月|个?小时|分钟|秒|次(?!性)|片|粒|支|滴|倍|级|期|型)")
_AFTER_NUMBER = {
    "mg": r"毫克|milligrams?", "ug": r"微克|mcg|micrograms?", "kg": r"千克|公斤|kilograms?", "g": r"克(?![氏隆罗拉林雷])|grams?",
    "ml": r"毫升|millilit(?:er|re)s?", "l": r"升(?![高至到压])|lit(?:er|re)s?", "cm": r"厘米|公分", "mmhg": r"毫米汞柱", "mm": r"毫米",
    "kpa": r"千帕", "℃": "摄氏度", "h": r"个?小时|hours?|hrs?", "min": r"分钟|minutes?|mins?", "d": r"天|日|days?",
    "week": r"weeks?|wks?", "month": r"months?", "year": r"years?|yrs?",
}  # fmt: skip
_AFTER_SLASH = {"min": r"分钟?|minutes?", "h": r"小时|hours?|hr", "d": r"天|日|days?", "ml": r"毫升", "l": r"升"}
_UNIT_AFTER_NUMBER = re.compile(rf"(?<=[0-9])\s*(?:{'|'.join(f'({spelling})' for spelling in _AFTER_NUMBER.values())})(?![a-z])")
_UNIT_AFTER_SLASH = re.compile(rf"/\s*(?:{'|'.join(f'({spelling})' for spelling in _AFTER_SLASH.values())})(?![a-z])")


class _Punctuation(dict[int, int]):
    """A translation table that blanks punctuation, symbols, spaces and controls, filled in as characters turn up."""

    def __missing__(self, point: int) -> int:
        char = chr(point)
        keep = unicodedata.category(char)[0] in "LNM" or char in SIGNS or char in SEPARATORS
        self[point] = point if keep else 0x20
        return self[point]


_PUNCTUATION = _Punctuation()


def matching_key(text: str) -> str:
    """The text as the comparison sees it: tokens without what does not matter, a space only between two words.

    A text that holds nothing but punctuation is its own key, so that two such texts are equal only when they are.
    """
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _INLINE_TAG.sub("", _SUPERSCRIPT_TAG.sub(lambda match: _raised(match[1]), _BLOCK_TAG.sub(" ", text)))
    text = _SUPERSCRIPT.sub(lambda match: _raised(match[0]), text)
    text = _ENCLOSED.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", text)
    folded = unicodedata.normalize("NFKC", text).lower().translate(_ONE_CHARACTER_VARIANTS)
    folded = folded.replace("病人", "患者").replace("°c", "℃")
    return _join(_fold_units(_fold_signs(folded)).translate(_PUNCTUATION)) or text.strip()


def tokens(key: str) -> list[str]:
    """A key's tokens: one per Han, kana or hangul character or sign, one per run of other letters and digits."""
    return TOKEN.findall(key)


def atoms(key: str) -> list[str]:
    """A key's smallest parts, which the guard aligns: tokens with each digit and separator on its own and letters apart."""
    return ATOM.findall(key)


def _raised(chars: str) -> str:
    """A superscript: `^` before an exponent, a charge (HCO₃⁻) as the sign it is."""
    plain = unicodedata.normalize("NFKC", chars)
    return f"^{plain}" if any(char.isdigit() for char in plain) else f"{plain} "


def _fold_signs(text: str) -> str:
    """Keep a superscript's mark after a digit, give ranges one dash, and tell a minus sign from a hyphen."""
    text = re.sub(r"(?<![0-9)])\^", "", text).replace("^-", "^−")
    text = re.sub(r"\+\s?/\s?-", "±", text).replace(">=", "≥").replace("<=", "≤")
    text = re.sub(r"(?<=[0-9])(?:\s*([/x×])\s*|-+|\s+-+\s+)(?=[0-9])", lambda match: {"x": "×", None: "-"}.get(match[1], match[1]), text)
    text = re.sub(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])", lambda match: match[0].replace(",", ""), text)
    minus = r"(?<=\()\s*-\s*(?=\))|(?<![0-9-])-(?=[0-9])|(?<=[a-z0-9)])-(?=[\s,;:)、。/]|$)"
    return re.sub(minus, "−", text)


def _fold_units(text: str) -> str:
    text = _NUMERAL.sub(lambda match: str(_numeral(match[0])), text)
    after_number, after_slash = list(_AFTER_NUMBER), list(_AFTER_SLASH)
    text = _UNIT_AFTER_NUMBER.sub(lambda match: after_number[(match.lastindex or 1) - 1], text)
    text = _UNIT_AFTER_SLASH.sub(lambda match: "/" + after_slash[(match.lastindex or 1) - 1], text)
    return re.sub(
        r"(?<=[0-9])\s+(?=(?:[mukn]?g|[mud]?l|[mcn]?m|mmhg|kpa|mmol|umol|iu|u|h|min|d|week|month|year|kg|bpm)(?![a-z]))", "", text
    )


def _numeral(chars: str) -> int:
    """The value of a Chinese numeral: 十二 is 12, 一百二十 is 120, 二〇二四 is 2024."""
    if not any(char in _POWERS for char in chars):
        return int("".join(str(_DIGIT_VALUES[char]) for char in chars))
    total, section, digit = 0, 0, 0
    for char in chars:
        if char == "万":
            total, section, digit = (total + section + digit) * 10_000, 0, 0
        elif char in _POWERS:
            section, digit = section + (digit or 1) * _POWERS[char], 0
        else:
            digit = _DIGIT_VALUES[char]
    return total + section + digit


def _join(text: str) -> str:
    parts: list[str] = []
    after_word = False
    for run in _RUN.findall(text):
        is_word = not _SINGLE[ord(run[0])]
        parts.append(f" {run}" if is_word and after_word else run)
        after_word = is_word
    return "".join(parts)


def _single_table() -> npt.NDArray[np.bool_]:
    table = np.zeros(0x110000, dtype=np.bool_)
    for low, high in WIDE_RANGES:
        table[low : high + 1] = True
    table[[ord(char) for char in SIGNS]] = True
    return table


_SINGLE = _single_table()


def shingles(key: str, size: int) -> npt.NDArray[np.uint64]:
    """The sorted, distinct 64-bit hashes of the key's runs of `size` tokens; a shorter key is one shingle.

    The hash depends on the characters alone: equal on every machine, in every process.
    """
    hashes = _token_hashes(key)
    size = min(size, len(hashes))
    count = len(hashes) - size + 1
    rolled = np.full(count, size, dtype=np.uint64)
    for offset in range(size):
        rolled = rolled * HASH_PRIME + hashes[offset : offset + count]
    return np.unique(mix(rolled))


def _token_hashes(key: str) -> npt.NDArray[np.uint64]:
    """One 64-bit hash a token, in order; a polynomial over its characters."""
    points = np.frombuffer(key.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    space = points == 0x20
    word = ~(_SINGLE[points] | space)
    starts = ~space
    starts[1:] &= ~(word[1:] & word[:-1])
    kept = ~space
    first = np.flatnonzero(starts[kept])
    position = np.arange(int(kept.sum())) - np.repeat(first, np.diff(np.append(first, int(kept.sum()))))
    powers = np.full(int(position.max(initial=0)) + 1, HASH_PRIME, dtype=np.uint64).cumprod(dtype=np.uint64)
    terms = (points[kept].astype(np.uint64) + np.uint64(1)) * powers[position]
    return mix(np.add.reduceat(terms, first)) if len(first) else np.zeros(1, dtype=np.uint64)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """MurmurHash3's 64-bit finaliser, element by element: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def jaccards(sets: Sequence[npt.NDArray[np.uint64]], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Exact Jaccard similarity, in [0, 1], of each pair (n, 2) of positions in `sets`, which hold shingles.

    The sets in question become rows of a sparse 0/1 matrix over their distinct shingles, so that a product counts what is shared.
    """
    used, position = np.unique(pairs, return_inverse=True)
    if not len(used):
        return np.zeros(0)
    lengths = np.array([len(sets[i]) for i in used])
    vocabulary, columns = np.unique(np.concatenate([sets[i] for i in used]), return_inverse=True)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    matrix = csr_matrix((np.ones(len(columns), dtype=np.int32), columns, starts), shape=(len(used), len(vocabulary)))
    first, second = position.reshape(-1, 2).T
    shared = np.asarray(matrix[first].multiply(matrix[second]).sum(axis=1)).ravel()
    return np.asarray(shared / (lengths[first] + lengths[second] - shared))
