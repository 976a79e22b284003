"""Precision and recall of the personal-data rules on the labelled cases, by kind, with Wilson 95 % intervals.

A hit is right when it covers a labelled place of the same kind exactly; of the cases without a label, every hit is wrong. The cases
were written before the rules were tuned, and split by a hash: the rules were tuned on `dev`, `held` was only measured. Both come from
one hand, which the figures cannot show; docs/curation.md has the first measurements too, before any tuning.

Run     python -m benchmarks.pii [--half dev|held|all] [--errors]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcot.pii import KINDS, find
from medcot.statistics import wilson

CASES = Path(__file__).resolve().parent.parent / "tests/fixtures/pii_cases.jsonl"


@dataclass(slots=True)
class Score:
    """Counts of one kind: labelled places found, places missed, wrong hits."""

    found: int = 0
    missed: int = 0
    wrong: int = 0

    @property
    def precision(self) -> float:
        """Share of hits that are right; 1 without hits."""
        return self.found / max(self.found + self.wrong, 1) if self.found + self.wrong else 1.0

    @property
    def recall(self) -> float:
        """Share of labelled places that are found; 1 without places."""
        return self.found / (self.found + self.missed) if self.found + self.missed else 1.0


def read_cases(half: str = "all") -> list[dict[str, Any]]:
    """The cases of one half, or all of them."""
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return [case for case in cases if half in ("all", case["half"])]


def errors(case: dict[str, Any]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """(kind, value) of what was found, missed and wrongly hit in a case."""
    text = case["text"]
    wanted = Counter((kind, start, end) for kind, start, end in case["spans"])
    hits = Counter((hit.kind, hit.start, hit.end) for hit in find(text))
    parts = (wanted & hits, wanted - hits, hits - wanted)
    found, missed, wrong = (Counter((kind, text[start:end]) for kind, start, end in part.elements()) for part in parts)
    return found, missed, wrong


def evaluate(cases: Iterable[dict[str, Any]]) -> dict[str, Score]:
    """The score of every kind."""
    scores = {kind: Score() for kind in KINDS}
    for case in cases:
        for name, part in zip(("found", "missed", "wrong"), errors(case), strict=True):
            for (kind, _), count in part.items():
                setattr(scores[kind], name, getattr(scores[kind], name) + count)
    return scores


def table(scores: dict[str, Score]) -> str:
    """Markdown: a row a kind, and one for all."""
    total = Score(*(sum(getattr(score, name) for score in scores.values()) for name in ("found", "missed", "wrong")))
    lines = ["| kind | places | precision | recall |", "|---|---|---|---|"]
    for kind, score in [*scores.items(), ("all", total)]:
        low, high = wilson(score.found, score.found + score.wrong)
        low_r, high_r = wilson(score.found, score.found + score.missed)
        places = score.found + score.missed
        precision, recall = f"{score.precision:.3f} [{low:.2f}, {high:.2f}]", f"{score.recall:.3f} [{low_r:.2f}, {high_r:.2f}]"
        lines.append(f"| {kind} | {places} | {precision} | {recall} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=["dev", "held", "all"], default="all")
    parser.add_argument("--errors", action="store_true", help="print every miss and every wrong hit")
    args = parser.parse_args()
    for half in ("dev", "held") if args.half == "all" else (args.half,):
        cases = read_cases(half)
        labelled = sum(bool(case["spans"]) for case in cases)
        print(f"{half}: {len(cases)} cases, {labelled} with personal data, {len(cases) - labelled} look-alikes\n{table(evaluate(cases))}\n")
        for case in cases if args.errors else ():
            _, missed, wrong = errors(case)
            if missed or wrong:
                print(f"  {case['text']}\n    missed {list(missed)} wrong {list(wrong)}")


if __name__ == "__main__":
    main()
