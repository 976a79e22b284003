"""How near the gradients of each path are to the truth, at real width: two layers of Qwen2 7B, Qwen3 1.7B and Llama 8B with random weights.

The truth is transformers + peft in float32 over the very weights that the 16-bit step reads, one row at a time. Against it, and against
transformers + peft in bfloat16 under autocast, also one row at a time, stand the passes of the plain path, of the plain path with Liger's
layers (where liger-kernel is installed) and of the fused path, in one pass and in passes of 900 tokens that recompute. Printed are the
relative error |found − truth| / |truth| of the LoRA matrices, mean and largest, and the least cosine.

On a CPU everything is float32 and narrow (--tiny), which shows that the script works and no more.

Run     python -m benchmarks.parity [--shapes 7b,1.7b,8b] [--quantization nf4] [--tiny]
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import PreTrainedTokenizerFast

from benchmarks.random_model import build
from medcot import paths
from medcot.liger import why_no_liger
from medcot.model import Hardware
from medcot.passes import Budget
from medcot.template import MASK
from medcot.train_params import TrainParams
from medcot.trainer import CotTrainer, TrainRow, num_predicted
from medcot.training import trainer_config

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
HARDWARE = Hardware(DEVICE, "bfloat16" if ON_GPU else "float32", "varlen", "a benchmark")
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
LENGTHS, TINY_LENGTHS = (1000, 2, 700, 346), (60, 2, 37, 100)
Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Step:
    """The loss and the gradients that a way of computing gives for the rows."""

    loss: float
    grads: Gradients


@dataclass(frozen=True)
class Case:
    """A model with its adapter, rows, and what they are held against."""

    name: str
    model: Any
    rows: list[TrainRow]
    truth: Step
    half: Step


def make_rows(vocabulary: int, lengths: tuple[int, ...]) -> list[TrainRow]:
    """Rows of random tokens whose first third is a masked prompt."""
    generator, rows = torch.Generator().manual_seed(3), []
    for i, length in enumerate(lengths):
        ids = torch.randint(10, vocabulary - 10, (length,), generator=generator).tolist()
        prompt = max(1, length // 3)
        rows.append(TrainRow(f"row{i}", ids, [MASK] * prompt + ids[prompt:]))
    return rows


def collect(model: Any) -> Gradients:
    return {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.requires_grad}


def by_autograd(model: Any, rows: list[TrainRow], *, half: bool) -> Step:
    """transformers + peft, one row at a time."""
    model.zero_grad(set_to_none=True)
    count, total = sum(map(num_predicted, rows)), 0.0
    for row in rows:
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=half):
            logits = model(input_ids=torch.tensor([row.input_ids], device=DEVICE), use_cache=False).logits[0, :-1]
        targets = torch.tensor(row.labels[1:], device=DEVICE)
        loss = cross_entropy(logits.float(), targets, ignore_index=MASK, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return Step(total, collect(model))


def adapt(model: Any) -> Any:
    """A fp32 adapter whose update is not zero, and biases that are not."""
    wrapped = get_peft_model(model, LoraConfig(**LORA)).train()
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            p.data = p.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(p, 0, 0.02)
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, 0, 0.1)
    return wrapped


def in_float32(model: Any, shape: str, *, tiny: bool) -> Any:
    """The same model in float32, over the 16-bit weights that NF4 is unpacked to."""
    from bitsandbytes.functional import dequantize_4bit

    exact = get_peft_model(build(shape, 2, "none", "sdpa", DEVICE, tiny=tiny).float(), LoraConfig(**LORA)).train()
    modules, ours = dict(model.named_modules()), dict(model.named_parameters())
    for name, p in exact.named_parameters():
        state = getattr(getattr(modules[name.rpartition(".")[0]], "weight", None), "quant_state", None)
        packed = state is not None and name.endswith("weight")
        p.data = dequantize_4bit(ours[name].data, state).float() if packed else ours[name].data.float().clone()
    return exact


def make_case(shape: str, quantization: str, *, tiny: bool) -> Case:
    """Build a model and compute both references."""
    torch.manual_seed(7)
    model = adapt(build(shape, 2, quantization, device=DEVICE, tiny=tiny))
    rows = make_rows(model.config.vocab_size, TINY_LENGTHS if tiny else LENGTHS)
    truth = by_autograd(in_float32(model, shape, tiny=tiny), rows, half=False)
    base = model.get_base_model()
    attention = base.config._attn_implementation
    base.set_attn_implementation("sdpa")
    half = by_autograd(model, rows, half=ON_GPU)
    base.set_attn_implementation(attention)
    return Case(f"{shape} {quantization}", model, rows, truth, half)


@contextmanager
def without_liger() -> Iterator[None]:
    """Let the plain path find no Liger."""
    paths.why_no_liger = lambda model: "hidden"  # type: ignore[assignment]
    try:
        yield
    finally:
        paths.why_no_liger = why_no_liger


def by_path(case: Case, path: str, budget: Budget | None = None) -> Step:
    """The step as stage train computes it."""
    os.environ[paths.TRAIN_PATH] = path
    params, words = TrainParams(max_steps=1), Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
    with tempfile.TemporaryDirectory() as scratch:
        config = trainer_config(params, HARDWARE, len(case.rows), 0, Path(scratch))
        options = {"params": params, "hardware": HARDWARE, "args": config, "processing_class": tokenizer}
        trainer = CotTrainer(case.model, rows=case.rows, **options)
    trainer.budget = budget or trainer.budget
    case.model.zero_grad(set_to_none=True)
    loss = float(trainer.run_rows(case.rows, sum(map(num_predicted, case.rows))))
    return Step(loss, collect(case.model))


def errors(found: Step, wanted: Step) -> str:
    """Cells of the table: difference of the loss, relative error (mean, largest), least cosine."""
    relative = [float((found.grads[n] - grad).norm() / grad.norm()) for n, grad in wanted.grads.items()]
    cosines = [float(cosine_similarity(found.grads[n].flatten(), grad.flatten(), 0)) for n, grad in wanted.grads.items()]
    return f"{found.loss - wanted.loss:+.0e} | {sum(relative) / len(relative):.4f} | {max(relative):.4f} | {min(cosines):.5f}"


def tell(case: Case, way: str, found: Step) -> None:
    against_half = "| – | – | – | –" if found is case.half else f"| {errors(found, case.half)}"
    print(f"| {case.name} | {way} | {errors(found, case.truth)} {against_half} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="7b,1.7b,8b")
    parser.add_argument("--quantization", choices=("nf4", "none"), default="nf4")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_float32_matmul_precision("highest")
    print("| Model | Way | float32: loss | mean | largest | cosine | transformers + peft: loss | mean | largest | cosine |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    cases = []
    for shape in asked.shapes.split(","):
        case = make_case(shape, asked.quantization, tiny=asked.tiny)
        tell(case, "transformers + peft", case.half)
        with without_liger():
            tell(case, "plain", by_path(case, "plain"))
        tell(case, "fused", by_path(case, "fused"))
        tell(case, "fused, recomputing", by_path(case, "fused", Budget(900, 300)))
        cases.append(case)
        gc.collect()
    # Last: Liger changes modules of transformers, and a model built later would be made of its layers.
    for case in cases if ON_GPU else []:
        if not why_no_liger(case.model):
            tell(case, "plain, Liger", by_path(case, "plain"))


if __name__ == "__main__":
    main()
