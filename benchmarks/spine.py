"""From a fresh clone to a sweep, as a new user would, with every time and peak memory printed.

Clones the repository's last commit into an empty directory and there runs: make repro; a second dvc repro; three learning rates as
experiments with their metrics diff; the way back from the run-cache; a second clone under another hash seed, whose data must have
the same bytes; and, with --break, dvc.yaml with one dep and one param taken out, where tests/test_pipeline.py must fail.

Run     python benchmarks/spine.py [--keep DIR] [--break]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ("data/raw", "data/normalized", "data/dedup", "data/llamafactory", "data/ledger")


def run(directory: Path, command: str, **environment: str) -> str:
    """Run a shell command, print its wall time and the peak memory of its largest process, and return what it printed."""
    env = {**os.environ, "PATH": f"{directory}/.venv/bin{os.pathsep}{os.environ['PATH']}", **environment}
    start = time.monotonic()
    process = subprocess.Popen(command, shell=True, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall, peak = time.monotonic() - start, usage.ru_maxrss / 1024**2
    print(f"$ {command}\n  exit {process.returncode}, {wall:.1f} s wall, {usage.ru_utime + usage.ru_stime:.1f} s CPU, peak {peak:.2f} GiB")
    if process.returncode:
        print(output[-4000:])
        raise SystemExit(f"failed: {command}")
    return output


def stages_run(output: str) -> list[str]:
    """The stages that DVC ran, as opposed to skipped or restored."""
    return re.findall(r"^Running stage '(\w+)'", output, flags=re.M)


def digest(directory: Path) -> str:
    """One hash over all data files of a clone."""
    total = hashlib.sha256()
    for path in sorted(p for top in DATA for p in (directory / top).rglob("*") if p.is_file()):
        total.update(str(path.relative_to(directory)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def clone(into: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(into)], check=True)
    return into


def show_spine(directory: Path) -> None:
    """make repro, nothing to do the second time, a sweep, and the way back."""
    run(directory, "make venv")
    print("  ran:", *stages_run(run(directory, "make repro")))
    status = subprocess.run(["git", "status", "--porcelain"], cwd=directory, capture_output=True, text=True, check=True).stdout
    print(f"  git status after the first repro: {status.split() or 'clean'}")
    if status:  # another instruction set than the one that made the committed metrics
        run(directory, "git -c user.name=bench -c user.email=bench@localhost commit -qam 'This machine'")
    again = run(directory, "dvc repro")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=directory, capture_output=True, text=True, check=True).stdout
    print(f"  second repro ran: {stages_run(again) or 'nothing'}; git status: {status.split() or 'clean'}")
    for rate in ("5e-6", "1e-3", "0.1"):
        print("  ran:", *stages_run(run(directory, f"dvc exp run -S train.learning_rate={rate}")))
        print(run(directory, "dvc metrics diff HEAD --targets metrics/train.json metrics/evaluate.json"))
    back = run(directory, "git checkout -q -- params.yaml dvc.lock metrics && dvc repro && dvc checkout")
    print(f"  the way back ran: {stages_run(back) or 'nothing'}")


def show_second_clone(first: Path, second: Path) -> None:
    """The data stages of another clone, under another hash seed and with one thread, give the same bytes."""
    (second / ".venv").symlink_to(first / ".venv")
    run(second, "dvc repro convert", PYTHONHASHSEED="12345", POLARS_MAX_THREADS="1", PYTHONPATH=str(second))
    print(f"  data of both clones: {digest(first)} {digest(second)}")
    if digest(first) != digest(second):
        raise SystemExit("the clones differ")


def show_breaks(directory: Path) -> None:
    """tests/test_pipeline.py notices a dep and a param that are missing from dvc.yaml."""
    original = (directory / "dvc.yaml").read_text(encoding="utf-8")
    for what, line in (("dep", "      - medcot/nll.py\n"), ("param", "      - train\n")):
        (directory / "dvc.yaml").write_text(original.replace(line, "", 1), encoding="utf-8")
        result = subprocess.run(
            [f"{directory}/.venv/bin/python", "-m", "pytest", "-q", "tests/test_pipeline.py"], cwd=directory, capture_output=True, text=True
        )
        failed = [text for text in result.stdout.splitlines() if text.startswith("FAILED")]
        print(f"without the {what} `{line.strip()}`: exit {result.returncode}", *failed, sep="\n  ")
        if not result.returncode:
            raise SystemExit("the test did not notice")
    (directory / "dvc.yaml").write_text(original, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="clone into this directory, which must not exist, and leave it there")
    parser.add_argument("--break", dest="breaks", action="store_true", help="also show that the pipeline test can fail (needs make test)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medcot-") as scratch:
        first = clone(args.keep or Path(scratch) / "first")
        show_spine(first)
        show_second_clone(first, clone(Path(scratch) / "second"))
        if args.breaks:
            run(first, "make .venv/ready-dev")
            show_breaks(first)


if __name__ == "__main__":
    sys.exit(main())
