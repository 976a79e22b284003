"""How far two models are apart on the same text: the mean KL divergence of their next-token distributions.

Measured over gold responses, teacher-forced: every model reads the same tokens, nothing is generated, and reasoning and answer are
both covered. Greedy replies would part at the first near-tie and then compare different texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from medcot.errors import MachineError
from medcot.template import Encoded


def spread_positions(row: Encoded, most: int) -> list[int]:
    """At most `most` positions, evenly spread, whose logits predict a token of the response, its EOS included."""
    first, count = row.prompt_len - 1, len(row.input_ids) - row.prompt_len
    taken = min(most, count)
    return [first + i * count // taken for i in range(taken)]


@torch.inference_mode()
def log_probs(model: Any, row: Encoded, positions: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of the next token at these positions: float32 of shape (len(positions), vocabulary), on the model's device."""
    try:
        logits = model(input_ids=torch.tensor([row.input_ids], device=model.device), use_cache=False).logits[0, list(positions)]
        return torch.log_softmax(logits.float(), dim=-1)
    except torch.OutOfMemoryError:
        raise MachineError("export", f"the GPU's memory does not hold a row of {len(row.input_ids)} tokens", "free the GPU") from None


def reference(model: Any, rows: Sequence[Encoded], most: int) -> list[torch.Tensor]:
    """The log-probabilities that mean_kl compares with, one tensor a row, in main memory: 4 bytes × positions × vocabulary."""
    return [log_probs(model, row, spread_positions(row, most)).cpu() for row in tqdm(rows, desc="reference", unit="row", disable=None)]


def mean_kl(model: Any, rows: Sequence[Encoded], against: Sequence[torch.Tensor], most: int) -> float:
    """Mean KL(model ‖ reference) per token, in nats, over the same positions.

    Σ p·log(p/q) − p + q, which is the KL where p and q sum to one, and stays ≥ 0 where their float32 sums only nearly do.
    """
    total, count = 0.0, 0
    for row, other in tqdm(zip(rows, against, strict=True), desc="kl", unit="row", total=len(rows), disable=None):
        ours = log_probs(model, row, spread_positions(row, most))
        p, q = ours.double(), other.to(ours.device).double()
        total += float(torch.sum(p.exp() * (p - q) - p.exp() + q.exp()))
        count += len(ours)
    return total / count
