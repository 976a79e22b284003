"""What dedup would do at several thresholds, from one candidate search at the lowest of them and without running a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medcot.dedup_file import SEED, key_params, read_source
from medcot.dedup_params import DedupParams, compared
from medcot.dedup_params import ranks as record_ranks
from medcot.errors import DataError
from medcot.key_index import KeyIndex, KeyParams
from medcot.neardup import Pair, Rank, rank, survivors
from medcot.params import load_section
from medcot.records import assign_ids, read_records

NORMALIZED = Path("data/normalized")
STEPS = (-0.1, -0.05, 0.05, 0.1)  # from the threshold of now, where none are asked for
MANY_PERMUTATIONS = 512  # for the search below the threshold of now, so that a low threshold does not drown in candidates


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
    """A threshold, what comes of it, and the compared pairs that it lets in and the next threshold does not, the nearest to it first."""

    threshold: float
    counts: Counts
    nearest: list[Pair]


@dataclass(frozen=True, slots=True)
class Preview:
    """The columns, the threshold of now among them, and by id what a pair's row is called and the text that was compared."""

    current: float
    columns: list[Column]
    names: dict[str, str]
    texts: dict[str, str]


def preview_data(key: str, thresholds: Sequence[float]) -> Preview:
    """Preview the pipeline's own rows in data/normalized, by params.yaml; the key is `question` or `row`."""
    params = load_section("dedup", DedupParams)
    records = read_records(NORMALIZED)
    keys = compared(records, params)
    if key not in keys:
        raise DataError("--key", "no key of the pipeline", f"use {' or '.join(sorted(keys))}, or give a FILE", got=key)
    ids, decided = [record.id for record in records], {record.id for record in records if record.decision}
    wanted = _check(key, keys[key][1], thresholds)
    columns = preview(ids, keys, record_ranks(records), params.seed, key, wanted, settled=decided)
    return Preview(keys[key][1].threshold, columns, {row_id: row_id for row_id in ids}, dict(zip(ids, keys[key][0], strict=True)))


def preview_file(file: Path, key: str, thresholds: Sequence[float]) -> Preview:
    """Preview one file as `medcot dedup FILE` compares it; rows are called by their place in the file, from 1."""
    source, params = read_source(file, [key]), key_params(key, {})
    ids, texts = assign_ids(source.hashes), source.texts[key]
    joined = ["\n".join(parts) for parts in texts]
    ranks = [rank(parts, row_id) for parts, row_id in zip(texts, ids, strict=True)]
    columns = preview(ids, {key: (joined, params)}, ranks, SEED, key, _check(key, params, thresholds))
    names = {row_id: f"#{number}" for row_id, number in zip(ids, source.numbers, strict=True)}
    return Preview(params.threshold, columns, names, dict(zip(ids, joined, strict=True)))


def _check(key: str, params: KeyParams, thresholds: Sequence[float]) -> list[float]:
    """The thresholds that are asked for, else some around the one of now, and that one; DataError for one out of bounds."""
    around = [value for step in STEPS if 0 < (value := round(params.threshold + step, 4)) <= 1]
    for value in thresholds:
        key_params(key, {"threshold": value})
    return sorted({*(thresholds or around), params.threshold})


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
    searched = {key: params for key, (_, params) in keys.items()}
    if wanted[0] != (params := searched[name]).threshold:
        changed = {"threshold": wanted[0], "num_perm": max(params.num_perm, MANY_PERMUTATIONS)}
        searched[name] = params.model_copy(update=changed)
    indexes = [KeyIndex(key, texts, searched[key], seed) for key, (texts, _) in keys.items()]
    columns = []
    for threshold, following in zip(wanted, [*wanted[1:], 2.0], strict=True):
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
        nearest = sorted((pair for pair in pairs if pair.jaccard < following), key=lambda pair: (pair.jaccard, pair.a, pair.b))
        columns.append(Column(threshold, counts, nearest))
    return columns
