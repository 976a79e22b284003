"""Exact and near-duplicates: candidates by MinHash, verified by exact Jaccard, guarded, and survivors with a kept witness.

Each row has one text per key, the first key being its identity. Rows are visited from the best rank to the worst, and a row is
removed only when a row already kept is its duplicate by one of the keys: equal there, or with exact Jaccard at or above the key's
threshold, aligned, and without a difference that the guard names – nor one that it names by another key, such as another dose in
the answer to the same question. So a chain of small steps does not swallow its far end, and the result depends on the texts and
ranks alone, never on the order of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field
from rapidfuzz.distance import Indel

from medcot.canaries import plant, summarise
from medcot.engine import find
from medcot.facts import has_subject
from medcot.guard import WORDING, Difference, compare
from medcot.matching import CHOICE_MARK, matching_key, stem
from medcot.minhash import reliable_from
from medcot.params import Params
from medcot.records import canonical, short_hash
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
FINAL_PUNCTUATION = tuple("。！？；.!?;…)）]】」』”’\"'")

Rank = tuple[bool, int, str, str]


def rank(texts: Sequence[str], row_id: str) -> Rank:
    """The order in which rows are visited, smaller first: complete texts, then long ones, then by content, then by id."""
    complete = all(text.rstrip().endswith(FINAL_PUNCTUATION) for text in texts)
    return not complete, -sum(len(text.strip()) for text in texts), short_hash(canonical(list(texts))), row_id


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows verified as near by one key, ids in order, and what was decided.

    verdict  duplicate; conflict: a fact differs, `detail` names its kinds; similar: too far apart when aligned
    places   the differing places, (text in a, text in b), of the matching keys
    """

    a: str
    b: str
    key: str
    jaccard: float
    alignment: float
    verdict: Verdict
    detail: str
    places: tuple[tuple[str, str], ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Removal:
    """A removed row, the rule and key by which it goes, and the kept row that stands for it."""

    id: str
    rule: str
    key: str
    related_id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Search:
    """What a candidate search says of itself: the recall of its canaries, and the similarities of pairs too far apart to be decided."""

    canaries: dict[str, float | int]
    below: list[float]


@dataclass(frozen=True)
class Result:
    """Who stays, who goes and why, and every pair that was decided; all sorted by id."""

    kept: list[str]
    removals: list[Removal]
    pairs: list[Pair]
    searches: dict[str, Search] = field(default_factory=dict)  # by key

    @property
    def conflicts(self) -> list[Pair]:
        """The conflicts whose two rows are both kept: what a reviewer should see."""
        kept = set(self.kept)
        return [pair for pair in self.pairs if pair.verdict == "conflict" and pair.a in kept and pair.b in kept]

    @property
    def overruled(self) -> dict[tuple[str, str], dict[str, float]]:
        """The duplicates whose two rows both stay, since both are settled: (a, b) → Jaccard by key."""
        kept, found = set(self.kept), dict[tuple[str, str], dict[str, float]]()
        for pair in self.pairs:
            if pair.verdict == "duplicate" and pair.a in kept and pair.b in kept:
                found.setdefault((pair.a, pair.b), {})[pair.key] = pair.jaccard
        return found

    @property
    def largest_cluster(self) -> int:
        """The most rows that one kept row stands for, itself included; 0 without rows."""
        return 1 + max(Counter(removal.related_id for removal in self.removals).values(), default=0) if self.kept else 0


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


def deduplicate(
    ids: Sequence[str],
    keys: Mapping[str, tuple[Sequence[str], KeyParams]],
    ranks: Sequence[Rank],
    seed: int,
    canaries: int = 0,
    settled: Collection[str] = frozenset(),
) -> Result:
    """Remove every row that a kept row stands for.

    keys   name → (one text a row, its params); the first is the row's identity: equal there is `exact_copy`, equal by another key
           is `exact_<key>`, near by any is `near_duplicate`
    ranks  one a row, see rank; unique
    canaries  edited copies planted in the search by each key, see medcot.canaries
    settled   ids of rows that stay, see survivors
    """
    return survivors(ids, [KeyIndex(name, texts, params, seed, canaries) for name, (texts, params) in keys.items()], ranks, settled)


def survivors(ids: Sequence[str], indexes: Sequence[KeyIndex], ranks: Sequence[Rank], settled: Collection[str] = frozenset()) -> Result:
    """Visit the rows and decide; see deduplicate.

    settled  ids of rows that stay, whatever they resemble, and are visited first: a curator kept them, or an earlier run did
    """
    sweep = _Sweep(ids, indexes)
    first_of: dict[int, int] = {}
    met = _met(indexes, len(ids))
    for row in sorted(met, key=lambda row: (ids[row] not in settled, ranks[row])):
        first = first_of.setdefault(indexes[0].of_row[row], row)
        if first == row or ids[row] in settled:
            sweep.visit(row, stays=ids[row] in settled)
        else:
            sweep.copy(row, first)
    return Result(
        sorted(ids[row] for row in {*range(len(ids))} - {*met} | {*sweep.kept}),
        sorted(sweep.removed.values(), key=lambda removal: removal.id),
        sorted(sweep.pairs.values(), key=lambda pair: (pair.a, pair.b, pair.key)),
        {index.name: index.search for index in indexes},
    )


def _met(indexes: Sequence[KeyIndex], count: int) -> list[int]:
    """The rows that are equal or near to another by any key; all others stay, whatever their rank."""
    shared = [Counter(index.of_row) for index in indexes]
    return [row for row in range(count) if any(of[(n := i.of_row[row])] > 1 or n in i.near for of, i in zip(shared, indexes, strict=True))]


class _Sweep:
    """The visit of all rows, best rank first: what has been kept and removed so far."""

    def __init__(self, ids: Sequence[str], indexes: Sequence[KeyIndex]) -> None:
        self.ids, self.indexes = ids, indexes
        self.kept: dict[int, int] = {}  # row → the how-manieth kept row it is
        self.kept_at: list[dict[int, list[int]]] = [{} for _ in indexes]  # by key: number of the text → the kept rows that have it
        self.removed: dict[int, Removal] = {}
        self.pairs: dict[tuple[str, str, str], Pair] = {}

    def copy(self, row: int, first: int) -> None:
        """Remove a copy of a row that has been visited; a copy of a removed row has that row's witness."""
        gone = self.removed.get(first)
        name, related, similarity = (gone.key, gone.related_id, gone.similarity) if gone else (self.indexes[0].name, self.ids[first], 1.0)
        self.removed[row] = Removal(self.ids[row], "exact_copy", name, related, similarity)

    def visit(self, row: int, stays: bool = False) -> None:
        """Judge the row against every kept row equal or near by a key, the nearest first; remove it when one is its duplicate."""
        for number, other, similarity in self._candidates(row):
            pair = self._judge(number, row, other, similarity)
            self.pairs[pair.a, pair.b, pair.key] = pair
            if pair.verdict == "duplicate" and not stays:
                index = self.indexes[number]
                rule = f"exact_{index.name}" if index.of_row[row] == index.of_row[other] else "near_duplicate"
                self.removed[row] = Removal(self.ids[row], rule, index.name, self.ids[other], similarity)
                return
        self.kept[row] = len(self.kept)
        for index, kept_at in zip(self.indexes, self.kept_at, strict=True):
            if index.identifies(index.of_row[row]):
                kept_at.setdefault(index.of_row[row], []).append(row)

    def _candidates(self, row: int) -> list[tuple[int, int, float]]:
        """The kept rows equal or near by any key, as (number of the key, row, Jaccard), the nearest first."""
        found = []
        for number, index in enumerate(self.indexes):
            text = index.of_row[row]
            for other_text, similarity in ((text, 1.0), *index.near.get(text, {}).items()):
                found += [(other_text != text, -similarity, number, self.kept[o], o) for o in self.kept_at[number].get(other_text, ())]
        return [(number, other, -negative) for _, negative, number, _, other in sorted(found)]

    def _judge(self, number: int, row: int, other: int, similarity: float) -> Pair:
        """Judge by one key; a duplicate there must not state another fact in what any other key compares."""
        pair = self._judge_by(number, row, other, similarity)
        if pair.verdict != "duplicate":
            return pair
        for second, index in enumerate(self.indexes):
            nearness = index.near.get(index.of_row[row], {}).get(index.of_row[other])
            if second != number and nearness is not None:
                objection = self._judge_by(second, row, other, nearness)
                # Another word in the question alone is a slip when question, reasoning and answer agree as a whole.
                if objection.verdict == "conflict" and objection.detail != WORDING:
                    return objection
        return pair

    def _judge_by(self, number: int, row: int, other: int, similarity: float) -> Pair:
        """Judge in the order of the texts, so that neither ids nor ranks touch the alignment; report in the order of the ids."""
        index = self.indexes[number]
        one, two = sorted((row, other), key=lambda r: (index.key(index.of_row[r]), self.ids[r]))
        alignment, verdict, difference = index.judge(index.of_row[one], index.of_row[two])
        places, a, b = difference.places, self.ids[one], self.ids[two]
        if a > b:
            a, b, places = b, a, tuple((theirs, ours) for ours, theirs in places)
        detail = ", ".join(difference.kinds) or ("alignment" if verdict == "similar" else "")
        return Pair(a, b, index.name, similarity, alignment, verdict, detail, places)
