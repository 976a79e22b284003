"""Run base, train, evaluate_base and evaluate on a GPU over real architectures with random weights: tokens per second and peak memory.

    python benchmarks/gpu.py                            every shape, on the path that is chosen and on the plain one
    python benchmarks/gpu.py --shapes 7b 14b --memory 22.5                      as on a card of 24 GB
    python benchmarks/gpu.py --shapes 7b --memory 22.5 --lengths full --batch 32 --accumulation 1      32 rows of 2,048 tokens a step

Speed and memory do not depend on the values of weights, so none are downloaded: a model directory in hub layout is written with
random bfloat16 weights in the shape of the real one, and the stages run on it as a user runs them, each in a process of its own.
Rows have log-normal lengths (mean 700 tokens, sd 250, at most 2,048), or all of them 2,048 tokens; a step has those of
recipes/medcot_7b.yaml. A shape needs free disk of twice its 16-bit weights' size.
`--padded` adds a run of train with padded batches under sdpa, the path of architectures that medcot does not pack.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from medcot.llamafactory import Row, render_row, write_rows
from medcot.model import choose_hardware
from medcot.records import read_jsonl
from medcot.template import encode, get_template
from medcot.tokenizer import ChatTokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from factories import write_qwen3_tokenizer  # noqa: E402 - a small tokenizer whose ids lie in every vocabulary

TEMPLATE = get_template("qwen3")
MEAN, SD, LONGEST = 700, 250, 2048
NUM_VAL = 64


def qwen2(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=152064,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=131072,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )


SHAPES = {
    "1.7b": Qwen3Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    ),
    "7b": qwen2(3584, 18944, 28, 28, 4),
    "llama-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
    "14b": qwen2(5120, 13824, 48, 40, 8),
}
# The shapes of Qwen3-1.7B and of DeepSeek-R1-Distill-Qwen-7B, -Llama-8B and -Qwen-14B, from their public config.json.


def write_model(directory: Path, config: Any, tokenizer: Path) -> None:
    """Write config, random bfloat16 weights in shards and the tokenizer, as a hub lays a model out."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="4GB")
    shutil.copytree(tokenizer, directory, dirs_exist_ok=True)
    del model
    torch.cuda.empty_cache()


def make_rows(count: int, tok: ChatTokenizer, first: int = 0, *, full: bool = False) -> Iterator[Row]:
    """Join sentences of the sample into rows of log-normal token lengths, or the greatest; each row has an id of its own."""
    sample = [(row["Complex_CoT"], row["Response"]) for row in read_jsonl(ROOT / "data/sample/base.jsonl")]
    random = np.random.default_rng(first)
    sigma = np.sqrt(np.log1p((SD / MEAN) ** 2))
    for i in range(count):
        target = LONGEST - 8 if full else min(LONGEST - 8, random.lognormal(np.log(MEAN) - sigma**2 / 2, sigma))
        question, parts, length = f"第 {first + i} 例：考虑什么？", [], 0
        while length < target:
            parts.append(sample[int(random.integers(len(sample)))][0])
            row = Row(f"{first + i:016x}", question, "\n".join(parts), sample[i % len(sample)][1])
            length = len(encode(tok, TEMPLATE, row.question, row.reasoning, row.answer).input_ids)
        excess = max(0, int(length - target)) * len(row.reasoning) // length
        yield Row(row.id, question, row.reasoning[: len(row.reasoning) - excess].strip() or "。", row.answer)


def write_data(work: Path, tokenizer: Path, num_rows: int, *, full: bool) -> int:
    """Write train.json, val.json and train.yaml as convert would; returns the tokens of the training rows."""
    tok, directory = load_tokenizer(tokenizer), work / "data/llamafactory"
    directory.mkdir(parents=True, exist_ok=True)
    rows = list(make_rows(num_rows, tok, full=full))
    for split, chosen in (("train", rows), ("val", list(make_rows(NUM_VAL, tok, first=num_rows)))):
        write_rows(directory / f"{split}.json", (render_row(row, TEMPLATE, "", "alpaca") for row in chosen))
    (directory / "train.yaml").write_text("stage: sft\n", encoding="utf-8")
    return sum(len(encode(tok, TEMPLATE, row.question, row.reasoning, row.answer).input_ids) for row in rows)


