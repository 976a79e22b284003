"""The guard: what two near-identical texts say differently, and whether that can be another case.

In medicine one character is another patient: 5 mg and 50 mg, left and right, with and without fever. Two keys are aligned, and each
differing place is read for facts: numbers, units, negations, laterality, sex, polarity. Facts that contradict each other, or that
stand on one side only, are differences. A fact overwritten by something that is no fact (an OCR slip) is a difference too, unless
the copy is damaged in many other places. In a short text every content word that differs counts, under the name `wording`, but for
a few slips of a single character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from medcot.matching import SEPARATORS, SIGNS, atoms

MIN_EQUAL_RUN = 2  # equal atoms that part two differing places; a shorter run between them makes them one place
OPPOSITE_REACH = 2  # opposites face each other when their positions in the two sides differ by at most this
LONG_INSERTION = 6  # atoms; a longer passage on one side only is further text, not a negated or turned statement
MIN_DAMAGE = 3  # other changed atoms, and at least as many as lost facts, that make the losses damage and not another statement
ATOMS_PER_SLIP = 30  # a text must be this long for each slip it is granted: in a short one a single character is the subject
SLIP_WORD = 6  # letters; two that differ in a shorter word make another word
WORDING = "wording"
MAX_FACING = 20  # atoms; in a longer rewritten passage opposites meet by chance, only numbers and units are compared

_OPPOSITES = {
    "laterality": "左/右/双 单/双 单/多 对/患 患/健 left/right/bilateral unilateral/bilateral ipsilateral/contralateral",
    "sex": "男/女 父/母 爷/奶 male/female man/woman men/women boy/girl boys/girls he/she his/her him/her father/mother son/daughter",
    "negation": "有/无 有/没 有/未 已/未 能/不 可/不 宜/忌 是/否 是/非 均/无 伴/无 with/without present/absent always/never",
    "polarity": """
        高/低 升/降 增/减 增/降 急/慢 上/下 前/后 内/外 阴/阳 轻/重 快/慢 大/小 长/短 多/少 深/浅 强/弱 早/晚 收/舒 缩/张 动/静 吸/呼 良/恶
        冷/热 寒/热 虚/实 加/减 开/闭 正/负 正/异 远/近 过/欠 同/异 生/死 初/经 原/继 亢/减 亢/低 酸/碱 甲/乙 首/末 入/出
        high/low higher/lower elevated/decreased elevated/reduced increase/decrease increased/decreased increases/decreases rise/fall
        acute/chronic upper/lower before/after anterior/posterior medial/lateral proximal/distal internal/external positive/negative
        mild/severe benign/malignant systolic/diastolic arterial/venous artery/vein normal/abnormal more/less large/small early/late
        primary/secondary acidosis/alkalosis most/least best/worst""",
}
# One word less or more is opposed too: hypertension and hypotension, compatible and incompatible.
_OPPOSED_PREFIXES = {
    "polarity": "hyper/hypo tachy/brady pre/post intra/extra supra/infra micro/macro poly/oligo homo/hetero endo/exo ab/ad",
    "negation": "/non /un /in /im /dis",
}
_TRENDS = "高 低 升 降 增 减 急 慢 high low elevated decreased increased reduced increase decrease acute chronic"
_NEGATIONS = "不 无 未 非 没 否 勿 忌 禁 拒 缺 no not without never denies denied deny neither nor none non absent negative cannot"
_UNITS = """
    mg ug ng pg kg g ml dl ul l cm mm nm m mmhg cmh2o kpa mmol umol nmol mol meq iu u h min s d week weeks month months year years bpm hp
    岁 年 月 周 次 片 粒 支 滴 倍 级 期 型 个 秒 名 例 度 % ‰ ° ℃"""
_NUMERALS = "一二两三四五六七八九十百千万半"
# Words in which a fact's character states no fact.
_NEUTRAL = re.compile(
    "以下|以上|下列|上述|如下|情况下|条件下|左右|大小|前往|目前|先前|内科|外科|不仅|不但|不过|无论|是否|能否|可否|非常|未来|除非|女士|男士"
)
# Words that may differ between two typings of one case.
_FUNCTION_CHARACTERS = (
    "的了着是在有为之其该此这那请问应当需要会将被由于对根据按照与和及并且而则若如果时以情况哪何什么怎样种项名位个例一患者人士"
)
_FUNCTION_WORDS = "a an the is are was were be been of to in on at for and which what who that this these it its please"


def _opposed_pairs(table: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, word, opposite) in both directions."""
    for kind, groups in table.items():
        for group in groups.split():
            words = group.split("/")
            yield from ((kind, one, other) for one in words for other in words if one != other)


