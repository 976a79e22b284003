"""Run LLaMA-Factory's real loader on directories that convert wrote; a process of its own, because of what it patches.

Reads a JSON list of {name, tokenizer, data} from stdin and writes what the loader made of each to the file argv[1].
"""

from __future__ import annotations

import json
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ["DISABLE_VERSION_CHECK"] = "1"
import transformers  # noqa: F401
import yaml

sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # LLaMA-Factory imports it unseen; text needs none of it
from datasets import load_dataset  # noqa: E402
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


class Warnings(logging.Handler):
    """Collects LLaMA-Factory's own warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("llamafactory.data"):
            self.messages.append(record.getMessage())


def load(tokenizer_dir: str, data: Path) -> dict[str, Any]:
    """Load one directory as `llamafactory-cli train train.yaml` would, up to the first training step."""
    config = yaml.safe_load((data / "train.yaml").read_text(encoding="utf-8"))
    config |= {"dataset_dir": str(data), "model_name_or_path": tokenizer_dir, "output_dir": str(data / "out"), "report_to": "none"}
    config |= {"use_cpu": True, "bf16": False}
    model_args, data_args, training_args, _, _ = get_train_args(config)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    before = len(tokenizer)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    module = get_dataset(template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer)
    columns = ("input_ids", "labels")
    rows = {part: [{c: row[c] for c in columns} for row in module[part]] for part in ("train_dataset", "eval_dataset") if part in module}
    generic = load_dataset("json", data_files={"train": str(data / "train.json")}, cache_dir=str(data / "cache"))["train"]
    return {"len_before": before, "len_after": len(tokenizer), "eos": tokenizer.eos_token, "generic": generic.to_list(), **rows}


def main() -> None:
    handler = Warnings()
    logging.getLogger("llamafactory").addHandler(handler)
    results = {}
    for case in json.load(sys.stdin):
        handler.messages.clear()
        result = load(case["tokenizer"], Path(case["data"]))
        results[case["name"]] = {**result, "warnings": list(handler.messages)}
    Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
