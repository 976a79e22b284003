"""A directory that looks like the repository to a data stage, and the stage run in it as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from medcot.decisions import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
PARAMS = {
    "download": {"source": "file", "file": "mine.jsonl", "mapping": "auto", "max_samples": 0, "seed": 42},
    "normalize": {"max_bad_ratio": 0.01},
}


def row(i: int, **fields: Any) -> dict[str, Any]:
    """Make the i-th row of a source, in Chinese and English."""
    return {"Question": f"病例 {i}：胸痛 {i} 天？", "Complex_CoT": f"Step {i}. 先想。", "Response": f"答案 {i}", **fields}


def lines(*rows: Any) -> str:
    """Join rows, and strings as they are, into JSON Lines."""
    return "".join((each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)) + "\n" for each in rows)


def make_project(directory: Path, content: str | bytes, name: str = "mine.jsonl", **params: dict[str, Any]) -> Path:
    """Write one import file and a params file; `params` changes keys by section."""
    file = directory / "data" / "import" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    sections = {section: {**values, **params.get(section, {})} for section, values in PARAMS.items()}
    sections["download"] = {**PARAMS["download"], "file": name, **params.get("download", {})}
    decisions = directory / "data" / "curation" / "decisions.csv"
    decisions.parent.mkdir(exist_ok=True)
    decisions.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    (directory / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")
    return directory


def run_stage(directory: Path, stage: str) -> tuple[int, str]:
    """Run `python -m stages.<stage>` in a directory; the exit code and stderr."""
    env = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    command = [sys.executable, "-m", f"stages.{stage}"]
    result = subprocess.run(command, cwd=directory, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert result.stdout == "", "stages say what they have to say on stderr"
    return result.returncode, result.stderr
