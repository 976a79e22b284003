"""Build the curator's page for many records and open it in headless Chromium: size of the file, seconds to build and until it can be used.

Run   python benchmarks/page.py [--records 25000] [--out PAGE.html]

The records are those of the sample, varied by seed until each is one of its own; rules are given to them at rates seen on real data.
Interactive: the overview is there and answers; complete: the texts can be searched too.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Browser, find_browser  # noqa: E402

from medcot.ledger import Event, events_frame, join_parts  # noqa: E402
from medcot.normalization import Step  # noqa: E402
from medcot.page import render  # noqa: E402
from medcot.page_data import Inputs, build  # noqa: E402
from medcot.records import RawRecord, Record  # noqa: E402

CHANGED = 0.33  # share of the rows that a rule changes
CHARACTERS = 1500  # a row of medical-o1 is about this long


def make_records(num: int, seed: int = 1) -> list[RawRecord]:
    """Rows about as long as real ones, put together from sentences of the sample."""
    with (ROOT / "data/sample/base.jsonl").open(encoding="utf-8") as file:
        rows = [[str(value) for value in json.loads(line).values()][:3] for line in file]
    rng, records = random.Random(seed), []
    for i in range(num):
        question, _, answer = rng.choice(rows)
        reasoning = ""
        while len(reasoning) + len(question) + len(answer) < CHARACTERS:
            reasoning += rng.choice(rows)[1] + "\n"
        spaces = "  " if rng.random() < CHANGED else ""
        record = RawRecord("", "benchmark", f"{i}. {question}", reasoning.strip() + spaces, answer)
        records.append(replace(record, id=record.content_hash))
    return records


def events(records: list[RawRecord], seed: int = 2) -> Iterator[Event]:
    """A third of the rows is changed, 4 % are near-duplicates, 2 % in conflict, 1 % refused."""
    rng = random.Random(seed)
    for i, record in enumerate(records):
        yield Event(record.id, "download", "read", "o1", hash_after=record.content_hash, source="benchmark", source_row=i)
        if record.reasoning.endswith(" "):
            yield Event(record.id, "normalize", "changed", "strip", "reasoning")
        fate, other = rng.random(), records[i - 1].id
        if 0.95 < fate <= 0.97:
            yield Event(record.id, "dedup", "conflict", "conflict", "question: number", other, 0.9)
        if fate < 0.01:
            yield Event(record.id, "normalize", "refused", "control_token", "answer: <think>")
        elif fate < 0.05:
            yield Event(record.id, "dedup", "removed", "near_duplicate", "row", other, 0.93)
        else:
            yield Event(record.id, "convert", "kept", "kept", split="val" if fate < 0.15 else "train", num_tokens=900 + i % 400)


def strip_step(raw: RawRecord) -> list[Step]:
    """The one change of these rows."""
    return [Step("strip", "reasoning", raw.reasoning, raw.reasoning.strip())]


def make_inputs(num: int) -> Inputs:
    """The page's inputs; a conflict for each event of one."""
    raws = make_records(num)
    ledger = join_parts([events_frame(events(raws))])
    records = [Record(r.id, r.source, r.question, r.reasoning.strip(), r.answer) for r in raws]
    pairs = ledger.filter(action="conflict").select("id", "related_id").iter_rows()
    conflicts = [{"key": "question", "differs": "number", "jaccard": 0.9, "a": {"id": a}, "b": {"id": b}} for a, b in pairs]
    return Inputs(ledger, raws, records, conflicts, steps=strip_step, searched=True)


def measure(page: Path) -> dict[str, float]:
    """Seconds after the start of the navigation, and of a search through all texts."""
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        browser.open(page)
        found = {name: browser.run(f"performance.getEntriesByName('{name}')[0].startTime") / 1000 for name in ("interactive", "complete")}
        for name, script in (
            ("first search", "search({ q: '卡马西平' })"),
            ("next search", "search({ q: '青霉素' })"),
            ("list", "navigate()"),
        ):
            browser.run("location.hash = 'view=records'")
            found[name] = (
                browser.run(f"(() => {{ const start = performance.now(); {script}; return performance.now() - start; }})()") / 1000
            )
        found["memory MB"] = browser.run("performance.memory.usedJSHeapSize") / 1e6
    return found


def main() -> None:
    """Build, write, open and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=25_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    inputs = make_inputs(args.records)
    start, cpu = time.monotonic(), time.process_time()
    page = build(inputs, 20, 42)
    text = render(page.core, page.texts)
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    with tempfile.TemporaryDirectory() as directory:
        path = (args.out or Path(directory) / "curation.html").resolve()
        path.write_text(text, encoding="utf-8", newline="\n")
        texts, characters = page.metrics["num_texts"], page.metrics["num_characters"]
        print(f"{args.records} records, the texts of {texts} ({characters:,} characters): {path.stat().st_size / 1e6:.1f} MB")
        print(f"built in {seconds:.1f} s ({cpu:.1f} s of processor)")
        if find_browser() is None:
            print("no Chromium on this machine: not opened")
            return
        for name, value in measure(path).items():
            print(f"{name}: {value:.2f}" + ("" if "MB" in name else " s"))


if __name__ == "__main__":
    main()
