"""The truth that every path of training is held against: gradients by transformers, peft and autograd, one row at a time, in float64.

Nothing here knows how a path computes. A path is asked for what the contract promises: the loss of some rows, and what it added to the
gradients of the adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from train_factory import CPU, PADDED
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from medcot.model import load_weights
from medcot.template import MASK
from medcot.trainer import Collator, TrainRow

VOCAB = 131
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "initializer_range": 0.2},
    **{"num_attention_heads": 4, "max_position_embeddings": 1024},
}
LLAMA3: dict[str, Any] = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 64,
}
# An epsilon that counts and a base of the rotation that is nobody's default: who has them built in is caught.
SHAPES: dict[str, Any] = {
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, rms_norm_eps=0.02, rope_parameters={"rope_type": "default", "rope_theta": 50.0}),
    # Heads wider than their share of the hidden size, as in Qwen3's smaller models, and one key head for all.
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=32, rms_norm_eps=0.05, tie_word_embeddings=True),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=4, rms_norm_eps=0.01, rope_parameters=LLAMA3),
}
Gradients = dict[str, torch.Tensor]


def write_model(directory: Path, config: Any, seed: int = 0) -> Path:
    """Write random weights that hide nothing: norms that are not one, biases that are not zero."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
    for name, p in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(p, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(directory)
    return directory


def adapted(directory: Path, quantization: str = "none", *, seed: int = 1, **lora: Any) -> Any:
    """A peft model over these weights whose update is not zero, packing, in training mode."""
    base = load_weights(directory, quantization, CPU)
    return wrap(base, seed, **lora)


def wrap(base: Any, seed: int = 1, **lora: Any) -> Any:
    """Put a LoRA adapter on a model, with lora_B away from zero."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(**options))
    for name, p in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model.train()


def random_rows(lengths: Sequence[int] = (23, 2, 150, 7, 41), seed: int = 0, vocab: int = VOCAB) -> list[TrainRow]:
    """Rows of these lengths; the prompt's labels are masked, and so is one in the middle of a reply where it has room."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, length in enumerate(lengths):
        ids = torch.randint(0, vocab, (length,), generator=generator).tolist()
        prompt = int(torch.randint(1, max(2, length // 2), (1,), generator=generator))
        labels = [MASK] * prompt + ids[prompt:]
        if length > 20:
            labels[length - 5] = MASK
        made.append(TrainRow(f"row{i}", ids, labels))
    return made


def num_targets(rows: Sequence[TrainRow]) -> int:
    """Tokens that are learned from: the first of a row has nothing before it."""
    return sum(label != MASK for row in rows for label in row.labels[1:])


def packed(rows: Sequence[TrainRow], **changes: Any) -> dict[str, Any]:
    """One pass over these rows, as the trainer's collator lays it out."""
    batch = Collator(0, packed=True)(rows)
    return {**batch, **changes}


def gradients(model: Any) -> Gradients:
    """Copies of the gradients that stand in the trainable parameters, by name."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def forget(model: Any) -> None:
    for p in model.parameters():
        p.grad = None


def by_autograd(model: Any, rows: Sequence[TrainRow], num_items: int | None = None) -> tuple[float, Gradients]:
    """Loss and gradients of a step by autograd, each row a batch of its own: the definition, in the model's precision."""
    forget(model)
    count, total = num_items or num_targets(rows), 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
        loss = cross_entropy(logits, torch.tensor(row.labels[1:], dtype=torch.long), ignore_index=MASK, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def in_float64(model: Any, directory: Path) -> Any:
    """The same model in float64 without a line of ours: transformers' modules over the weights that NF4 stands for, peft's adapter on top.

    transformers' norms compute in float32 whatever they are given, so they get their formula in float64.
    """
    import bitsandbytes as bnb

    dense = load_weights(directory, "none", PADDED)
    config = copy.deepcopy(model.peft_config["default"])
    exact = get_peft_model(dense, config)
    ours, theirs = dict(model.named_modules()), dict(exact.named_modules())
    for name, module in ours.items():
        if isinstance(module, bnb.nn.Linear4bit):
            theirs[name].weight.data = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    exact.load_state_dict({name: p for name, p in model.named_parameters() if p.requires_grad}, strict=False)
    exact.double()
    for module in exact.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_norm, module)
    return exact.train(model.training)


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))
    return normed


def relative_errors(found: Gradients, truth: Gradients, floor: float = 1e-3) -> dict[str, float]:
    """|found − truth| / |truth| of each matrix (Frobenius); a matrix that one of them lacks is infinitely wrong.

    A gradient that is nothing beside the others is held against `floor` of the largest: a row of two tokens gives none to queries.
    """
    least = floor * max(float(grad.norm()) for grad in truth.values())
    errors = {name: float("inf") for name in found.keys() ^ truth.keys()}
    for name in found.keys() & truth.keys():
        errors[name] = float((found[name].double() - truth[name]).norm()) / max(float(truth[name].norm()), least)
    return errors
