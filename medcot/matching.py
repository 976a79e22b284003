"""The lossy matching key and its shingles, for Chinese, English and mixed text. Neither is ever written out as data.

The key forgets what does not matter when one case is typed twice: case, width, punctuation, spaces, HTML tags, spellings of a
unit, Chinese or Arabic numerals before a measure word. It remembers every number with its separators, superscripts of numbers,
signs, comparisons and negations: 3.5 is not 35, 10⁹ not 109, 5-10 not 510, (+) not (-), ≥ not ≤.

Choices that a text lists at its end (A. … B. … C. …) stand in the key behind the stem, sorted and without their letters: only the
stem is shingled, so that a question meets its copy without choices, and the guard compares the choices where both list them.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medcot.folding import fold_scan, fold_signs, fold_units, fold_words, split_choices
from medcot.kernels import BETWEEN_DIGITS, DIGIT, POINT_BITS, POINT_MASK, SEPARATOR, SINGLE, WORD

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
_STRAY_SEPARATOR = re.compile(r"(?<![0-9])[.,:/×^-]|[.,:/×-](?![0-9])|\^(?![−+]?[0-9])")
_SPACE_BY_WIDE = re.compile(rf" (?=[{_WIDE}{SIGNS}])|(?<=[{_WIDE}{SIGNS}]) ")
ATOM = re.compile(rf"[0-9{re.escape(SEPARATORS)}]|{_WORD}+|[{_WIDE}{SIGNS}]")

_BLOCK_TAG = re.compile(r"</?(?:p|br|div|li|ul|ol|tr|td|th|table|tbody|img)(?:\s[^<>]*)?/?>", re.I)
_SUPERSCRIPT_TAG = re.compile(r"<sup>\s*([0-9+\-−]+)\s*</sup>", re.I)
_INLINE_TAG = re.compile(r"</?(?:sub|sup|b|i|u|em|strong|span|font|a)(?:\s[^<>]*)?/?>", re.I)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_ENCLOSED = re.compile("[¼-¾⅐-⅞①-⒛㈠-㈩㊀-㊉❶-➓]")  # NFKC would glue their digits to a neighbouring number

_ONE_CHARACTER_VARIANTS = str.maketrans("燥粘査−–—―‐‑‒~〜∼≧≦✕╳*μ⁄", "躁黏查----------≥≤×××u/")
CHOICE_MARK = "\x1f"  # before each choice in a key; no text brings one along, since controls become spaces


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
    question, listed = split_choices(fold_words(fold_units(fold_signs(fold_scan(folded.replace("°c", "℃"))))))
    key = _join(question.translate(_PUNCTUATION)) or text.strip().replace(CHOICE_MARK, " ")
    return key + "".join(sorted(f"{CHOICE_MARK}{_join(choice.translate(_PUNCTUATION))}" for choice in listed))


def stem(key: str) -> str:
    """A key without the choices behind its stem: what is shingled and aligned."""
    return key.partition(CHOICE_MARK)[0]


def choices(key: str) -> list[str]:
    """The choices that a key lists, sorted."""
    return key.split(CHOICE_MARK)[1:]


def tokens(key: str) -> list[str]:
    """The tokens of a key's stem: one per Han, kana or hangul character or sign, one per run of other letters and digits."""
    return TOKEN.findall(stem(key))


def atoms(key: str) -> list[str]:
    """The smallest parts of a key's stem, which the guard aligns: tokens with each digit and separator on its own and letters apart."""
    return ATOM.findall(stem(key))


def _raised(chars: str) -> str:
    """A superscript: `^` before an exponent, a charge (HCO₃⁻) as the sign it is."""
    plain = unicodedata.normalize("NFKC", chars)
    return f"^{plain}" if any(char.isdigit() for char in plain) else f"{plain} "


def _join(text: str) -> str:
    """Drop separators that are not between digits and all spaces but those between two words."""
    return _SPACE_BY_WIDE.sub("", " ".join(_STRAY_SEPARATOR.sub(" ", text).split()))


