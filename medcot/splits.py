"""Train, val and test by a hash of the question alone, and the rows that must go so that no near-duplicates straddle.

A row's split is a function of the seed and the skeleton of its question: its matching key without numbers, units, negation,
laterality and sex. So it never moves, whatever other rows come or go, and a case that differs from another only in a dose or
a negation lies in the same split by construction. What is left are verified near-duplicates with differing skeletons; where
such a pair straddles, one row of it is refused.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from medcot.facts import FUNCTION, KINDS, OPPOSED, UNITS
from medcot.guard import WORDING
from medcot.ledger import read_frame
from medcot.matching import SEPARATORS, SIGNS, atoms, matching_key

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SAME_TEXT = 0.8  # Jaccard from which even another question about a case gives its text away


# Atoms in which variants of one case differ: the guard's opposites, negations, units and function words, and what goes with them.
_VARIANT = {word for pair in OPPOSED for word in pair} | KINDS.keys() | UNITS | FUNCTION | set(SIGNS + SEPARATORS)
_VARIANT |= {*"认伴侧性男女零〇", "has", "have", "had", "old", "reports", "reported"}


class Pair(NamedTuple):
    """Two rows that dedup verified as near-duplicates; similarity is their exact Jaccard in [0, 1]."""

    a: str
    b: str
    similarity: float


class Bridge(NamedTuple):
    """A refused row, and the surviving-or-earlier-refused near-duplicate in another split that it was refused for."""

    id: str
    related_id: str
    similarity: float


def read_pairs(path: Path) -> list[Pair]:
    """Read dedup's near-duplicate pairs; a pair of which one row is gone has no effect.

    Two questions in one frame, or two questions about one case, are no near-duplicates unless nearly all of their text is shared.
    """
    frame = read_frame(path, ("a", "b", "jaccard", "verdict", "detail"), "dedup")
    one_frame = pl.col("verdict").eq("similar") | (pl.col("detail") == WORDING)
    near = frame.filter(~one_frame | (pl.col("jaccard") >= SAME_TEXT))
    return [Pair(a, b, float(similarity)) for a, b, similarity in near.select("a", "b", "jaccard").iter_rows()]


def skeleton(question: str) -> str:
    """Reduce a question to what its variants share, so that another dose, age, sex, side or a negation keeps the split.

    Too coarse is harmless here (unrelated questions may share a split), too fine is not.
    """
    key = matching_key(question)
    return " ".join(atom for atom in atoms(key) if atom not in _VARIANT and not atom.isdecimal()) or key


def split_of(skeleton: str, seed: int, val_ratio: float, test_ratio: float) -> Split:
    """Give a skeleton its split: a uniform hash in [0, 1), test below test_ratio, val in the val_ratio above it.

    Test comes first, so that another val_ratio moves no row into or out of test.
    """
    digest = hashlib.sha256(f"{seed}:{skeleton}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < test_ratio:
        return "test"
    return "val" if point < test_ratio + val_ratio else "train"


def find_bridges(splits: Mapping[str, Split], pairs: Iterable[Pair]) -> list[Bridge]:
    """Choose rows to refuse until no pair straddles two splits, in an order that depends on neither row nor pair order.

    First the rows whose near-duplicates lie in two or more splits: they are what ties the splits together, and refusing one of
    them spares several others. Then, of each pair left, the row of train before that of val before that of test: a test set
    that loses rows whenever training data is added would make every earlier result incomparable, a smaller train set does not.
    Ties go to the row with most straddling pairs, then to the lower id.
    """
    graph = _neighbours(splits, pairs)

    def rank(row: str) -> tuple[bool, int, int, str] | None:
        across = [other for other in graph[row] if splits[other] != splits[row]]
        if not across:
            return None
        ties_splits = len({splits[other] for other in graph[row]}) > 1
        return not ties_splits, SPLITS.index(splits[row]), -len(across), row

    heap = [key for key in map(rank, graph) if key is not None]
    heapq.heapify(heap)
    bridges = []
    while heap:
        key = heapq.heappop(heap)
        row = key[-1]
        now = rank(row)
        if now is None:
            continue
        if now != key:  # ranks only fall as neighbours go, so a stale entry goes back and waits for its turn
            heapq.heappush(heap, now)
            continue
        related = min(other for other in graph[row] if splits[other] != splits[row])
        bridges.append(Bridge(row, related, graph[row][related]))
        for other in graph.pop(row):
            del graph[other][row]
    return sorted(bridges)


def _neighbours(splits: Mapping[str, Split], pairs: Iterable[Pair]) -> dict[str, dict[str, float]]:
    """The near-duplicates of each row and their similarity; pairs with a row that is not there are left out."""
    graph: dict[str, dict[str, float]] = {}
    for a, b, similarity in pairs:
        if a in splits and b in splits and a != b:
            for one, other in ((a, b), (b, a)):
                known = graph.setdefault(one, {})
                known[other] = max(similarity, known.get(other, 0.0))
    return graph
