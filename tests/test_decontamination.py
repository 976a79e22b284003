"""What follows from a hit: whole clusters leave, a curator's decision stays, every item is marked, and the counts add up."""

from __future__ import annotations

import random

import pytest

from medcot.benchmarks import Item
from medcot.contamination import Hit, How
from medcot.decontamination import Link, clusters, decontaminate, hits_frame, items_frame, summarise
from medcot.ledger import Event
from medcot.records import Record
from medcot.splits import Pair

ITEMS = [Item("1", "cmexam", "问一"), Item("2", "cmexam", "问二"), Item("1", "medqa", "Why?")]


def records(ids: str, decided: str = "") -> list[Record]:
    return [Record(i, "test", f"问 {i}", "想", "答", decision="keep" if i in decided else None) for i in ids]


def hit(row: str, item: Item, how: How = "exact", similarity: float = 1.0, detail: str = "") -> Hit:
    return Hit(row, item, how, similarity, detail)


def test_a_hit_row_leaves_with_its_surest_item() -> None:
    hits = [hit("b", ITEMS[2], "near", 0.7, "number"), hit("b", ITEMS[0], "ngram", 0.6), hit("b", ITEMS[1], "ngram", 0.8)]
    result = decontaminate(records("abc"), hits, [])
    assert result.kept == ["a", "c"]
    assert result.events == [Event("b", "decontaminate", "removed", "contaminated", "ngram", "cmexam:2", 0.8)]


def test_the_detail_names_the_facts_that_differ() -> None:
    result = decontaminate(records("a"), [hit("a", ITEMS[2], "near", 0.7, "number, sex")], [])
    assert result.events[0].detail == "near; differs in number, sex"


def test_near_duplicates_of_a_hit_row_leave_at_any_distance_and_name_it() -> None:
    pairs = [Pair("a", "b", 0.9), Pair("c", "b", 0.6), Pair("d", "e", 0.9)]
    result = decontaminate(records("abcdef"), [hit("a", ITEMS[0])], pairs)
    assert result.kept == ["d", "e", "f"]
    near, far = result.events[1:]
    assert near == Event("b", "decontaminate", "removed", "contaminated_cluster", "near-duplicate of a row with cmexam:1", "a", 0.9)
    assert (far.id, far.related_id, far.similarity) == ("c", "a", None)


def test_the_nearest_hit_row_is_named_and_of_several_the_lowest() -> None:
    pairs = [Pair("m", "x", 0.5), Pair("m", "a", 0.5), Pair("m", "b", 0.8), Pair("m", "n", 0.9)]
    assert clusters(["a", "b", "x"], pairs) == {"m": Link("a", 0.5), "n": Link("a", None)}
    assert clusters([], pairs) == {}


def test_a_decision_keeps_its_own_row_and_nothing_else() -> None:
    pairs = [Pair("a", "b", 0.9), Pair("b", "c", 0.9)]
    result = decontaminate(records("abc", decided="ac"), [hit("a", ITEMS[0], "ngram", 0.6)], pairs)
    assert result.kept == ["a", "c"]
    assert [(event.id, event.action, event.rule) for event in result.events] == [
        ("a", "flagged", "contaminated"),
        ("b", "removed", "contaminated_cluster"),
        ("c", "flagged", "contaminated_cluster"),
    ]
    assert result.events[0].detail == "ngram; kept by the curator"
    assert (hits_frame(result)["kept"].to_list(), items_frame(result, ITEMS)["num_kept"].to_list()) == ([True], [1, 0, 0])


def test_every_item_is_marked_whether_hit_or_not() -> None:
    hits = [hit("a", ITEMS[0], "near", 0.6), hit("b", ITEMS[0], "exact"), hit("b", ITEMS[2], "ngram", 0.9)]
    result = decontaminate(records("abc"), hits, [])
    assert items_frame(result, ITEMS).rows() == [
        ("cmexam", "1", True, "exact", 1.0, 2, 0),
        ("cmexam", "2", False, None, None, 0, 0),
        ("medqa", "1", True, "ngram", 0.9, 1, 0),
    ]
    assert hits_frame(result).select("id", "benchmark", "item", "how").rows() == [
        ("a", "cmexam", "1", "near"),
        ("b", "cmexam", "1", "exact"),
        ("b", "medqa", "1", "ngram"),
    ]


def test_the_counts_add_up_and_each_benchmark_has_its_rate() -> None:
    hits = [hit("a", ITEMS[0]), hit("b", ITEMS[0]), hit("c", ITEMS[2])]
    metrics = summarise(decontaminate(records("abcdef", decided="c"), hits, [Pair("a", "d", 0.9)]), ITEMS)
    assert (metrics["num_input"], metrics["num_kept"], metrics["num_kept_by_curator"]) == (6, 3, 1)
    assert metrics["num_input"] == metrics["num_kept"] + metrics["num_removed_contaminated"] + metrics["num_removed_contaminated_cluster"]
    assert (metrics["num_removed_contaminated"], metrics["num_removed_contaminated_cluster"]) == (2, 1)
    assert metrics["benchmark"] == {
        "cmexam": {"num_items": 2, "num_contaminated": 1, "contaminated_rate": 0.5},
        "medqa": {"num_items": 1, "num_contaminated": 1, "contaminated_rate": 1.0},
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_hits_and_pairs_changes_nothing(seed: int) -> None:
    pairs = [Pair(a, b, 0.5 + 0.05 * i) for i, (a, b) in enumerate(["ab", "bc", "cd", "ef", "fa", "gh"])]
    hits = [hit("a", ITEMS[0], "near", 0.6), hit("a", ITEMS[1], "near", 0.6), hit("d", ITEMS[2])]
    expected = decontaminate(records("abcdefgh"), hits, pairs)
    dice = random.Random(seed)
    turned = [Pair(p.b, p.a, p.similarity) for p in dice.sample(pairs, len(pairs))]
    got = decontaminate(records("abcdefgh"), dice.sample(hits, len(hits)), turned)
    assert (got.kept, got.events) == (expected.kept, expected.events)
    assert hits_frame(got).equals(hits_frame(expected))


def test_a_duplicate_that_dedup_removed_is_no_record_to_remove_again() -> None:
    result = decontaminate(records("ab"), [hit("a", ITEMS[0])], [Pair("a", "gone", 1.0), Pair("b", "gone", 0.9)])
    assert result.kept == ["b"]
    assert [event.id for event in result.events] == ["a"]
    assert result.kept + result.removed == ["b", "a"]