FUNCTION = frozenset(_FUNCTION_CHARACTERS) | frozenset(_FUNCTION_WORDS.split())
OPPOSED = {(one, other): kind for kind, one, other in _opposed_pairs(_OPPOSITES)}
OPPOSED |= {(one, other): "number" for one in _NUMERALS for other in _NUMERALS if one != other}
OPPOSED_PREFIXES = list(_opposed_pairs(_OPPOSED_PREFIXES))
# What counts when it stands on one side only; 生, 动, 大 and their like are parts of too many other words.
KINDS = {one: kind for (one, _), kind in OPPOSED.items() if kind in ("laterality", "sex") and one not in FUNCTION}
KINDS |= dict.fromkeys(_TRENDS.split(), "polarity") | dict.fromkeys(_NEGATIONS.split(), "negation")
UNITS = frozenset(_UNITS.split())


class Difference(NamedTuple):
    """What two texts say differently: the kinds of facts, sorted, and the differing places as (text of one, text of the other)."""

    kinds: tuple[str, ...]
    places: tuple[tuple[str, str], ...]


class _Side:
    """One text as the guard reads it: its atoms, and for each the kind of fact it states, if any."""

    def __init__(self, key: str) -> None:
        self.atoms = atoms(key)
        line = "".join(atom if len(atom) == 1 else "\0" for atom in self.atoms)
        neutral = {position for match in _NEUTRAL.finditer(line) for position in range(*match.span())}
        self.kinds = [None if i in neutral else self._kind(i) for i in range(len(self.atoms))]
        self.neutral = neutral

    def _kind(self, i: int) -> str | None:
        atom = self.atoms[i]
        if atom.isdecimal() or atom in SEPARATORS:
            return "number"
        before = self.atoms[i - 1] if i else ""
        if atom in UNITS and (before.isdecimal() or before in UNITS):
            return "unit"
        return "number" if atom in SIGNS else KINDS.get(atom)

    def number(self, i: int) -> str:
        """The whole number, with its separators, that the atom at position i is part of."""
        start, end = i, i + 1
        while start and self.kinds[start - 1] == "number":
            start -= 1
        while end < len(self.atoms) and self.kinds[end] == "number":
            end += 1
        return "".join(self.atoms[start:end])

    def says(self, positions: Sequence[int]) -> bool:
        """Whether there is a content word at any of these positions."""
        return any(i not in self.neutral and self.atoms[i] not in FUNCTION for i in positions)


@lru_cache(maxsize=10_000)
def _read(key: str) -> _Side:
    return _Side(key)


def compare(a: str, b: str, strict_below: int) -> Difference:
    """Align two matching keys and name what they say differently; no kinds means that nothing that matters differs.

    strict_below  keys shorter than this many atoms must agree in every content word but for slips, else the kind is `wording`
    """
    left, right = _read(a), _read(b)
    strict = min(len(left.atoms), len(right.atoms)) < strict_below
    kinds: set[str] = set()
    damaged: list[str] = []
    places = list(_places(left.atoms, right.atoms))
    for ours, theirs in places:
        kinds |= _contradictions(left, ours, right, theirs)
        certain, doubtful = _losses(left, ours, right, theirs)
        kinds |= certain
        damaged += sorted(doubtful)
    changed = sum(max(len(ours), len(theirs)) for ours, theirs in places)
    if strict or changed - len(damaged) < max(MIN_DAMAGE, len(damaged)):
        kinds |= set(damaged)
    if strict and not kinds:
        said = [place for place in places if left.says(place[0]) or right.says(place[1])]
        slips = sum(_is_slip([left.atoms[i] for i in ours], [right.atoms[i] for i in theirs]) for ours, theirs in said)
        if slips < len(said) or slips * ATOMS_PER_SLIP > min(len(left.atoms), len(right.atoms)):
            kinds = {WORDING}
    shown = tuple((_show(left.atoms, ours), _show(right.atoms, theirs)) for ours, theirs in places)
    return Difference(tuple(sorted(kinds)), shown)


