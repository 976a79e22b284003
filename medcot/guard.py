"""The guard: what two near-identical texts say differently, and whether that can be another case.

In medicine one character is another patient: 5 mg and 50 mg, left and right, with and without fever. Two keys are aligned, and each
differing place is read for facts: numbers, units, negations, laterality, sex, polarity. Facts that contradict each other, or that
stand on one side only, are differences. A fact overwritten by something that is no fact (an OCR slip) is a difference too, unless
the copy is damaged in many other places. In a short text every content word that differs counts, under the name `wording`, but for
a few slips of a single character. Two questions that list other choices differ, too: what is right among five need not be among others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from medcot.facts import FUNCTION, KINDS, NEUTRAL, SECOND_PRESSURE, UNITS, has_subject, opposed
from medcot.matching import SEPARATORS, SIGNS, atoms, choices
from medcot.slips import MAY_BE_LOST, is_lookalike, is_respelling

MIN_EQUAL_RUN = 2  # equal atoms that part two differing places; a shorter run between them makes them one place
OPPOSITE_REACH = 2  # opposites face each other when their positions in the two sides differ by at most this
LONG_INSERTION = 6  # atoms; a longer passage on one side only is further text, not a negated or turned statement
LONG_REPLACEMENT = 4  # content words; a passage of so many that replaces another is no damage, however long the text
MIN_DAMAGE = 3  # other changed atoms, and at least as many as lost facts, that make the losses damage and not another statement
ATOMS_PER_LOSS = 30  # a text must be this long for each lost character that it is granted: in a short one that is the subject
ATOMS_PER_LOOKALIKE = 10  # and this long for each character taken for another, which hardly ever makes another word
MIN_REPETITION = 4  # atoms; a shorter passage may stand twice on purpose
MIN_MOVED = 3  # content words of a passage that stands elsewhere in the other text
WORDING = "wording"
CHOICES = "choices"
EVERY_WORD = 1_000_000  # `strict_below` that no text reaches
MAX_FACING = 20  # atoms; in a longer rewritten passage opposites meet by chance, only numbers and units are compared


class Difference(NamedTuple):
    """What two texts say differently: the kinds of facts, sorted, and the differing places as (text of one, text of the other)."""

    kinds: tuple[str, ...]
    places: tuple[tuple[str, str], ...]


_Place = tuple[list[int], list[int]]  # positions in the one text and in the other


class _Side:
    """One text as the guard reads it: its atoms, and the kind of fact that each states, read only where it is asked for."""

    def __init__(self, key: str) -> None:
        self.atoms = atoms(SECOND_PRESSURE.sub("", key))
        line = "".join(atom if len(atom) == 1 else "\0" for atom in self.atoms)
        self.neutral = {position: bool(match[1]) for match in NEUTRAL.finditer(line) for position in range(*match.span())}
        self.silent = {position for position, silent in self.neutral.items() if silent}

    def kind(self, i: int) -> str | None:
        """The kind of fact that the atom at position i states, or None."""
        if i in self.neutral:
            return None
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
        while start and self.kind(start - 1) == "number":
            start -= 1
        while end < len(self.atoms) and self.kind(end) == "number":
            end += 1
        return "".join(self.atoms[start:end])

    def passage(self, positions: Sequence[int]) -> tuple[str, ...]:
        """The content words at these positions; none where a number, a unit or a negation is among them."""
        if any(self.kind(i) in ("number", "unit", "negation") for i in positions):
            return ()
        return tuple(self.atoms[i] for i in positions if self.atoms[i] not in FUNCTION)

    def content(self, positions: Sequence[int]) -> int:
        """How many content words there are at these positions."""
        return sum(i not in self.silent and self.atoms[i] not in FUNCTION for i in positions)

    def says(self, positions: Sequence[int]) -> bool:
        """Whether there is a content word at any of these positions."""
        return self.content(positions) > 0


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
    places = [(o, t) for o, t in places if not (_is_repetition(left.atoms, o, t) or _is_repetition(right.atoms, t, o))]
    places = _without_moves(left, right, places)
    for ours, theirs in places:
        kinds |= _contradictions(left, ours, right, theirs)
        certain, doubtful = _losses(left, ours, right, theirs)
        kinds |= certain
        damaged += sorted(doubtful)
        fewer, more = sorted((left.content(ours), right.content(theirs)))
        if fewer and more >= LONG_REPLACEMENT:
            kinds.add(WORDING)  # damage is scattered: where a whole passage stands for another, something else is said or asked
    changed = sum(max(len(ours), len(theirs)) for ours, theirs in places)
    if strict or changed - len(damaged) < max(MIN_DAMAGE, len(damaged)):
        kinds |= set(damaged)
    if strict and not kinds:
        said = [place for place in places if left.says(place[0]) or right.says(place[1])]
        slips = [_slip([left.atoms[i] for i in ours], [right.atoms[i] for i in theirs]) for ours, theirs in said]
        if 0 in slips or sum(slips) > min(len(left.atoms), len(right.atoms)):
            kinds = {WORDING}
    if _other_choices(a, b):
        kinds |= {CHOICES}
    shown = tuple((_show(left.atoms, ours), _show(right.atoms, theirs)) for ours, theirs in places)
    return Difference(tuple(sorted(kinds)), shown)


def _other_choices(a: str, b: str) -> bool:
    """Whether two questions are told apart by what stands beside the stem: other choices, or a subject that neither names."""
    ours, theirs = choices(a), choices(b)
    if not ours or not theirs:
        return not (has_subject(a) and has_subject(b))
    return len(ours) != len(theirs) or (ours != theirs and bool(compare(" ".join(ours), " ".join(theirs), EVERY_WORD).kinds))


def _slip(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The atoms that a text must have to be granted this place as a slip: fewer for a look-alike or another spelling; 0 for no slip."""
    if max(len(ours), len(theirs)) > 1:
        return 0
    one, two = "".join(ours), "".join(theirs)
    if one and two:
        return ATOMS_PER_LOOKALIKE if is_lookalike(one, two) or is_respelling(one, two) else 0
    return ATOMS_PER_LOSS if one + two in MAY_BE_LOST else 0


