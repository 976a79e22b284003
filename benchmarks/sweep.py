"""The demo sweep in fresh clones, here and through DVC's queue: what ran, how often, how long, and the table.

Data stages must run once in all, each base and its arm of the evaluation once, train and evaluate once a run; the same command given
again must run nothing; and both ways must end with the same numbers. Exits with 1 where one of these is not so.

Run     python benchmarks/sweep.py [--keep DIR] [--sweep FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
ONCE = ("download", "normalize", "dedup", "convert")
PER_BASE = ("base", "evaluate_base")
PER_RUN = ("train", "evaluate")


def run(directory: Path, *arguments: str) -> str:
    """Run `medcot sweep` in a clone, print its wall time, and return all that it printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(directory)}
    command = [sys.executable, "-m", "medcot.cli", "sweep", *arguments]
    start = time.monotonic()
    result = subprocess.run(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"$ medcot sweep {' '.join(arguments)}\n  exit {result.returncode}, {time.monotonic() - start:.1f} s", flush=True)
    if result.returncode:
        print(result.stdout[-4000:])
        raise SystemExit(1)
    return result.stdout


def stages_run(output: str) -> Counter[str]:
    """How often each stage ran, as opposed to skipped or restored."""
    return Counter(re.findall(r"Running stage '(\w+)'", output))


def table(output: str) -> list[str]:
    """Name and values of every experiment of the table at the end, in order of names."""
    return sorted(re.findall(r"^\|[^|]*\[([\w.-]+\] *\|.*)$", output, flags=re.M))


def expected(path: Path) -> Counter[str]:
    """How often each stage has to run."""
    runs = yaml.safe_load(path.read_text(encoding="utf-8"))["runs"]
    bases = {tuple(value for key, value in values.items() if key.startswith("base.")) for values in runs.values()}
    counts = [(ONCE, 1), (PER_BASE, len(bases)), (PER_RUN, len(runs))]
    return Counter({stage: count for stages, count in counts for stage in stages})


def check(what: str, found: object, wanted: object) -> None:
    print(f"  {what}: {dict(found) if isinstance(found, Counter) else found}")
    if found != wanted:
        print(f"  wanted: {wanted}")
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="clone below this directory, and leave the clones there")
    parser.add_argument("--sweep", default="recipes/sweeps/demo.yaml", help="the sweep file")
    args = parser.parse_args()
    tables = []
    with tempfile.TemporaryDirectory(prefix="medcot-") as scratch:
        clones = {name: (args.keep or Path(scratch)) / name for name in ("here", "queue")}
        for clone in clones.values():  # both before the first run, so that a commit made meanwhile reaches neither
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for name, clone in clones.items():
            options = ["--queue"] if name == "queue" else []
            output = run(clone, args.sweep, *options)
            check("ran", stages_run(output), expected(clone / args.sweep))
            tables.append(table(output))
            print(*(line for line in output.splitlines() if line.startswith("|")), sep="\n")
            check("the same command again ran", sum(stages_run(run(clone, args.sweep, *options)).values()), 0)
    check("both ways give the same table", tables[0] == tables[1] and bool(tables[0]), True)


if __name__ == "__main__":
    sys.exit(main())
