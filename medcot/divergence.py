"""How far two models are apart on the same text: the mean KL divergence of their next-token distributions.

Measured over gold responses, teacher-forced: every model reads the same tokens, nothing is generated, and reasoning and answer are
both covered. Greedy replies would part at the first near-tie and then compare different texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import polars as pl
import torch
from tqdm import tqdm

from medcot.arm import DIVERGENCE_SCHEMA
from medcot.errors import MachineError
from medcot.nll import Spans
from medcot.template import Encoded


def spread_positions(row: Encoded, most: int) -> list[int]:
    """At most `most` positions, evenly spread, whose logits predict a token of the response, its EOS included."""
    first, count = row.prompt_len - 1, len(row.input_ids) - row.prompt_len
    taken = min(most, count)
    return [first + i * count // taken for i in range(taken)]


@torch.inference_mode()
def log_probs(model: Any, input_ids: list[int], positions: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of the next token at these positions: float32 of shape (len(positions), vocabulary), on the model's device."""
    try:
        logits = model(input_ids=torch.tensor([input_ids], device=model.device), use_cache=False).logits[0, list(positions)]
        return torch.log_softmax(logits.float(), dim=-1)
    except torch.OutOfMemoryError:
        raise MachineError("model", f"the GPU's memory does not hold a row of {len(input_ids)} tokens", "free the GPU") from None


def reference(model: Any, rows: Sequence[Encoded], most: int) -> list[torch.Tensor]:
    """The log-probabilities that mean_kl compares with, one tensor a row, in main memory: 4 bytes × positions × vocabulary."""
    return [
        log_probs(model, row.input_ids, spread_positions(row, most)).cpu() for row in tqdm(rows, desc="reference", unit="row", disable=None)
    ]


def mean_kl(model: Any, rows: Sequence[Encoded], against: Sequence[torch.Tensor], most: int) -> float:
    """Mean KL(model ‖ reference) per token, in nats, over the same positions.

    Σ p·log(p/q) − p + q, which is the KL where p and q sum to one, and stays ≥ 0 where their float32 sums only nearly do.
    """
    total, count = 0.0, 0
    for row, other in tqdm(zip(rows, against, strict=True), desc="kl", unit="row", total=len(rows), disable=None):
        ours = log_probs(model, row.input_ids, spread_positions(row, most))
        total += _kl(ours, other.to(ours.device))
        count += len(ours)
    return total / count


def _kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """Σ KL(p ‖ q) over positions from log-probabilities, as mean_kl says."""
    p, q = p.double(), q.double()
    return float(torch.sum(p.exp() * (p - q) - p.exp() + q.exp()))


def divergence_frame(
    base: Callable[[], AbstractContextManager[Any]], tuned: Any, ids: Sequence[str], spans: Sequence[Spans]
) -> pl.DataFrame:
    """KL(base ‖ tuned) and top-1 agreement on the spans of each text: an early warning of forgetting.

    base  makes a context whose value is the base model, such as the tuned one with its adapter disabled
    Returns one line per text; see DIVERGENCE_SCHEMA.
    """
    lines = []
    for text_id, one in tqdm(zip(ids, spans, strict=True), desc="divergence", unit="text", total=len(ids), disable=None):
        positions = [position - 1 for span in one.spans.values() for position in span]
        with base() as model:
            p = log_probs(model, one.input_ids, positions)
        q = log_probs(tuned, one.input_ids, positions)
        lines.append((text_id, len(positions), _kl(p, q), int((p.argmax(-1) == q.argmax(-1)).sum())))
    return pl.DataFrame(lines, schema=DIVERGENCE_SCHEMA, orient="row")
