"""Deduplication beside its peers, on one machine in one run: time, recall, witnesses, memory; and the memory of normalize.

Every tool gets the same rows and looks for pairs of rows at exact Jaccard 0.9 or more, with 128 permutations in 16 bands of 8.
Each runs in a process of its own. `in process` begins when the rows are in memory (Python strings; Arrow for medcot, which has a row
for strings too) and ends with the answer; `cold` is the life of the process: start, imports, reading the file, the work. One corpus
after the other, tool by tool: quote ratios of one run only. rensa counts both rows of a pair; rensa and datasketch do not verify.

Run     python benchmarks/dedup.py --corpus ROWS.parquet PAIRS.parquet [--corpus …] [--peers PYTHON] [--quick] [--questions FILE.jsonl]
            [--million SHARD.parquet …] [--scaling SHARD.parquet …] [--normalize]

ROWS    columns Question, Complex_CoT, Response       PAIRS   columns a, b: row numbers of planted pairs, and level
peers   another environment's interpreter, with datasketch, xxhash, rensa, text-dedup, polars; those missing print "not installed"
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("Question", "Complex_CoT", "Response")
THRESHOLD, NUM_PERM, BANDS, ROWS, SHINGLE, SEED = 0.9, 128, 16, 8, 5, 1
HAN = [chr(point) for point in range(0x4E00, 0x5200)]
OURS = {"medcot, from Arrow": "arrow", "medcot, from strings": "strings", "medcot with the guard": "guard"}
PEERS = {
    "datasketch, update_batch per row": "naive",
    "datasketch bulk, xxh32": "bulk",
    "rensa bulk": "rensa",
    "text-dedup, characters spaced": "spaced",
    "text-dedup as shipped": "shipped",
}


def read_rows(path: Path) -> list[str]:
    """The rows as strings: the columns of a corpus, or the questions of a JSON Lines file."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["Question"] for line in path.read_text(encoding="utf-8").splitlines()]
    import polars as pl

    return ["\n".join(row) for row in pl.read_parquet(path, columns=list(COLUMNS)).rows()]


def shingled(rows: list[str]) -> Iterator[set[bytes]]:
    """What a user of the peers writes: sets of five characters, row by row, because all at once would cost a sixth more time."""
    return ({row[i : i + SHINGLE].encode() for i in range(max(1, len(row) - SHINGLE + 1))} for row in rows)


def naive(rows: list[str]) -> int:
    from datasketch import MinHash, MinHashLSH

    index, found = MinHashLSH(num_perm=NUM_PERM, params=(BANDS, ROWS)), 0
    for number, tokens in enumerate(shingled(rows)):
        signature = MinHash(num_perm=NUM_PERM)
        signature.update_batch(tokens)
        found += bool(index.query(signature))
        index.insert(number, signature)
    return found


def bulk(rows: list[str]) -> int:
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index, found = MinHashLSH(num_perm=NUM_PERM, params=(BANDS, ROWS)), 0
    for number, signature in enumerate(MinHash.bulk(shingled(rows), num_perm=NUM_PERM, hashfunc=xxhash.xxh32_intdigest)):
        found += bool(index.query(signature))
        index.insert(number, signature)
    return found


def rensa(rows: list[str]) -> int:
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_byte_sets(list(shingled(rows)), NUM_PERM, SEED)
    return sum(RMinHashLSH(THRESHOLD, NUM_PERM, BANDS).query_duplicate_flags_matrix_one_shot(matrix))


def strings(rows: list[str]) -> int:
    from medcot.similarity import Texts

    return arrow(Texts.of(rows))


def arrow(texts: Any) -> int:
    return len(found_by_medcot(texts)[1])


def found_by_medcot(texts: Any) -> tuple[Any, dict[int, tuple[int, float]]]:
    """The pairs at the threshold, and the rows removed, with witness and similarity."""
    import numpy as np

    from medcot.shards import Found, survivors
    from medcot.similarity import distinct_pairs

    pairs, similarity, prints = distinct_pairs(texts, SHINGLE, THRESHOLD, NUM_PERM, SEED, THRESHOLD)
    found = Found(pairs, similarity, prints, np.diff(texts.offsets))
    return found, survivors(found)


def guard(rows: list[str]) -> int:
    from medcot.key_index import ROW
    from medcot.neardup import deduplicate, rank

    ids = [f"{i:07d}" for i in range(len(rows))]
    params = ROW.model_copy(update={"threshold": THRESHOLD, "num_perm": NUM_PERM})
    return len(deduplicate(ids, {"row": (rows, params)}, [rank([row], i) for row, i in zip(rows, ids, strict=True)], SEED).removals)


