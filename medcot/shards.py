"""The search for near texts over Parquet shards, for data larger than memory and for several machines.

Four worker functions, files in and files out, that any engine may run anywhere and again after a failure:

sign    a shard of texts → its prints, lengths, band keys and sketches, in the order of the rows
pair    one band of all signed shards → the pairs of rows that share a key there
fetch   a shard of texts → those of its rows that are in a pair whose sketches agree
verify  some of these pairs → those whose texts have an exact similarity at or above a floor

Rows are numbered through all shards in the order given. Each shard is read twice, a batch of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from medcot.minhash import Hashes, Pairs, bands_and_rows, pairs_in_bands
from medcot.similarity import Copies, Texts, agreeing, signed, similarities, sketch, stand_ins
from medcot.stage import atomic_file

ROWS_AT_ONCE = 4096  # texts in memory while signing
BYTES_AT_ONCE = 256_000_000  # of texts in memory while verifying
Map = Callable[[Callable[..., None], Sequence[tuple[Any, ...]]], None]  # runs a worker function on many arguments
Similarities = npt.NDArray[np.float64]


class Search(NamedTuple):
    """What is searched, and how.

    columns  of text; a row's are joined by line breaks
    floor    the similarity from which pairs are wanted; threshold is the one for which the bands are chosen
    """

    columns: tuple[str, ...]
    shingle_size: int
    threshold: float
    num_perm: int
    seed: int
    floor: float


@dataclass(frozen=True)
class Found:
    """The pairs of rows with different shingles, first < second, their similarities, and of all rows the prints and lengths in bytes."""

    pairs: Pairs
    similarity: Similarities
    prints: Hashes
    lengths: npt.NDArray[np.int64]


def sign(shard: Path, out: Path, search: Search) -> None:
    """Write the signed form of one shard."""
    batches = []
    for texts in _batches(shard, search.columns):
        found = signed(texts, search.shingle_size, search.threshold, search.num_perm, search.seed, threads=1)
        columns = {"print": pa.array(found.prints), "length": pa.array(np.diff(texts.offsets))}
        columns |= {f"band_{band}": pa.array(keys) for band, keys in enumerate(found.keys)}
        sketches = pa.py_buffer(sketch(found.signatures).tobytes())
        columns["sketch"] = pa.Array.from_buffers(pa.binary(search.num_perm), texts.number, [None, sketches])
        batches.append(pa.table(columns))
    _write(pa.concat_tables(batches), out)


def pair(shards: Sequence[Path], distinct: Path, band: int, out: Path) -> None:
    """Write the pairs of rows that share their key in a band; of rows with equal shingles only the first takes part."""
    rows = _column([distinct], "row")
    keys = _column(shards, f"band_{band}")[rows]
    codes = [np.zeros(0, dtype=np.int64)] + [rows[pairs[:, 0]] << 32 | rows[pairs[:, 1]] for pairs in pairs_in_bands([keys])]
    _write(pa.table({"pair": np.unique(np.concatenate(codes))}), out)


def fetch(shard: Path, rows: Path, first: int, out: Path, search: Search) -> None:
    """Write the texts of those of the rows that stand in this shard, which begins at row `first`."""
    wanted, start, picked = _column([rows], "row"), first, []
    for texts in _batches(shard, search.columns):
        low, high = np.searchsorted(wanted, (start, start + texts.number))
        picked.append(texts.take(wanted[low:high] - start))
        start += texts.number
    low, high = np.searchsorted(wanted, (first, start))
    _write(pa.table({"row": wanted[low:high], "text": pa.concat_arrays([_arrow(texts) for texts in picked])}), out)


def verify(fetched: Sequence[Path], pairs: Path, out: Path, search: Search) -> None:
    """Write those of the pairs that are as similar as the floor, and how similar."""
    wanted = _decoded(_column([pairs], "pair"))
    rows, position = np.unique(wanted, return_inverse=True)
    values = similarities(_pick(fetched, rows), position.reshape(-1, 2), search.shingle_size, threads=1)
    near = wanted[values >= search.floor]
    _write(pa.table({"a": near[:, 0], "b": near[:, 1], "jaccard": values[values >= search.floor]}), out)


def near_pairs(shards: Sequence[Path], search: Search, directory: Path, run: Map) -> Found:
    """Find the near pairs of all rows; `run` does the work, `directory` takes the files between its steps."""
    signatures = [directory / f"signed-{i}.parquet" for i in range(len(shards))]
    run(sign, [(shard, out, search) for shard, out in zip(shards, signatures, strict=True)])
    prints, lengths = _column(signatures, "print"), _column(signatures, "length")
    distinct = directory / "distinct.parquet"
    _write(pa.table({"row": np.unique(stand_ins(prints, lengths))}), distinct)
    bands = range(bands_and_rows(search.threshold, search.num_perm)[0])
    paired = [directory / f"pairs-{band}.parquet" for band in bands]
    run(pair, [(signatures, distinct, band, out) for band, out in zip(bands, paired, strict=True)])
    codes = _hopeful(np.unique(_column(paired, "pair")), signatures, search)
    rows, starts = directory / "rows.parquet", np.cumsum([0, *(pq.read_metadata(path).num_rows for path in signatures)])
    _write(pa.table({"row": np.unique(_decoded(codes))}), rows)
    fetched = [directory / f"fetched-{i}.parquet" for i in range(len(shards))]
    run(fetch, [(shard, rows, int(start), out, search) for shard, start, out in zip(shards, starts, fetched, strict=False)])
    blocks = list(_blocks(codes, lengths, directory))
    verified = [directory / f"verified-{i}.parquet" for i in range(len(blocks))]
    run(verify, [(fetched, block, out, search) for block, out in zip(blocks, verified, strict=True)])
    pairs = np.stack([_column(verified, "a"), _column(verified, "b")], axis=1)
    return Found(pairs, _column(verified, "jaccard"), prints, lengths)


def expand(found: Found) -> Iterator[tuple[Pairs, Similarities]]:
    """All pairs as `similarity.near` yields them: with those of rows with equal shingles."""
    same = Copies(found.prints)
    yield same.inside()
    yield same.between(found.pairs, found.similarity)


def survivors(found: Found) -> dict[int, tuple[int, float]]:
    """Visit the rows, the longest first, and remove those near a kept one: removed row → (its kept witness, their similarity).

    The order depends on length and print alone: of rows with equal shingles the longest stays, of equally long ones the first given.
    """
    stands_for = stand_ins(found.prints, found.lengths)
    near: dict[int, dict[int, float]] = {}
    for (a, b), value in zip(found.pairs.tolist(), found.similarity.tolist(), strict=True):
        near.setdefault(a, {})[b] = near.setdefault(b, {})[a] = value
    removed: dict[int, tuple[int, float]] = {}
    kept: set[int] = set()
    for row in sorted(near, key=lambda row: (-int(found.lengths[row]), int(found.prints[row]))):
        witnesses = [
            (-value, -int(found.lengths[other]), int(found.prints[other]), other) for other, value in near[row].items() if other in kept
        ]
        if witnesses:
            negative, *_, witness = min(witnesses)
            removed[row] = (witness, -negative)
        else:
            kept.add(row)
    copies = np.flatnonzero(stands_for != np.arange(len(stands_for))).tolist()
    return removed | {row: removed.get(int(stands_for[row]), (int(stands_for[row]), 1.0)) for row in copies}


def read_texts(shard: Path, columns: Sequence[str]) -> Texts:
    """All texts of one shard in memory."""
    return _texts(pa.concat_arrays([_arrow(texts) for texts in _batches(shard, columns)]))


def write_texts(texts: Texts, paths: Sequence[Path]) -> None:
    """Write texts as so many shards with one column `text`; as bytes, because a lone surrogate is no UTF-8."""
    whole = _arrow(texts)
    edges = np.linspace(0, texts.number, len(paths) + 1).astype(int).tolist()
    for path, first, last in zip(paths, edges, edges[1:], strict=False):
        _write(pa.table({"text": whole[first:last]}), path)


def _blocks(codes: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], directory: Path) -> Iterator[Path]:
    """Write the pairs in blocks whose texts fit into BYTES_AT_ONCE, roughly: a row in many pairs is counted for each second one."""
    pairs = _decoded(codes)
    new = np.concatenate(([True], pairs[1:, 0] != pairs[:-1, 0])) if len(pairs) else np.zeros(0, dtype=np.bool_)
    block = np.cumsum(lengths[pairs[:, 1]] + new * lengths[pairs[:, 0]]) // BYTES_AT_ONCE
    for number, part in enumerate(np.split(codes, np.flatnonzero(np.diff(block)) + 1)):
        path = directory / f"block-{number}.parquet"
        _write(pa.table({"pair": part}), path)
        yield path


def _decoded(codes: npt.NDArray[np.int64]) -> Pairs:
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Texts]:
    """The texts of a shard, batch by batch, at least one batch."""
    with pq.ParquetFile(path, buffer_size=1 << 20) as file:
        empty = file.metadata.num_rows == 0
        for batch in (
            [file.schema_arrow.empty_table()] if empty else file.iter_batches(ROWS_AT_ONCE, columns=list(columns), use_threads=False)
        ):
            yield Texts.joined([_texts(batch.column(name)) for name in columns])


def _texts(column: Any) -> Texts:
    """An Arrow column as it lies in memory; null counts as empty."""
    array = column.cast(pa.large_binary())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if not len(array):
        return Texts.of([])
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return Texts(np.frombuffer(data or bytes(1), dtype=np.uint8), starts)


def _arrow(texts: Texts) -> Any:
    return pa.Array.from_buffers(pa.large_binary(), texts.number, [None, pa.py_buffer(texts.offsets), pa.py_buffer(texts.data)])


def _pick(fetched: Sequence[Path], rows: npt.NDArray[np.int64]) -> Texts:
    """The texts of these rows, ascending, out of all that were fetched."""
    picked = []
    for path in fetched:
        table = pq.read_table(path)
        picked.append(_texts(table.column("text")).take(np.flatnonzero(np.isin(table.column("row").to_numpy(), rows, assume_unique=True))))
    return _texts(pa.concat_arrays([_arrow(texts) for texts in picked]))


def _hopeful(codes: npt.NDArray[np.int64], signatures: Sequence[Path], search: Search) -> npt.NDArray[np.int64]:
    """The pairs whose sketches agree often enough."""
    rows, position = np.unique(_decoded(codes), return_inverse=True)
    sketches, start = [np.zeros((0, search.num_perm), dtype=np.uint8)], 0
    for path in signatures:
        column = pq.read_table(path, columns=["sketch"]).column(0).combine_chunks()
        low, high = np.searchsorted(rows, (start, start + len(column)))
        all_of_them = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)[: len(column) * search.num_perm].reshape(
            -1, search.num_perm
        )
        sketches.append(all_of_them[rows[low:high] - start])
        start += len(column)
    pairs = rows[agreeing(np.concatenate(sketches), position.reshape(-1, 2), search.floor)]
    return pairs[:, 0] << 32 | pairs[:, 1]


def _column(paths: Sequence[Path], name: str) -> npt.NDArray[Any]:
    """One column of several files, end to end."""
    return np.concatenate([pq.read_table(path, columns=[name]).column(0).to_numpy() for path in paths])


def _write(table: Any, path: Path) -> None:
    """Write a file whole or not at all; hashes do not compress."""
    with atomic_file(path) as out:
        pq.write_table(table, out, compression="none", use_dictionary=False, write_statistics=False, row_group_size=1 << 30)
