"""Negative log-likelihood of chosen token spans under any causal language model, in batches that do not change the result.

Sequences are packed end to end where the model keeps them apart (medcot/attention.py), else padded. Only the wanted positions reach
the output layer, since a vocabulary of 152,000 makes logits the largest thing in memory. The log-softmax is float32, in chunks; the
sums are float64.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from medcot.attention import pack, packs
from medcot.errors import MachineError
from medcot.model import peak_memory

HEAD_CHUNK = 1024  # positions whose logits are float32 at a time
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class Spans:
    """A token sequence and the named spans of it to be scored.

    spans  positions of the predicted tokens, each ≥ 1: the first token of a sequence has nothing to be predicted from
    """

    input_ids: list[int]
    spans: dict[str, range]


def span_nll(model: Any, sequences: Sequence[Spans], max_tokens: int) -> list[dict[str, float]]:
    """Sum the NLL (nats) of each span given all tokens before it, for each sequence.

    model       a transformers causal LM or a peft model over one, in evaluation mode
    max_tokens  tokens in a batch, padding included; a longer sequence is a batch of its own
    """
    results: list[dict[str, float]] = [{} for _ in sequences]
    batches = batch_by_tokens([len(sequence.input_ids) for sequence in sequences], max_tokens, packed=packs(model))
    begin = time.monotonic()
    for batch in tqdm(batches, desc="nll", unit="batch", disable=None):
        scored = _batch_nll(model, [sequences[i] for i in batch])
        for i, sums in zip(batch, scored, strict=True):
            results[i] = sums
    tokens, seconds = sum(len(sequence.input_ids) for sequence in sequences), max(1e-9, time.monotonic() - begin)
    facts = [f"{tokens / seconds:,.0f} tokens/s", *peak_memory()]
    log.info("nll: %d sequences, %d tokens, %s", len(sequences), tokens, ", ".join(facts))
    return results


def batch_by_tokens(lengths: Sequence[int], max_tokens: int, *, packed: bool = False) -> list[list[int]]:
    """Group indices by length, longest first, so that each batch stays within max_tokens, padded to its longest or packed.

    The longest rows come first: memory that does not suffice shows at once.
    """
    batches: list[list[int]] = []
    width = used = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[i] if packed else width
        if not batches or used + size > max_tokens:
            batches.append([])
            used, width = 0, lengths[i]
            size = width
        batches[-1].append(i)
        used += size
    return batches


def _batch_nll(model: Any, batch: Sequence[Spans]) -> list[dict[str, float]]:
    wanted = [(row, position) for row, one in enumerate(batch) for span in one.spans.values() for position in span]
    if not wanted:
        return [dict.fromkeys(one.spans, 0.0) for one in batch]
    values = iter(_token_nll(model, [one.input_ids for one in batch], wanted))
    return [{name: float(sum(next(values) for _ in span)) for name, span in one.spans.items()} for one in batch]


@torch.inference_mode()
def _token_nll(model: Any, batch: Sequence[list[int]], wanted: Sequence[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """NLL of the tokens at the wanted (row, position) pairs, as float64 of shape (len(wanted),)."""
    inputs, starts = _pack(model, batch) if packs(model) else _pad(model, batch)
    rows, positions = torch.tensor(wanted, device=model.device).T
    places = starts[rows] + positions
    targets = inputs["input_ids"].reshape(-1)[places]
    try:
        with _only_positions(model, places - 1):
            logits = model(**inputs, use_cache=False).logits
        chunks = [slice(start, start + HEAD_CHUNK) for start in range(0, len(targets), HEAD_CHUNK)]
        nll = torch.cat([cross_entropy(logits[chunk].float(), targets[chunk], reduction="none") for chunk in chunks])
    except torch.OutOfMemoryError:
        got = f"{len(batch)} sequences of up to {max(len(ids) for ids in batch)} tokens"
        remedy = "lower evaluate.max_tokens_per_batch, or free the GPU"
        raise MachineError("evaluate", "the GPU's memory does not hold a batch", remedy, got=got) from None
    return nll.double().cpu().numpy()


def _pack(model: Any, batch: Sequence[list[int]]) -> tuple[dict[str, Any], torch.Tensor]:
    """The inputs of a pack, and the place of each sequence's first token among all of them."""
    inputs = pack(batch, model.device)
    return inputs, inputs["cu_seq_lens_q"][:-1].long()


def _pad(model: Any, batch: Sequence[list[int]]) -> tuple[dict[str, Any], torch.Tensor]:
    """The same, padded on the right, where causal attention lets no real token see it; a mask would only cost the fast kernel."""
    width = max(len(ids) for ids in batch)
    input_ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in batch], device=model.device)
    return {"input_ids": input_ids}, torch.arange(len(batch), device=model.device) * width


@contextmanager
def _only_positions(model: Any, places: torch.Tensor) -> Iterator[None]:
    """Let only the hidden states at these places into the output layer; whatever the model does to logits after it still happens."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1)[places], *args[1:]))
    try:
        yield
    finally:
        hook.remove()
