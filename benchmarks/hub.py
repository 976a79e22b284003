"""Every fault between a hub and stage download, injected over HTTP on loopback: exit code, message and seconds, one line each.

The stage runs as a user runs it, in a process of its own with huggingface_hub's client as it is installed; tests/fake_hub.py speaks
both protocols. At the end, a connection that is reset in the middle of a file, and the bytes that the next run asks for.

Run     python benchmarks/hub.py [--platform huggingface|modelscope] [--only WORD]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fake_hub import FakeHub, fake_hub  # noqa: E402
from hub_faults import FAULTS, FILE, REPO, STORAGE, Fault, environment, hub_params, prepare  # noqa: E402
from stage_project import make_project  # noqa: E402

SIZE = 20_000_000  # bytes of the file that is resumed
QUICK = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "MODELSCOPE_API_TIMEOUT": "1"}


def run(directory: Path, variables: dict[str, str]) -> tuple[int, str, float]:
    """Run stage download in a directory: exit code, stderr, seconds."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MODELSCOPE_", "DVC_"))}
    env = {**clean, **QUICK, **variables, "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "stages.download"], cwd=directory, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, time.monotonic() - start


def project(directory: Path, platform: str, commit: str, **changed: object) -> Path:
    """A directory whose params name the fake hub's file."""
    return make_project(directory, "", download={"source": "hub", "file": "", "hub": hub_params(platform, commit, **changed)})


def one_fault(fault: Fault, hub: FakeHub, platform: str) -> bool:
    """Run the stage under a fault and print what came of it; whether it is what must come."""
    with tempfile.TemporaryDirectory() as folder:
        commit = prepare(fault, hub)
        directory = project(Path(folder), platform, commit, **fault.params)
        code, stderr, seconds = run(directory, environment(fault, hub, platform, Path(folder) / "home"))
    shown = stderr.strip().splitlines()
    line = next((line for line in shown if fault.says in line), shown[-1] if shown else "").replace(folder, "…")
    good = code == fault.code and fault.says in stderr and "Traceback" not in stderr
    print(f"{'ok ' if good else 'BAD'} {platform:11} {fault.name:34} exit {code}  {seconds:4.1f} s  {line}", flush=True)
    return good


def resumed(hub: FakeHub, platform: str) -> bool:
    """Break a file off in the middle, run again, and print the bytes that each run received."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(FAULTS[0], hub)
        row = f'{{"Question": "胸痛？", "Complex_CoT": "{"Step. " * 5000}", "Response": "心电图"}}'
        rows = SIZE // (len(row.encode()) + 2)
        commit = hub.add("dataset", REPO, {FILE: f"[{', '.join([row] * rows)}]".encode()})
        directory, variables = project(Path(folder), platform, commit, num_rows=rows), hub.environment(Path(folder) / "home")
        hub.inject("reset", STORAGE, times=1)
        hub.inject("status", STORAGE, status=503)
        first, stderr, seconds = run(directory, variables)
        sent = hub.sent(STORAGE)
        print(
            f"    {platform}: reset in the middle, then 503: exit {first}, {seconds:.1f} s, {sent:,} bytes sent; {stderr.splitlines()[-1]}"
        )
        hub.heal()
        second, stderr, seconds = run(directory, variables)
        note = next((line for line in stderr.splitlines() if "going on" in line), "")
        total = sum(len(content) for content in hub.repos["dataset", REPO].commits[commit].values())
        print(f"    {platform}: the next run: exit {second}, {seconds:.1f} s, {hub.sent(STORAGE):,} of {total:,} bytes sent; {note}")
        return (first, second) == (3, 0) and hub.sent(STORAGE) < total * 0.75


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=["huggingface", "modelscope"], action="append", help="one hub only")
    parser.add_argument("--only", default="", help="faults with this word in their name")
    arguments = parser.parse_args()
    results = []
    with fake_hub() as hub:
        for platform in arguments.platform or ["huggingface", "modelscope"]:
            # A full disk cannot be had from outside; tests/test_hub.py feigns it.
            chosen = [f for f in FAULTS if f.only in ("", platform) and arguments.only in f.name and "disk" not in f.environment]
            results += [one_fault(fault, hub, platform) for fault in chosen]
            if not arguments.only:
                results.append(resumed(hub, platform))
    print(f"{sum(results)} of {len(results)} as they must be")
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