@lru_cache(maxsize=1)
def fold_table() -> npt.NDArray[np.uint32]:
    """What the shingles see of each code point: its kind (see medcot/kernels.py) above its folded value, in 0x110000 entries.

    Case, width, compatible forms and variants fold as in the matching key, where they fold to one character. Superscripts and
    enclosed numbers stay what they are, so that 10⁹ is not 109.
    """
    table = np.zeros(0x110000, dtype=np.uint32)
    for low, high in WIDE_RANGES:
        table[low : high + 1] = np.arange(low, high + 1, dtype=np.uint32) | np.uint32(SINGLE << POINT_BITS)
    compatible = ((0x2E80, 0x2FE0), (0x3131, 0x318F), (0xF900, 0xFB00), (0x2F800, 0x2FA20))  # wide, with another form to fold to
    for point in (*np.flatnonzero(table[:0x20000] == 0).tolist(), *(p for low, high in compatible for p in range(low, high))):
        if point < 0xD800 or point >= 0xF900:
            table[point] = _entry(chr(point))
    for variant, folded in _ONE_CHARACTER_VARIANTS.items():
        if chr(variant) not in SIGNS:  # a minus sign in a key has been told from a hyphen
            table[variant] = table[ord(folded) if isinstance(folded, str) else folded]
    return table


def _entry(char: str) -> int:
    """One entry of the fold table."""
    category = unicodedata.category(char)[0]
    if category in "CZ":
        return SEPARATOR
    if _ENCLOSED.match(char):
        return SINGLE << POINT_BITS | ord(char)
    full = unicodedata.normalize("NFKC", char).lower()
    folded = char if _SUPERSCRIPT.match(char) or len(full) != 1 else full
    if folded in SIGNS or any(low <= ord(folded) <= high for low, high in WIDE_RANGES):
        kind = SINGLE
    elif folded in "0123456789":
        kind = DIGIT
    elif folded in SEPARATORS:
        kind = BETWEEN_DIGITS
    else:
        kind = WORD if any(unicodedata.category(c)[0] in "LNM" for c in (full if len(full) > 1 else folded)) else SEPARATOR
    return kind << POINT_BITS | ord(folded)


def shingles(text: str, size: int) -> npt.NDArray[np.uint64]:
    """The sorted, distinct 64-bit hashes of the runs of `size` tokens of a matching key, or of a long text as it stands.

    The hash depends on the folded characters alone: equal on every machine, in every process.
    """
    return np.unique(_shingle_hashes(text, size))


def fingerprint(text: str, size: int) -> int:
    """The sum of a text's shingle hashes: texts with other shingles have, but for chance, other sums."""
    return int(_shingle_hashes(text, size).sum(dtype=np.uint64))


def _shingle_hashes(text: str, size: int) -> npt.NDArray[np.uint64]:
    """One hash a shingle, in order; a text shorter than a shingle is one."""
    hashes = token_hashes(text)
    return rolled_hashes(hashes, min(size, len(hashes)))


def rolled_hashes(hashes: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
    """The hash of every run of `size` tokens, of which there must be that many, from the tokens' hashes."""
    count = len(hashes) - size + 1
    rolled = np.full(count, size, dtype=np.uint64)
    for offset in range(size):
        rolled = rolled * HASH_PRIME + hashes[offset : offset + count]
    return mix(rolled)


def token_hashes(text: str) -> npt.NDArray[np.uint64]:
    """One 64-bit hash a token, in order; a polynomial over its characters. A text without a token is one token, as it stands."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    entries = fold_table()[points]
    kind, folded = entries >> np.uint32(POINT_BITS), entries & np.uint32(POINT_MASK)
    digit, single = np.pad(kind == DIGIT, 1), kind == SINGLE
    word = (kind == WORD) | digit[1:-1] | ((kind == BETWEEN_DIGITS) & digit[:-2] & digit[2:])
    kept = word | single
    if not kept.any():
        word, kept, folded = np.ones_like(word), np.ones_like(kept), points
    starts = kept.copy()
    starts[1:] &= ~(word[1:] & word[:-1])
    first = np.flatnonzero(starts[kept])
    position = np.arange(int(kept.sum())) - np.repeat(first, np.diff(np.append(first, int(kept.sum()))))
    powers = np.full(int(position.max(initial=0)) + 1, HASH_PRIME, dtype=np.uint64).cumprod(dtype=np.uint64)
    terms = (folded[kept].astype(np.uint64) + np.uint64(1)) * powers[position]
    return mix(np.add.reduceat(terms, first)) if len(first) else np.zeros(1, dtype=np.uint64)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """MurmurHash3's 64-bit finaliser, element by element: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def jaccards(sets: Sequence[npt.NDArray[np.uint64]], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Exact Jaccard similarity, in [0, 1], of each pair (n, 2) of positions in `sets`, which hold distinct shingles."""
    shared = [len(np.intersect1d(sets[one], sets[other], assume_unique=True)) for one, other in pairs]
    return np.array([n / (len(sets[a]) + len(sets[b]) - n) for n, (a, b) in zip(shared, pairs, strict=True)], dtype=np.float64)
