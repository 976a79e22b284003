"""Which texts of one column are near each other: distinct matching keys, their near pairs by exact Jaccard, and the verdict on each.

A near pair is a duplicate when its keys align and the guard finds no other fact, a conflict when it finds one, and only similar
otherwise. medcot/neardup.py decides from several such columns which rows stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from rapidfuzz.distance import Indel

from medcot.canaries import plant, summarise
from medcot.engine import find
from medcot.facts import has_subject
from medcot.guard import Difference, compare
from medcot.matching import CHOICE_MARK, matching_key, stem
from medcot.minhash import reliable_from
from medcot.params import Params
from medcot.similarity import Texts

LONG = 1024  # bytes; a longer text says so much that what a key forgets makes little difference to its similarity
Verdict = Literal["duplicate", "conflict", "similar"]


class KeyParams(Params):
    """How near-duplicates are found by one key."""

    shingle_size: int = Field(ge=1, le=20)
    """Tokens a shingle, 1 to 20; small for short texts, where one change spoils many long shingles."""
    threshold: float = Field(gt=0, le=1)
    """Exact Jaccard of the shingle sets from which two texts are near, 0 to 1; raising it finds fewer pairs."""
    min_alignment: float = Field(ge=0, le=1)
    """Normalised indel similarity of the matching keys that duplicates must reach too, 0 to 1; raising it keeps more rows."""
    strict_below: int = Field(ge=0, le=1_000_000)
    """Texts shorter than this many tokens must agree in every content word, but for slips of one character; raising it keeps more rows."""
    num_perm: int = Field(128, ge=16, le=4096)
    """Permutations of the signature; a low threshold needs more of them, or useless candidates cost time."""


QUESTION = KeyParams(shingle_size=3, threshold=0.5, min_alignment=0.8, strict_below=100_000, num_perm=512)
ROW = KeyParams(shingle_size=5, threshold=0.8, min_alignment=0.0, strict_below=200, num_perm=128)


@dataclass(frozen=True, slots=True)
class Search:
    """What a candidate search says of itself: the recall of its canaries, and the similarities of pairs too far apart to be decided."""

    canaries: dict[str, float | int]
    below: list[float]


def _is_long(text: str) -> bool:
    """Whether a text is shingled as it stands; one that brings along the mark of a key's choices has to become a key."""
    size = len(text) if 3 * len(text) < LONG or len(text) >= LONG else len(text.encode("utf-8", "surrogatepass"))
    return size >= LONG and CHOICE_MARK not in text


class KeyIndex:
    """The distinct matching keys of one column, and which of them are near each other.

    A long text is shingled as it stands, and its matching key is made only when another text is near: see LONG.
    """

    def __init__(self, name: str, texts: Sequence[str], params: KeyParams, seed: int, canaries: int = 0) -> None:
        self.name, self.params = name, params
        number: dict[str, int] = {}
        items = [number.setdefault(text if _is_long(text) else matching_key(text), len(number)) for text in texts]
        self._forms = list(number)
        self._keys: dict[int, str] = {}
        planted = plant(self._forms, params.shingle_size, params.threshold, canaries, seed)
        found: set[int] = set()
        below: list[float] = []
        pairs: list[tuple[int, int, float]] = []
        searched = [*self._forms, *(canary.key for canary in planted)]
        for a, b, similarity in near_pairs(searched, params, seed, reliable_from(params.threshold, params.num_perm)):
            if b >= len(self._forms):
                if a == planted[b - len(self._forms)].original:
                    found.add(b - len(self._forms))
            elif similarity < params.threshold:
                below.append(similarity)
            else:
                pairs.append((a, b, similarity))
        node = self._merge({a for a, _, _ in pairs} | {b for _, b, _ in pairs})
        self.of_row = [node.get(item, item) for item in items]
        self.near: dict[int, dict[int, float]] = {}
        for a, b, similarity in pairs:
            a, b = node[a], node[b]
            if a != b:  # two typings of one key may differ in their similarity to a third text: the nearer one counts
                ours, theirs = self.near.setdefault(a, {}), self.near.setdefault(b, {})
                ours[b] = theirs[a] = max(similarity, ours.get(b, 0.0))
        self.judged: dict[tuple[int, int], tuple[float, Verdict, Difference]] = {}
        self.search = Search(summarise(planted, found, params.threshold), sorted(below))

    def _merge(self, touched: Collection[int]) -> dict[int, int]:
        """One number for all forms that have the same key, out of those that have a near one."""
        first: dict[str, int] = {}
        return {item: first.setdefault(self.key(item), item) for item in sorted(touched)}

    def key(self, number: int) -> str:
        """The matching key of a text, by its number in of_row."""
        if number not in self._keys:
            form = self._forms[number]
            self._keys[number] = matching_key(form) if _is_long(form) else form
        return self._keys[number]

    def identifies(self, number: int) -> bool:
        """Whether a text tells its row from others: a question without a subject (该患者最可能的诊断是) is compared with none."""
        form = self._forms[number]
        return _is_long(form) or has_subject(form)

    def at(self, threshold: float) -> KeyIndex:
        """The same index as a search at a higher threshold would have found it; what has been judged is shared."""
        view = copy(self)
        view.near = {a: {b: value for b, value in others.items() if value >= threshold} for a, others in self.near.items()}
        return view

    def judge(self, a: int, b: int) -> tuple[float, Verdict, Difference]:
        """Align two near keys: (alignment, verdict, what differs)."""
        if (a, b) not in self.judged:
            self.judged[a, b] = self._judge(a, b)
        return self.judged[a, b]

    def _judge(self, a: int, b: int) -> tuple[float, Verdict, Difference]:
        alignment = Indel.normalized_similarity(stem(self.key(a)), stem(self.key(b)))
        if alignment < self.params.min_alignment:
            return alignment, "similar", Difference((), ())  # a shared frame; facts that do not face each other cannot contradict
        difference = compare(self.key(a), self.key(b), self.params.strict_below)
        return alignment, "conflict" if difference.kinds else "duplicate", difference


def near_pairs(keys: Sequence[str], params: KeyParams, seed: int, floor: float | None = None) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs of keys with exact Jaccard >= threshold, (first, second, jaccard), each once, first < second.

    floor  the Jaccard from which pairs are yielded, when it is not the threshold; the bands stay those of the threshold, so that of
           the pairs below it fewer are found the farther they lie below
    """
    texts, floor = Texts.of(map(stem, keys)), params.threshold if floor is None else floor
    for pairs, similarity in find(texts, params.shingle_size, params.threshold, params.num_perm, seed, floor):
        for (a, b), value in zip(pairs.tolist(), similarity.tolist(), strict=True):
            yield a, b, value
