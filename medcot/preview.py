"""What dedup would do at several thresholds, from one candidate search at the lowest of them and without running a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medcot.neardup import KeyIndex, KeyParams, Pair, Rank, survivors


class Counts(NamedTuple):
    """One threshold's outcome. The pairs are those compared by the key in question; all else is the outcome of all keys together."""

    pairs: int
    duplicates: int
    conflicts: int
    similar: int
    removed: int
    kept: int
    conflicts_kept: int
    largest_cluster: int


@dataclass(frozen=True, slots=True)
class Column:
    """A threshold, what comes of it, and the compared pairs that it only just lets in, the nearest to it first."""

    threshold: float
    counts: Counts
    nearest: list[Pair]


def preview(
    ids: Sequence[str],
    keys: Mapping[str, tuple[Sequence[str], KeyParams]],
    ranks: Sequence[Rank],
    seed: int,
    name: str,
    thresholds: Sequence[float],
    *,
    settled: Collection[str] = frozenset(),
) -> list[Column]:
    """De-duplicate at each threshold of the key `name`, in rising order; the other keys keep theirs. See `neardup.deduplicate`.

    The search at the lowest threshold finds at least CANDIDATE_RECALL of the pairs at any of them.
    """
    wanted = sorted(set(thresholds))
    lowered = {key: params.model_copy(update={"threshold": wanted[0]}) if key == name else params for key, (_, params) in keys.items()}
    indexes = [KeyIndex(key, texts, lowered[key], seed) for key, (texts, _) in keys.items()]
    columns = []
    for threshold in wanted:
        result = survivors(ids, [index.at(threshold) if index.name == name else index for index in indexes], ranks, settled)
        pairs = [pair for pair in result.pairs if pair.key == name]
        verdicts = Counter(pair.verdict for pair in pairs)
        counts = Counts(
            pairs=len(pairs),
            duplicates=verdicts["duplicate"],
            conflicts=verdicts["conflict"],
            similar=verdicts["similar"],
            removed=len(result.removals),
            kept=len(result.kept),
            conflicts_kept=len({(pair.a, pair.b) for pair in result.conflicts}),
            largest_cluster=result.largest_cluster,
        )
        columns.append(Column(threshold, counts, sorted(pairs, key=lambda pair: (pair.jaccard, pair.a, pair.b))))
    return columns
