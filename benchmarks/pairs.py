"""How well the question key of `dedup` tells one case typed twice from another case: labelled pairs of real questions.

The labels (tests/fixtures/question_pairs.csv) were given by reading both texts, before any verdict was looked at:
same        one case with one question, typed, scanned or worded twice: one of the two should go
other_fact  the wording of one, and another fact: age, dose, side, negation, another thing asked, other options
unrelated   at most a frame in common
The column `half` splits the pairs by a hash of the first id: thresholds and tables were tuned on `tune`, `report` is what counts.
The texts are not part of the repository; --data names the directory that holds the two files.

Run     python benchmarks/pairs.py --data DIR [--half tune|report] [--list]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Indel

from medcot.guard import compare
from medcot.key_index import QUESTION, KeyParams
from medcot.matching import jaccards, matching_key, shingles, stem
from medcot.statistics import wilson

FIXTURE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "question_pairs.csv"
QUESTIONS, STEMS, WITH_OPTIONS = "medical_o1_zh_questions", "cmexam_test", "cmexam_test_options"
LABELS = ("same", "other_fact", "unrelated")
VERDICTS = ("duplicate", "conflict", "similar", "not found")
REWORDED = ("paraphrase", "shortened")  # the kinds of `same` that were written anew; the others were typed or scanned twice
Texts = dict[tuple[str, str], str]


class LabelledPair(NamedTuple):
    """One row of the fixture; a text is named by its data set and its id there."""

    dataset_a: str
    id_a: str
    dataset_b: str
    id_b: str
    label: str
    kind: str
    half: str


class Judged(NamedTuple):
    """A labelled pair and what dedup says of it."""

    pair: LabelledPair
    verdict: str
    detail: str
    jaccard: float
    alignment: float


def read_pairs(path: Path = FIXTURE) -> list[LabelledPair]:
    """Read the labelled pairs."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [LabelledPair(**row) for row in csv.DictReader(handle)]


def half_of(dataset: str, row_id: str) -> str:
    """The half of a pair, from the hash of its first id alone; the stem and the stem with its options are one item."""
    digest = hashlib.sha256(f"{dataset.removesuffix('_options')}:{row_id}".encode()).digest()
    return "report" if digest[0] % 2 else "tune"