def _is_repetition(atoms: Sequence[str], here: Sequence[int], there: Sequence[int]) -> bool:
    """Whether a passage that stands on one side only repeats the one beside it: it was written twice."""
    if there or len(here) < MIN_REPETITION or here[-1] - here[0] >= len(here):
        return False
    start, end = here[0], here[-1] + 1
    passage = atoms[start:end]
    return passage in (atoms[max(0, start - len(here)) : start], atoms[end : end + len(here)])


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


def _without_moves(left: _Side, right: _Side, places: Sequence[_Place]) -> list[_Place]:
    """The places but for passages that stand elsewhere in the other text: findings may be listed in another order.

    A passage with a number or a negation does not count as moved, since that may now belong to another word.
    """
    gone = Counter(left.passage(ours) for ours, theirs in places if not theirs)
    come = Counter(right.passage(theirs) for ours, theirs in places if not ours)
    moved = {passage for passage in gone.keys() & come.keys() if len(passage) >= MIN_MOVED and gone[passage] == come[passage]}
    return [(ours, theirs) for ours, theirs in places if (ours and theirs) or (left.passage(ours) or right.passage(theirs)) not in moved]


def _contradictions(left: _Side, ours: Sequence[int], right: _Side, theirs: Sequence[int]) -> set[str]:
    """The kinds of facts that stand on both sides of a place and are not the same."""
    if not ours or not theirs:
        return set()
    kinds: set[str | None] = set()
    sides = ((left, ours), (right, theirs))
    units = [[side.atoms[i] for i in where if side.kind(i) == "unit"] for side, where in sides]
    # Whole numbers: in 45 and 54 the differing digits are a 4 on either side.
    numbers = [[side.number(i) for i in where if side.kind(i) == "number"] for side, where in sides]
    kinds |= {kind for kind, (one, two) in (("unit", units), ("number", numbers)) if one and two and one != two}
    for i in ours if max(len(ours), len(theirs)) <= MAX_FACING else ():
        for j in theirs:
            if abs((i - ours[0]) - (j - theirs[0])) <= OPPOSITE_REACH:
                kinds.add(opposed(left.atoms[i], right.atoms[j]))
    return {kind for kind in kinds if kind}


def _losses(left: _Side, ours: Sequence[int], right: _Side, theirs: Sequence[int]) -> tuple[set[str], set[str]]:
    """The kinds of facts that one side of a place states and the other does not: differences in any text, and possible damage."""
    lost = {kind for i in ours if (kind := left.kind(i))} ^ {kind for i in theirs if (kind := right.kind(i))}
    if ours and theirs:
        looks = len(ours) == len(theirs) == 1 and is_lookalike(left.atoms[ours[0]], right.atoms[theirs[0]])
        return set(), lost & {"number", "negation"} if looks else lost
    if len(ours) + len(theirs) > LONG_INSERTION:
        return lost & {"number", "unit"}, set()
    if [left.atoms[i] for i in ours] + [right.atoms[i] for i in theirs] == ["岁"]:
        return set(), set()  # 女，20 and 女，20岁: an age all the same
    return lost & {"number", "unit", "negation"}, lost - {"number", "unit", "negation"}


def _show(parts: Sequence[str], positions: Sequence[int]) -> str:
    """The text of a differing place; what lies between its differing atoms is part of it."""
    return "".join(parts[positions[0] : positions[-1] + 1]) if positions else ""
