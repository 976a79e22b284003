"""The search over shards finds what the search in memory finds, for any number of shards and workers, with Ray as without."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from medcot import shards
from medcot.engine import find, run_local, run_ray
from medcot.errors import DataError, MachineError
from medcot.key_index import QUESTION, ROW
from medcot.neardup import deduplicate, rank
from medcot.shards import Found, Map, Search, expand, near_pairs, survivors, write_texts
from medcot.similarity import Texts, near

SEARCH = Search(("text",), 5, 0.8, 128, 1, 0.6)


def corpus(number: int = 60) -> list[str]:
    """Chinese and English rows with near and exact copies, an empty one and a lone surrogate."""
    generator = np.random.default_rng(3)
    han, words = [chr(0x5000 + i) for i in range(2000)], [f"w{i}" for i in range(500)]
    base = ["".join(generator.choice(han, 400)) if i % 2 else " ".join(generator.choice(words, 200)) for i in range(number)]
    close = [text[:200] + "改" * (1 + i) + text[201 + i :] for i, text in enumerate(base[: number // 2])]
    return [*base, *close, *base[:5], *(f"{text}！" for text in base[:3]), "", "短", "\ud800 lone"]


def listed(found: Iterator[tuple[Any, Any]]) -> list[tuple[int, int, float]]:
    return sorted((a, b, value) for pairs, values in found for (a, b), value in zip(pairs.tolist(), values.tolist(), strict=True))


def by_shards(texts: Sequence[str], number: int, place: Path, run: Map = run_local, search: Search = SEARCH) -> Found:
    place.mkdir()
    paths = [place / f"texts-{i}.parquet" for i in range(number)]
    write_texts(Texts.of(texts), paths)
    return near_pairs(paths, search, place, run)


def in_memory(texts: Sequence[str]) -> list[tuple[int, int, float]]:
    return listed(near(Texts.of(texts), *SEARCH[1:]))


@pytest.mark.parametrize(("number", "workers"), [(1, "1"), (3, "2"), (20, "2")])
def test_any_number_of_shards_and_workers_finds_the_pairs_of_the_search_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, workers: str
) -> None:
    monkeypatch.setenv("MEDCOT_WORKERS", workers)
    monkeypatch.setattr(shards, "BYTES_AT_ONCE", 10_000)  # several blocks of pairs
    monkeypatch.setattr(shards, "ROWS_AT_ONCE", 7)
    assert listed(expand(by_shards(corpus(), number, tmp_path / "a"))) == in_memory(corpus())
    assert len(in_memory(corpus())) > 30


def test_a_pair_exactly_at_the_floor_is_found(tmp_path: Path) -> None:
    search = SEARCH._replace(shingle_size=1, floor=0.8)
    found = by_shards(["心绞痛胸", "心绞痛胸闷"], 2, tmp_path / "a", search=search)
    assert (found.pairs.tolist(), found.similarity.tolist()) == ([[0, 1]], [0.8])


@pytest.mark.parametrize("texts", [[], ["头痛"], ["头痛", "咳嗽"]])
def test_shards_without_pairs_find_none(tmp_path: Path, texts: list[str]) -> None:
    assert listed(expand(by_shards(texts, 2, tmp_path / "a"))) == []


def test_the_columns_of_a_row_are_joined_by_line_breaks(tmp_path: Path) -> None:
    rows = [("问", "想" * 20, "答"), ("Q", "think " * 9, "A"), ("", "", ""), ("问", "想" * 20, "答")]
    pl.DataFrame(rows, schema=["q", "r", "a"], orient="row").write_parquet(tmp_path / "given.parquet")
    found = near_pairs([tmp_path / "given.parquet"], SEARCH._replace(columns=("q", "r", "a")), tmp_path, run_local)
    plain = by_shards(["\n".join(row) for row in rows], 1, tmp_path / "plain")
    assert found.prints.tolist() == plain.prints.tolist()
    assert found.lengths.tolist() == [len("\n".join(row).encode()) for row in rows]


def test_every_removed_row_has_a_kept_witness_at_the_threshold_in_any_order(tmp_path: Path) -> None:
    texts, search = corpus(), SEARCH._replace(floor=0.8)
    removed = survivors(by_shards(texts, 2, tmp_path / "a", search=search))
    pairs = {(a, b): value for a, b, value in in_memory(texts)}
    assert len(removed) > 20
    for row, (witness, value) in removed.items():
        assert witness not in removed
        assert pairs[min(row, witness), max(row, witness)] == value >= 0.8
    order = np.random.default_rng(1).permutation(len(texts))
    again = survivors(by_shards([texts[i] for i in order], 3, tmp_path / "b", search=search))
    # Copies are told apart by their place alone, so that it is their texts that must agree.
    assert sorted((texts[order[row]], texts[order[witness]], value) for row, (witness, value) in again.items()) == sorted(
        (texts[row], texts[witness], value) for row, (witness, value) in removed.items()
    )


def test_an_unknown_engine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCOT_ENGINE", "spark")
    with pytest.raises(MachineError, match=r"^MEDCOT_ENGINE: no such engine, got spark; set it to local or ray, or leave it out$"):
        list(find(Texts.of(["头痛"]), 5, 0.8, 16, 1, 0.8))


def test_an_engine_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError, match=r"^MEDCOT_ENGINE: ray is not installed; run `pip install -e .\[ray\]`"):
        run_ray(print, [])


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def fail(**settings: object) -> None:
        raise Exception(f"The current node timed out: {sorted(settings)}")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(
        MachineError, match=r"^ray: the cluster does not start, got The current node timed out: .*include_dashboard.*; try again"
    ):
        run_ray(_nothing, [()])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A local Ray cluster of two workers."""
    ray = pytest.importorskip("ray")
    before = dict(os.environ)
    os.environ |= {"MEDCOT_WORKERS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}  # a task of this file is found by its name
    try:
        run_ray(_nothing, [()])
    except MachineError:  # a machine that is busy with other tests may need longer than Ray waits
        run_ray(_nothing, [()])
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


def _nothing() -> None:
    """A task that does nothing."""


def _dies_once(mark: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The first of all tasks kills its own worker process in the middle of its work."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        function(*arguments)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def _fails() -> None:
    raise DataError("rows.parquet", "the file is damaged", "make it again")


def test_ray_gives_identical_results_and_a_killed_worker_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    local = by_shards(corpus(), 4, tmp_path / "local")
    mark = tmp_path / "killed"
    found = by_shards(
        corpus(), 4, tmp_path / "ray", lambda function, tasks: run_ray(_dies_once, [(mark, function, task) for task in tasks])
    )
    assert mark.exists()
    for ours, theirs in zip(vars(found).values(), vars(local).values(), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_deduplication_by_ray_is_deduplication(cluster: Any, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in corpus(20) if text.isprintable()]
    ids = [f"r{i:03d}" for i in range(len(texts))]
    keys = {"row": (texts, ROW), "question": ([text[:40] for text in texts], QUESTION)}
    expected = deduplicate(ids, keys, [rank([text], i) for text, i in zip(texts, ids, strict=True)], 1)
    monkeypatch.setenv("MEDCOT_ENGINE", "ray")
    assert deduplicate(ids, keys, [rank([text], i) for text, i in zip(texts, ids, strict=True)], 1) == expected
    assert expected.removals
    assert list(in_tmp.glob(".medcot/shards-*")) == []


def test_a_task_s_own_error_comes_back_as_it_was(cluster: Any) -> None:
    with pytest.raises(DataError, match=r"^rows.parquet: the file is damaged; make it again$"):
        run_ray(_fails, [()])


def test_ray_tells_nobody(cluster: Any) -> None:
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()
    assert not cluster._private.worker._global_node.webui_url