def read_texts(data: Path) -> Texts:
    """Read the questions by data set and id; the options follow their stem, one a line, as they do where a question lists them."""
    texts: Texts = {}
    for line in (data / f"{QUESTIONS}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts[QUESTIONS, row["id"]] = row["Question"]
    for line in (data / f"{STEMS}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts[STEMS, str(row["problem_id"])] = row["problem_text"]
        texts[WITH_OPTIONS, str(row["problem_id"])] = with_choices(row["problem_text"], row["choices"])
    return texts


def with_choices(stem: str, listed: Iterable[str]) -> str:
    """A question as medical-o1 writes one that lists its choices: a lettered line each."""
    return "\n".join([stem, *(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", listed, strict=False))])


def verdict(one: str, other: str, params: KeyParams) -> tuple[str, str, float, float]:
    """What dedup decides of two questions: (verdict, kinds of facts that differ, Jaccard, alignment).

    As stage dedup decides by the key alone, but with the exact Jaccard in place of MinHash's candidates.
    """
    a, b = sorted((matching_key(one), matching_key(other)))
    similarity = float(jaccards([shingles(stem(key), params.shingle_size) for key in (a, b)], np.array([[0, 1]]))[0])
    alignment = Indel.normalized_similarity(stem(a), stem(b))
    if similarity < params.threshold:
        return "not found", "", similarity, alignment
    if alignment < params.min_alignment:
        return "similar", "", similarity, alignment
    kinds = compare(a, b, params.strict_below).kinds
    return "conflict" if kinds else "duplicate", ", ".join(kinds), similarity, alignment


def judge(pairs: Iterable[LabelledPair], texts: Texts, params: KeyParams = QUESTION) -> list[Judged]:
    """Judge every labelled pair by the question key."""
    return [Judged(pair, *verdict(texts[pair.dataset_a, pair.id_a], texts[pair.dataset_b, pair.id_b], params)) for pair in pairs]


def precision_and_recall(judged: Iterable[Judged]) -> tuple[int, int, int]:
    """(duplicates labelled same, all duplicates, all labelled same): precision is the first over the second, recall over the third."""
    rows = list(judged)
    duplicates = [row for row in rows if row.verdict == "duplicate"]
    return sum(row.pair.label == "same" for row in duplicates), len(duplicates), sum(row.pair.label == "same" for row in rows)


def _share(hits: int, total: int) -> str:
    if not total:
        return "–"
    low, high = wilson(hits, total)
    return f"{hits}/{total} = {hits / total:.3f} [{low:.3f}, {high:.3f}]"


def _table(title: str, groups: dict[str, list[Judged]]) -> Iterator[str]:
    width = max(map(len, [title, *groups]))
    yield f"{title:<{width}}  {'pairs':>5}  " + "  ".join(f"{name:>9}" for name in VERDICTS)
    for name, rows in groups.items():
        count = Counter(row.verdict for row in rows)
        yield f"{name:<{width}}  {len(rows):>5}  " + "  ".join(f"{count[verdict]:>9}" for verdict in VERDICTS)


def report(judged: list[Judged]) -> Iterator[str]:
    """The lines that are printed."""
    for half in ("tune", "report"):
        rows = [row for row in judged if row.pair.half == half]
        if not rows:
            continue
        right, found, same = precision_and_recall(rows)
        yield f"\n{half}: precision {_share(right, found)}, recall {_share(right, same)}"
        typed = [row for row in rows if row.pair.kind not in REWORDED]
        for name, chosen in (("typed twice", typed), ("reworded", [row for row in rows if row.pair.kind in REWORDED])):
            right, _, same = precision_and_recall(chosen)
            yield f"{half}: recall of what was {name} {_share(right, same)}"
        right, _, same = precision_and_recall(row for row in typed if row.jaccard >= QUESTION.threshold)
        yield f"{half}: recall of what was typed twice, at Jaccard {QUESTION.threshold} or more {_share(right, same)}"
        yield from _table("label", {label: [row for row in rows if row.pair.label == label] for label in LABELS})
        kinds = sorted({(row.pair.label, row.pair.kind) for row in rows}, key=lambda key: (LABELS.index(key[0]), key[1]))
        yield from _table("kind", {f"{a}: {b}": [row for row in rows if (row.pair.label, row.pair.kind) == (a, b)] for a, b in kinds})
        sets = sorted({(row.pair.dataset_a, row.pair.dataset_b) for row in rows})
        for label in ("same", "other_fact"):
            chosen = [row for row in rows if row.pair.label == label]
            groups = {f"{a} – {b}": [row for row in chosen if (row.pair.dataset_a, row.pair.dataset_b) == (a, b)] for a, b in sets}
            yield from _table(f"{label}, by data set", groups)


def main() -> None:
    """Print the tables, and with --list every pair that was judged wrong, by its ids."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"directory with {QUESTIONS}.jsonl and {STEMS}.jsonl")
    parser.add_argument("--half", choices=("tune", "report"), help="only this half")
    parser.add_argument("--list", action="store_true", help="list the ids of the pairs judged wrong")
    arguments = parser.parse_args()
    pairs = [pair for pair in read_pairs() if arguments.half in (None, pair.half)]
    judged = judge(pairs, read_texts(arguments.data))
    print("\n".join(report(judged)))
    for row in judged if arguments.list else ():
        if (row.verdict == "duplicate") != (row.pair.label == "same"):
            pair = row.pair
            print(f"{pair.half} {pair.label}/{pair.kind} {pair.dataset_a}:{pair.id_a} {pair.dataset_b}:{pair.id_b}"
                  f" J {row.jaccard:.2f} A {row.alignment:.2f} {row.verdict} {row.detail}")  # fmt: skip


if __name__ == "__main__":
    main()