def _is_slip(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether a place may be a slip of typing: one character of a Chinese word, or two letters of a long word."""
    if max(len(ours), len(theirs)) > 1:
        return False
    one, two = "".join(ours), "".join(theirs)
    return max(len(one), len(two)) == 1 or (min(len(one), len(two)) >= SLIP_WORD and Levenshtein.distance(one, two) <= 2)


def _places(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the differing places of two atom sequences: the positions that differ in each, in order."""
    ours: list[int] = []
    theirs: list[int] = []
    for step in Levenshtein.opcodes(a, b):
        if step.tag != "equal":
            ours.extend(range(step.src_start, step.src_end))
            theirs.extend(range(step.dest_start, step.dest_end))
        elif (ours or theirs) and step.src_end - step.src_start >= MIN_EQUAL_RUN:
            yield ours, theirs
            ours, theirs = [], []
    if ours or theirs:
        yield ours, theirs


def _contradictions(left: _Side, ours: Sequence[int], right: _Side, theirs: Sequence[int]) -> set[str]:
    """The kinds of facts that stand on both sides of a place and are not the same."""
    if not ours or not theirs:
        return set()
    kinds: set[str | None] = set()
    sides = ((left, ours), (right, theirs))
    units = [[side.atoms[i] for i in where if side.kinds[i] == "unit"] for side, where in sides]
    # Whole numbers: in 45 and 54 the differing digits are a 4 on either side.
    numbers = [[side.number(i) for i in where if side.kinds[i] == "number"] for side, where in sides]
    kinds |= {kind for kind, (one, two) in (("unit", units), ("number", numbers)) if one and two and one != two}
    for i in ours if max(len(ours), len(theirs)) <= MAX_FACING else ():
        for j in theirs:
            if abs((i - ours[0]) - (j - theirs[0])) <= OPPOSITE_REACH:
                kinds.add(opposed(left.atoms[i], right.atoms[j]))
    return {kind for kind in kinds if kind}


def opposed(a: str, b: str) -> str | None:
    """The kind of fact in which two words are opposites (高 and 低, male and female, hyper- and hypotension), or None."""
    if (a, b) in OPPOSED:
        return OPPOSED[a, b]
    for kind, one, other in OPPOSED_PREFIXES:
        if a.startswith(one) and b.startswith(other) and len(a) > len(one) + 3 and a[len(one) :] == b[len(other) :]:
            return kind
    return None


def _losses(left: _Side, ours: Sequence[int], right: _Side, theirs: Sequence[int]) -> tuple[set[str], set[str]]:
    """The kinds of facts that one side of a place states and the other does not: differences in any text, and possible damage."""
    lost = {kind for i in ours if (kind := left.kinds[i])} ^ {kind for i in theirs if (kind := right.kinds[i])}
    if ours and theirs:
        return set(), lost
    if len(ours) + len(theirs) > LONG_INSERTION:
        return lost & {"number", "unit"}, set()
    return lost & {"number", "unit", "negation"}, lost - {"number", "unit", "negation"}


def _show(parts: Sequence[str], positions: Sequence[int]) -> str:
    """The text of a differing place; what lies between its differing atoms is part of it."""
    return "".join(parts[positions[0] : positions[-1] + 1]) if positions else ""
