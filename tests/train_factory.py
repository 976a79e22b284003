"""What tests of training need: rows in both languages, a tiny base, and a workspace as the stages before train leave it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from factories import write_qwen3_tokenizer
from model_factory import tiny_model_dir

from medcot.adapters import Identity, add_adapter
from medcot.llamafactory import Row, render_row, write_rows
from medcot.model import Hardware, load_base, read_base_record
from medcot.template import TEMPLATES
from medcot.tokenizer import load_tokenizer
from medcot.train_params import TrainParams
from medcot.trainer import TrainRow
from medcot.training import encode_rows

# Layers this small gain nothing from a second thread, and on a busy machine they wait for it hundreds of times longer than they compute.
torch.set_num_threads(1)

CPU = Hardware("cpu", "float32", "varlen", "a test")
PADDED = Hardware("cpu", "float32", "sdpa", "a test")
QWEN3 = TEMPLATES["qwen3"]
TOPICS = ("胸痛", "发热", "头晕", "咳嗽", "chest pain", "fever", "vertigo", "cough")


def rows(count: int = 16, start: int = 0) -> list[Row]:
    """Rows of different lengths, Chinese and English by turns; equal arguments give equal rows."""
    made = []
    for i in range(start, start + count):
        topic, steps = TOPICS[i % len(TOPICS)], "、".join(f"查{n}" for n in range(i % 5))
        if topic.isascii():
            texts = (f"A {20 + i}-year-old has {topic}. What now?", f"First look at {topic}. {steps}", f"Treat {topic}.")
        else:
            texts = (f"患者{topic}{i}天，考虑什么？", f"先看{topic}。{steps}", f"考虑{topic}相关疾病。")
        made.append(Row(f"{i:016x}", *texts))
    return made


class Base:
    """A tiny base on disk with its tokenizer, and encoded rows for it."""

    def __init__(self, root: Path) -> None:
        self.tokenizer_dir = write_qwen3_tokenizer(root / "tokenizer")
        self.model_dir = tiny_model_dir(root / "model", self.tokenizer_dir)
        self.tok = load_tokenizer(self.tokenizer_dir)

    def identity(self) -> Identity:
        return Identity(read_base_record(self.model_dir)[0].fingerprint, QWEN3.fingerprint, self.tok.fingerprint)

    def encoded(self, count: int = 16, start: int = 0) -> list[TrainRow]:
        return encode_rows(rows(count, start), self.tok, QWEN3, "")

    def model(self, quantization: str = "nf4", hardware: Hardware = CPU) -> Any:
        return load_base(self.model_dir, quantization, hardware)

    def adapted(self, params: TrainParams, quantization: str = "nf4") -> Any:
        return add_adapter(self.model(quantization), params, str(self.model_dir))


def write_train_workspace(root: Path, base: Base, quantization: str = "nf4", *, num_rows: int = 16, **train: Any) -> None:
    """Write params.yaml, both splits, base and tokenizer under a root."""
    values = {"max_steps": 4, "per_device_train_batch_size": 4, **train}
    content = {"model": {"quantization": quantization}, "train": values}
    (root / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    data = root / "data/llamafactory"
    data.mkdir(parents=True, exist_ok=True)
    for split, chosen in (("train", rows(num_rows)), ("val", rows(6, start=100))):
        write_rows(data / f"{split}.json", (render_row(row, QWEN3, "", "alpaca") for row in chosen))
    (data / "train.yaml").write_text("stage: sft\ntemplate: qwen3\nfinetuning_type: lora\n", encoding="utf-8")
    shutil.copytree(base.tokenizer_dir, root / "models/base/tokenizer", dirs_exist_ok=True)
    shutil.copytree(base.model_dir, root / "models/base/model", dirs_exist_ok=True)


def read_metrics(root: Path) -> dict[str, Any]:
    """The metrics that stage train wrote."""
    content: dict[str, Any] = json.loads((root / "metrics/train.json").read_text(encoding="utf-8"))
    return content
