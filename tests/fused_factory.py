"""Small models of the shapes that the fused step knows, on a CPU in float32, and packs of rows of unequal length for them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from parity_factory import SHAPES, wrap
from transformers import AutoModelForCausalLM

from medcot.attention import NAME, pack
from medcot.fused.attention import Pack
from medcot.template import MASK


def small_model(shape: str, **lora: Any) -> Any:
    """A peft model with random dense weights and an update that is not zero."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(SHAPES[shape]), dtype=torch.float32, attn_implementation=NAME)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return wrap(base, **lora)


def batch_of(lengths: list[int], vocabulary: int, seed: int = 0) -> dict[str, Any]:
    """Rows end to end; a third of the labels is masked, and the first of every row."""
    generator = torch.Generator().manual_seed(seed)
    batch = pack([torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in lengths])
    labels = batch["input_ids"].clone()
    labels[0, torch.rand(labels.shape[1], generator=generator) < 1 / 3] = MASK
    labels[0, batch["cu_seq_lens_q"][:-1].long()] = MASK
    return {**batch, "labels": labels}


def pack_of(lengths: list[int], head_dim: int) -> Pack:
    """Bounds and angles of rows of these lengths."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    angles = positions[:, None] / 10 ** (2 * torch.arange(head_dim // 2) / head_dim)
    return Pack(bounds, max(lengths), angles.cos(), angles.sin())
