"""Rows end to end in one sequence, without padding, and the attention that keeps each row to itself.

Registered with transformers as `medcot_varlen`. On a GPU it is torch's own variable-length flash attention
(torch.nn.attention.varlen; no flash-attn wheel), elsewhere each row goes through scaled dot-product attention by itself: the same
numbers, and the reference that the kernel is tested against. What is not packed (generation with a cache, padded batches) goes
through transformers' sdpa with its mask.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import medcot.libraries  # noqa: F401 - before transformers

# isort: split
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "medcot_varlen"
KERNEL_DTYPES = (torch.bfloat16, torch.float16)
KERNEL_CAPABILITY = (8, 0)  # flash attention needs Ampere
KERNEL_HEAD_DIM = 256


def pack(sequences: Sequence[Sequence[int]], device: Any = None) -> dict[str, Any]:
    """Lay token sequences end to end as the inputs of one forward pass.

    Returns input_ids and position_ids of shape (1, T), positions starting at 0 in every sequence; cu_seq_lens_q and cu_seq_lens_k,
    int32 of shape (len(sequences) + 1,), where each begins and the last ends; max_length_q and max_length_k, the longest.
    """
    lengths = [len(ids) for ids in sequences]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
    return {
        "input_ids": torch.tensor([[token for ids in sequences for token in ids]], device=device),
        "position_ids": torch.tensor([[position for length in lengths for position in range(length)]], device=device),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def implementation_for(model_class: Any, config: Any) -> str:
    """Name the attention an architecture is loaded with: ours, or sdpa where its layers are not plain causal or sliding attention."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    plain = kinds <= {"full_attention", "sliding_attention"} and not getattr(text, "attention_chunk_size", None)
    return NAME if plain and getattr(model_class, "_supports_attention_backend", False) else "sdpa"


def virtual_tokens(model: Any) -> int:
    """Positions that a prefix takes before every sequence (medcot/prefix.py); 0 without one, and while it is disabled."""
    config: Any = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config and config.is_prompt_learning and not model._adapters_disabled else 0


def packs(model: Any) -> bool:
    """Whether a model keeps packed rows apart: it was loaded with the attention that does, and no prefix stands before each row."""
    return bool(model.config.get_text_config()._attn_implementation == NAME) and not virtual_tokens(model)


def varlen_mask(batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> torch.Tensor | None:
    """Make no mask for one unpadded sequence without a cache, whose bounds the attention reads itself; else sdpa's mask."""
    if batch_size == 1 and q_length == kv_length and kwargs.get("attention_mask") is None:
        return None
    mask: torch.Tensor | None = sdpa_mask(batch_size=batch_size, q_length=q_length, kv_length=kv_length, **kwargs)
    return mask


def varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence of a pack; query is (1, heads, T, head_dim), key and value may have fewer heads.

    The bounds are cu_seq_lens_q where the caller has them, else where the position ids start again, so a pack is never read as one row.
    Returns (1, T, heads, head_dim), as every attention of transformers does.
    """
    if query.shape[0] != 1 or attention_mask is not None or query.shape[2] != key.shape[2]:
        options = kwargs if sliding_window is None else {**kwargs, "sliding_window": sliding_window}
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output
    bounds = _bounds(query, kwargs)
    if query.device.type == "cuda":
        query, key, value = _as_autocast(query), _as_autocast(key), _as_autocast(value)
    by_token = (query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
    if fits_kernel(query, dropout):
        longest = kwargs.get("max_length_q") or int(bounds.diff().max())
        return flash(*by_token, bounds, int(longest), scaling, sliding_window)[None], None
    return reference(*by_token, bounds.tolist(), scaling, sliding_window, dropout)[None], None


def _bounds(query: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    bounds, positions, length = kwargs.get("cu_seq_lens_q"), kwargs.get("position_ids"), query.shape[2]
    if isinstance(bounds, torch.Tensor):
        return bounds
    ends = torch.tensor([length], device=query.device)
    if positions is None:
        return torch.cat([ends - ends, ends]).to(torch.int32)
    return torch.cat([(positions.reshape(-1)[:length] == 0).nonzero().reshape(-1), ends]).to(torch.int32)


def _as_autocast(states: torch.Tensor) -> torch.Tensor:
    """Cast as autocast would: it does not know torch's variable-length operator, and norms leave float32 behind."""
    wanted = torch.is_autocast_enabled("cuda") and states.dtype == torch.float32
    return states.to(torch.get_autocast_dtype("cuda")) if wanted else states


def fits_kernel(query: torch.Tensor, dropout: float = 0.0) -> bool:
    """Whether torch's variable-length flash attention takes this: an Ampere or newer GPU, 16 bits, no dropout."""
    if query.device.type != "cuda" or query.dtype not in KERNEL_DTYPES or dropout:
        return False
    head_dim = query.shape[-1]
    return torch.cuda.get_device_capability(query.device) >= KERNEL_CAPABILITY and head_dim <= KERNEL_HEAD_DIM and head_dim % 8 == 0


def flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float | None, window: int | None
) -> torch.Tensor:
    """Run torch's variable-length attention on (T, heads, head_dim), causal, at most `window` keys back, the own one included."""
    from torch.nn.attention.varlen import varlen_attn

    size = (-1 if window is None else window - 1, 0)
    options: dict[str, Any] = {"scale": scale, "window_size": size}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = True  # torch 2.11 takes fewer key heads as they are; later releases want to be told
    output: Any = varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
    return torch.as_tensor(output)


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Sequence[int],
    scale: float | None,
    window: int | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Compute the same row by row with scaled dot-product attention, on any device and in any precision."""
    outputs = []
    for start, end in itertools.pairwise(bounds):
        q, k, v = (states[start:end].transpose(0, 1)[None] for states in (query, key, value))
        length = end - start
        mask = None
        if window is not None and window < length:
            back = torch.arange(length, device=query.device)
            distance = back[:, None] - back[None, :]
            mask = (distance >= 0) & (distance < window)
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


AttentionInterface.register(NAME, varlen_attention)
AttentionMaskInterface.register(NAME, varlen_mask)