def run_one(name: str, path: Path) -> None:
    """In a process of its own: read, work, print the seconds of the work, what it found and the peak memory."""
    work: Callable[[Any], int] = globals()[name]
    if name == "arrow" and path.suffix == ".parquet":
        from medcot.shards import read_texts

        rows: Any = read_texts(path, COLUMNS)
    else:
        rows = read_rows(path)
        if name == "arrow":
            from medcot.similarity import Texts

            rows = Texts.of(rows)
    start = time.perf_counter()
    found = work(rows)
    print(json.dumps({"seconds": time.perf_counter() - start, "found": found, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def run_text_dedup(python: str, name: str, path: Path) -> dict[str, Any]:
    """text-dedup is a command: its own clock counts as `in process`."""
    import polars as pl

    rows = [" ".join(row) if name == "spaced" else row for row in read_rows(path)]
    with tempfile.TemporaryDirectory() as place:
        pl.DataFrame({"text": rows}).write_parquet(f"{place}/rows.parquet")
        options = f"--path parquet --data_files {place}/rows.parquet --split train --cache_dir {place}/cache --output {place}/out"
        options += f" --column text --ngram {SHINGLE} --min_length 1 --threshold {THRESHOLD} --num_perm {NUM_PERM} --b {BANDS} --r {ROWS}"
        start = time.perf_counter()
        wide = {**os.environ, "COLUMNS": "300"}  # its log wraps at the terminal's width
        done = subprocess.run([python, "-m", "text_dedup.minhash", *options.split()], capture_output=True, text=True, check=False, env=wide)
        cold = time.perf_counter() - start
        told = done.stdout + done.stderr
        if done.returncode:
            return {"error": "not installed" if "No module named" in told else told.strip().splitlines()[-1][:60]}
        before, after, total = (float(re.findall(rf"{word}\s*:\s*([0-9.]+)", told)[-1]) for word in ("Before", "After", "Total"))
        return {"seconds": total, "cold": cold, "found": int(before - after), "rss": 0}


def run_tool(python: str, name: str, path: Path) -> dict[str, Any]:
    """Run a tool in a fresh process and take its time from outside, too."""
    if name in ("spaced", "shipped"):
        return run_text_dedup(python, name, path)
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, __file__, "--one", name, str(path)], capture_output=True, text=True, check=False, env=environment)
    cold = time.perf_counter() - start
    if done.returncode:
        return {"error": "not installed" if "No module named" in done.stderr else done.stderr.strip().splitlines()[-1][:60]}
    return {**json.loads(done.stdout.splitlines()[-1]), "cold": cold}


def compare(path: Path, peers: str, slow_peers: bool) -> None:
    """One table: every tool on one corpus, and how many times as long as medcot it took by both clocks."""
    print(
        f"\n{path.name}\n| tool | in process, s | × medcot | cold, s | × medcot | removed | peak, MB |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    tools = [(sys.executable, title, name) for title, name in OURS.items()]
    tools += [(peers, title, name) for title, name in PEERS.items() if peers and (slow_peers or name in ("naive", "bulk", "rensa"))]
    first: dict[str, Any] = {}
    for python, title, name in tools:
        result = run_tool(python, name, path)
        first = first or result
        if "error" in result:
            print(f"| {title} | {result['error']} | | | | | |", flush=True)
            continue
        ratios = [result[clock] / first[clock] for clock in ("seconds", "cold")]
        memory = f"{result['rss'] / 1024:.0f}" if result["rss"] else ""
        clocks = f"{result['seconds']:.2f} | {ratios[0]:.1f} | {result['cold']:.2f} | {ratios[1]:.1f}"
        print(f"| {title} | {clocks} | {result['found']} | {memory} |", flush=True)


def check(corpora: list[tuple[Path, Path]]) -> None:
    """Recall of planted pairs at the threshold, and a kept witness for every removal, by the numpy reference."""
    import numpy as np
    import polars as pl

    from medcot.matching import jaccards, shingles
    from medcot.shards import read_texts
    from medcot.statistics import lower_bound

    planted = found_pairs = removals = witnessed = 0
    for rows_path, pairs_path in corpora:
        rows = read_rows(rows_path)
        found, removed = found_by_medcot(read_texts(rows_path, COLUMNS))

        def exact(pairs: Any, rows: list[str] = rows) -> Any:
            used, position = np.unique(pairs, return_inverse=True)
            return jaccards([shingles(rows[i], SHINGLE) for i in used], position.reshape(-1, 2))

        pairs = pl.read_parquet(pairs_path).filter(pl.col("level") < 1).select("a", "b").to_numpy()
        at_threshold = pairs[exact(pairs) >= THRESHOLD]
        have = {tuple(pair) for pair in np.sort(found.pairs, axis=1).tolist()}
        planted += len(at_threshold)
        found_pairs += sum(tuple(pair) in have for pair in np.sort(at_threshold, axis=1).tolist())
        witnesses = np.array([(row, witness) for row, (witness, _) in removed.items()])
        similar = exact(witnesses) >= THRESHOLD
        removals += len(removed)
        witnessed += sum(bool(ok) and witness not in removed for ok, (_, witness) in zip(similar, witnesses.tolist(), strict=True))
    bound = lower_bound(found_pairs, planted, 0.95)
    print(f"\nplanted pairs at exact J >= {THRESHOLD}: {planted}, found {found_pairs}")
    print(f"recall {found_pairs / planted:.4f}, at least {bound:.4f} (95 %, Clopper & Pearson)")
    print(f"removed rows: {removals}, with a kept witness at exact J >= {THRESHOLD}: {witnessed}", flush=True)


def run_million(shards: list[Path]) -> None:
    """In a process of its own: all shards through files, by the engine that is set."""
    from medcot.engine import engine, run_local, run_ray
    from medcot.shards import Search, near_pairs, survivors

    by_engine = {"local": run_local, "ray": run_ray}[engine()]
    by_engine(lambda: None, [()])  # a cluster starts once
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:

        def run(function: Any, tasks: Any) -> None:
            begun = time.perf_counter()
            by_engine(function, tasks)
            print(f"  {function.__name__}: {len(tasks)} tasks, {time.perf_counter() - begun:.1f} s")

        found = near_pairs(shards, Search(COLUMNS, SHINGLE, THRESHOLD, NUM_PERM, SEED, THRESHOLD), Path(place), run)
        removed = survivors(found)
        disk = sum(path.stat().st_size for path in Path(place).iterdir()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {len(found.prints)} rows, {found.lengths.sum() / 1e9:.2f} GB of text, {len(found.pairs)} pairs, {len(removed)} removed")
    print(f"  {time.perf_counter() - start:.1f} s, peak {peak:.0f} MB, {disk:.0f} MB of files between the steps", flush=True)


def run_normalize(sizes: tuple[int, ...] = (20_000, 80_000)) -> None:
    """`python -m stages.normalize` on synthetic rows at two sizes: rows a second, and the memory that must not grow."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            for folder in ("data/raw", "data/curation"):
                (Path(place) / folder).mkdir(parents=True)
            for name in ("params.yaml", "data/curation/decisions.csv"):
                (Path(place) / name).write_bytes((ROOT / name).read_bytes())
            (Path(place) / "data/raw/source.json").write_text('{"kind": "file", "public": false}\n', encoding="utf-8")
            with (Path(place) / "data/raw/records.jsonl").open("w", encoding="utf-8") as file:
                for i in range(size):
                    draw = random.Random(i)
                    thought = "。".join("".join(draw.choices(HAN, k=20)) for _ in range(50)) + "。"
                    row = {"id": f"{i:016x}", "source": "bench", "question": f"患者男，{i}，反复胸痛，首先考虑什么？"}
                    file.write(json.dumps({**row, "reasoning": thought, "answer": "心绞痛。"}, ensure_ascii=False) + "\n")
            start = time.perf_counter()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen([sys.executable, "-m", "stages.normalize"], cwd=place, env=environment, stderr=subprocess.PIPE)
            assert process.stderr is not None
            told = process.stderr.read().decode()
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(told)
            print(f"  normalize {size} rows: {wall:.1f} s, {size / wall:.0f} rows/s, peak {usage.ru_maxrss / 1024:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs=2, type=Path, action="append", default=[], metavar=("ROWS", "PAIRS"))
    parser.add_argument("--check", nargs=2, type=Path, action="append", default=[], metavar=("ROWS", "PAIRS"), help="for recall alone")
    parser.add_argument("--peers", default="", metavar="PYTHON")
    parser.add_argument("--quick", action="store_true", help="leave text-dedup out")
    parser.add_argument("--questions", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--million", nargs="+", type=Path, metavar="SHARD")
    parser.add_argument("--scaling", nargs="+", type=Path, metavar="SHARD", help="the same with 1 and 2 workers, local and Ray")
    parser.add_argument("--normalize", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one-million", nargs="+", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], Path(args.one[1]))
        return
    if args.one_million:
        run_million(args.one_million)
        return
    for number, (rows, _) in enumerate(args.corpus):
        compare(rows, args.peers, slow_peers=number == 0 and not args.quick)
    if args.questions:
        compare(args.questions, args.peers, slow_peers=False)
    if args.corpus or args.check:
        check([*map(tuple, args.corpus), *map(tuple, args.check)])
    for shards, settings in ((args.million, [("local", "")]), (args.scaling, [(e, w) for e in ("local", "ray") for w in "12"])):
        for engine, workers in settings if shards else []:
            print(f"\n{len(shards)} shards through files, {engine}, {workers or 'all'} workers", flush=True)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "MEDCOT_ENGINE": engine, "MEDCOT_WORKERS": workers}
            subprocess.run([sys.executable, __file__, "--one-million", *map(str, shards)], check=True, env=environment)
    if args.normalize:
        print("\nnormalize")
        run_normalize()


if __name__ == "__main__":
    main()
