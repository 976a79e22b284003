"""What follows from contamination: rows leave together with their near-duplicates, and every benchmark item gets its mark.

A row that is as good as a copy of a hit row would teach the same item, so whole clusters leave. A curator's decision keeps its row
and nothing else. The marks are for the evaluation, which reports contaminated and clean items apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from medcot.benchmarks import Item
from medcot.contamination import Hit
from medcot.ledger import Event
from medcot.records import Record
from medcot.splits import Pair

RULES = ("contaminated", "contaminated_cluster")
HIT_SCHEMA = {"id": pl.String, "benchmark": pl.String, "item": pl.String, "how": pl.String} | {
    "similarity": pl.Float64,
    "detail": pl.String,
    "kept": pl.Boolean,
}
ITEM_SCHEMA = {"benchmark": pl.String, "item": pl.String, "contaminated": pl.Boolean, "how": pl.String} | {
    "similarity": pl.Float64,
    "num_hits": pl.Int64,
    "num_kept": pl.Int64,
}


class Link(NamedTuple):
    """The hit row that a row is tied to, and their Jaccard where the two are neighbours."""

    hit: str
    similarity: float | None


@dataclass(frozen=True)
class Decontaminated:
    """Who stays, one event for every row that leaves or would have left, and the hits."""

    kept: list[str]
    events: list[Event]
    hits: list[Hit]

    @property
    def removed(self) -> list[str]:
        """Ids of the rows that leave."""
        return [event.id for event in self.events if event.action == "removed"]


def decontaminate(records: Sequence[Record], hits: Sequence[Hit], pairs: Iterable[Pair]) -> Decontaminated:
    """Remove the hit rows and their clusters, but for what a curator decided to keep.

    pairs  near-duplicates as splits.read_pairs gives them; one of which a row is gone has no effect
    """
    decided = {record.id for record in records if record.decision}
    best = best_hits(hits)
    present = {record.id for record in records}
    pairs = (pair for pair in pairs if {pair.a, pair.b} <= present)  # dedup lists its removed rows too
    events = [_event(row, "contaminated", _detail(hit), hit.item.key, hit.similarity, decided) for row, hit in best.items()]
    for row, (hit_row, similarity) in clusters(best, pairs).items():
        events.append(
            _event(row, "contaminated_cluster", f"near-duplicate of a row with {best[hit_row].item.key}", hit_row, similarity, decided)
        )
    events.sort(key=lambda event: event.id)
    gone = {event.id for event in events if event.action == "removed"}
    return Decontaminated([record.id for record in records if record.id not in gone], events, list(hits))


def _event(row: str, rule: str, detail: str, related: str, similarity: float | None, decided: set[str]) -> Event:
    if row in decided:
        return Event(row, "decontaminate", "flagged", rule, f"{detail}; kept by the curator", related, similarity)
    return Event(row, "decontaminate", "removed", rule, detail, related, similarity)


def _detail(hit: Hit) -> str:
    return f"{hit.how}; differs in {hit.detail}" if hit.detail else hit.how


def best_hits(hits: Iterable[Hit]) -> dict[str, Hit]:
    """Each row's surest hit."""
    best: dict[str, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (hit.id, hit.order)):
        best.setdefault(hit.id, hit)
    return best


def clusters(hit_rows: Iterable[str], pairs: Iterable[Pair]) -> dict[str, Link]:
    """The rows that pairs tie to a hit row, at any distance, each with the nearest hit row (of several, the lowest id)."""
    graph: dict[str, dict[str, float]] = {}
    for a, b, similarity in pairs:
        for one, other in ((a, b), (b, a)):
            known = graph.setdefault(one, {})
            known[other] = max(similarity, known.get(other, 0.0))
    root = {row: row for row in hit_rows}
    found: dict[str, Link] = {}
    wave = sorted(root)
    while wave:
        reached: dict[str, str] = {}
        for row in wave:
            for other in graph.get(row, {}):
                if other not in root:
                    reached[other] = min(root[row], reached.get(other, root[row]))
        root |= reached
        found |= {row: Link(hit, graph[row].get(hit)) for row, hit in reached.items()}
        wave = sorted(reached)
    return found


def hits_frame(result: Decontaminated) -> pl.DataFrame:
    """Every pair of a row and an item; no text."""
    kept = set(result.kept)
    rows = [(hit.id, hit.item.benchmark, hit.item.id, hit.how, hit.similarity, hit.detail, hit.id in kept) for hit in result.hits]
    return pl.DataFrame(rows, schema=HIT_SCHEMA, orient="row").sort("id", "benchmark", "item")


def items_frame(result: Decontaminated, items: Sequence[Item]) -> pl.DataFrame:
    """Every item with its mark, the surest way it was hit, and how many rows hit it and are still there; no text."""
    kept = set(result.kept)
    of_item: dict[str, list[Hit]] = {}
    for hit in result.hits:
        of_item.setdefault(hit.item.key, []).append(hit)
    return pl.DataFrame(list(_marks(items, of_item, kept)), schema=ITEM_SCHEMA, orient="row").sort("benchmark", "item")


def _marks(items: Sequence[Item], of_item: Mapping[str, Sequence[Hit]], kept: set[str]) -> Iterator[tuple[Any, ...]]:
    for item in items:
        hits = sorted(of_item.get(item.key, ()), key=lambda hit: (hit.order, hit.id))
        how, similarity = (hits[0].how, hits[0].similarity) if hits else (None, None)
        yield item.benchmark, item.id, bool(hits), how, similarity, len(hits), sum(hit.id in kept for hit in hits)


def summarise(result: Decontaminated, items: Sequence[Item]) -> dict[str, Any]:
    """Counts: num_input == num_kept + num_removed_*; and by benchmark how many of its items the rows contain."""
    rules = Counter(event.rule for event in result.events if event.action == "removed")
    contaminated = {hit.item.key: hit.item.benchmark for hit in result.hits}
    num_items, num_contaminated = Counter(item.benchmark for item in items), Counter(contaminated.values())
    return {
        "num_input": len(result.kept) + len(result.removed),
        "num_kept": len(result.kept),
        **{f"num_removed_{rule}": rules[rule] for rule in RULES},
        "num_kept_by_curator": len(result.events) - len(result.removed),
        "benchmark": {
            name: {"num_items": total, "num_contaminated": num_contaminated[name], "contaminated_rate": num_contaminated[name] / total}
            for name, total in sorted(num_items.items())
        },
    }
