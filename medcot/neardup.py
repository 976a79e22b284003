"""Exact and near-duplicates: candidates by MinHash, verified by exact Jaccard, guarded, and survivors with a kept witness.

Each row has one text per key, the first key being its identity. Rows are visited from the best rank to the worst, and a row is
removed only when a row already kept is its duplicate by one of the keys: equal there, or with exact Jaccard at or above the key's
threshold, aligned, and without a difference that the guard names – nor one that it names by another key, such as another dose in
the answer to the same question. So a chain of small steps does not swallow its far end, and the result depends on the texts and
ranks alone, never on the order of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from medcot.guard import WORDING
from medcot.key_index import KeyIndex, KeyParams, Search, Verdict
from medcot.records import canonical, short_hash

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
            if second == number or index.of_row[row] == index.of_row[other]:
                continue
            nearness = index.near.get(index.of_row[row], {}).get(index.of_row[other])
            if nearness is None and not index.params.min_alignment:
                continue  # this key asks nothing of texts that are not near
            objection = self._judge_by(second, row, other, nearness or 0.0)
            if nearness is None and objection.verdict != "duplicate":
                # Rows may share a long reasoning and ask different things.
                return replace(pair, verdict=objection.verdict, detail=f"{index.name}: {objection.detail}", places=objection.places)
            # Another word in the question alone is a slip when question, reasoning and answer agree as a whole.
            if nearness is not None and objection.verdict == "conflict" and objection.detail != WORDING:
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