def write_params(work: Path, name: str, args: argparse.Namespace) -> None:
    content = {
        "base": {"source": "local", "path": name},
        "model": {"template": TEMPLATE.name, "cutoff_len": LONGEST, "quantization": "nf4"},
        "evaluate": {"split": "val", "max_tokens_per_batch": 16384, "probes": ["头晕恶心怎么办？"], "probe_max_new_tokens": 16},
        "train": {
            "max_steps": args.steps,
            "per_device_train_batch_size": args.batch,
            "gradient_accumulation_steps": args.accumulation,
            "gradient_checkpointing": args.checkpointing,
            "learning_rate": 1e-4,
            "lora_rank": 8,
        },
    }
    (work / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


# Stage train with packing taken away, as for an architecture whose rows medcot cannot keep apart.
PADDED = """import runpy, medcot.model
medcot.model.implementation_for = lambda *_: "sdpa"
runpy.run_module("stages.train", run_name="__main__")"""


def run(work: Path, stage: str, settings: dict[str, str], command: list[str] | None = None) -> tuple[str, float]:
    """Run a stage in the work directory; its stderr and seconds. Exits with the stage's own words when it fails."""
    begin = time.monotonic()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]), **settings}
    result = subprocess.run(
        command or [sys.executable, "-m", f"stages.{stage}"], cwd=work, env=env, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begin
    if result.returncode:
        raise SystemExit(f"{stage} ended with {result.returncode}:\n{result.stderr[-3000:]}")
    return result.stderr, seconds


def figures(text: str) -> dict[str, Any]:
    """Tokens per second and peak memory out of a stage's closing lines."""
    speed = re.findall(r"([\d,]+) tokens/s", text)
    peak = re.findall(r"([\d.]+) GiB in use, ([\d.]+) GiB reserved", text)
    in_use, reserved = peak[-1] if peak else (None, None)
    said = re.findall(r"^train: (\S+) path: .*|^train: passes of up to ([\d,]+ tokens, .*)", text, re.MULTILINE)
    how = {"path": next((path for path, _ in said if path), None), "passes": next((passes for _, passes in said if passes), None)}
    return {"tokens_per_s": int(speed[-1].replace(",", "")) if speed else None, "in_use_gib": in_use, "reserved_gib": reserved, **how}


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the chain for one shape; a line of the table for each way of training, with the evaluation on the first."""
    lines = []
    memory = {"MEDCOT_GPU_MEMORY_GIB": str(args.memory)} if args.memory else {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as directory:
        work = Path(directory)
        tokenizer = write_qwen3_tokenizer(work / "tokenizer", vocab_size=1000)
        write_model(work / "models/import" / name, SHAPES[name], tokenizer)
        tokens = write_data(work, tokenizer, min(512, args.steps * args.batch * args.accumulation), full=args.lengths == "full")
        (work / "models/import_adapter").mkdir(parents=True)
        ways: list[tuple[str, list[str] | None]] = [(path, None) for path in args.path]
        ways += [("plain", [sys.executable, "-c", PADDED])] if args.padded else []
        write_params(work, name, args)
        base_seconds = run(work, "base", memory)[1]
        for i, (path, command) in enumerate(ways):
            trained, seconds = run(work, "train", {**memory, "MEDCOT_TRAIN_PATH": path}, command)
            metrics = json.loads((work / "metrics/train.json").read_text(encoding="utf-8"))
            line = {"shape": name, "padded": bool(command), "memory_gib": args.memory, "steps": metrics["num_steps"], "rows_tokens": tokens}
            line |= {"train": figures(trained), "train_seconds": round(seconds)}
            line |= {"eval_loss": metrics["eval_loss"], "moved_rate": metrics["moved_rate"]}
            if i == 0 and not args.train_only:
                line["base_seconds"] = round(base_seconds)
                line["evaluate_base"] = figures(run(work, "evaluate_base", memory)[0])
                line["evaluate"] = figures(run(work, "evaluate", memory)[0])
            lines.append(line)
            print(json.dumps(line, ensure_ascii=False), flush=True)
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    rows = ["| shape | path | passes of up to | steps | train tokens/s | peak GiB | evaluate tokens/s | peak GiB |"]
    rows.append("|---" * 8 + "|")
    for line in lines:
        train, tuned = line["train"], line.get("evaluate", {})
        path = f"{train['path']}, padded" if line["padded"] else train["path"]
        cells = [line["shape"], path, train["passes"], line["steps"], train["tokens_per_s"], train["reserved_gib"]]
        rows.append("| " + " | ".join(str(c) for c in [*cells, tuned.get("tokens_per_s", ""), tuned.get("reserved_gib", "")]) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of each training")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--accumulation", type=int, default=2, help="rows of a step are batch × accumulation")
    parser.add_argument("--lengths", choices=("realistic", "full"), default="realistic", help="full: every row has 2,048 tokens")
    parser.add_argument("--path", nargs="+", choices=("auto", "plain", "fused"), default=["auto", "plain"], help="MEDCOT_TRAIN_PATH")
    parser.add_argument("--memory", type=float, metavar="GIB", help="MEDCOT_GPU_MEMORY_GIB: 22.5 as on a card of 24 GB, 14.8 as on 16 GB")
    parser.add_argument("--checkpointing", action="store_true", help="train.gradient_checkpointing: true")
    parser.add_argument("--padded", action="store_true", help="also train with padded batches under sdpa")
    parser.add_argument("--train-only", action="store_true", help="leave the evaluations out")
    parser.add_argument("--scratch", type=Path, help="where the weights go while they are needed; default: the temporary directory")
    parser.add_argument("--out", type=Path, help="write the lines as JSON there")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"benchmarks/gpu.py needs a GPU: {choose_hardware().reason}")
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    lines = [line for name in args.shapes for line in measure(name, args)]
    if args.out:
        args.out.write_text(json.dumps(lines, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(lines))


if __name__ == "__main__":
    main()
