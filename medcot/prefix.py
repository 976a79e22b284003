"""Prefix tuning (Li & Liang 2021, https://arxiv.org/abs/2101.00190): trained keys and values that stand before every sequence.

Every layer gets `num_virtual_tokens` keys and values of its own; no weight of the base changes. peft puts them into the cache, so a row's
own tokens begin at position num_virtual_tokens and see the prefix whole. The logits stay one a token of the row, which is why a prefix
is trained, measured and imported like a LoRA, and prompt tuning, whose virtual tokens have logits too, is not.

Because it lies in the cache, a prefix excludes two things. Rows are padded, never packed: a cache belongs to a row of the batch, and a pack
would be read as one row. Nothing is recomputed: transformers drops the cache in checkpointed layers, and attention then fails on a mask
that is num_virtual_tokens wider than the keys (TRL switches checkpointing on by default, so prefix tuning through it fails there).
peft's reparametrisation (`prefix_projection`) is left out: a checkpoint keeps its product alone, so a killed run could not go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
from peft import PrefixTuningConfig, get_peft_model

from medcot.errors import DataError

PREFIX_TUNING = "PREFIX_TUNING"
log = logging.getLogger("medcot")


def add_prefix(model: Any, num_virtual_tokens: int, words: Sequence[int], base_name: str) -> Any:
    """Put a fresh prefix before a model: the keys and values that the model itself computes for real words, float32 from then on.

    words  token ids that are read for it, over and over where they are fewer than num_virtual_tokens

    Real words are the paper's own start (section 7.4): a random prefix takes the attention that the first token of a sequence
    gets, and the model first has to learn to live with that.
    Raises DataError for an architecture whose layers do not all keep plain keys and values, and when there are no words.
    """
    if not words:
        raise DataError("data/llamafactory/train.json", "no training rows", "look at metrics/convert.json for where they went")
    check_architecture(model, "params.yaml: train.finetuning_type")
    start = keys_and_values(model, list(islice(cycle(words), num_virtual_tokens)))
    wrapped = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=num_virtual_tokens))
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    wrapped.prompt_encoder["default"].embedding.weight.data.copy_(start)
    log.info("train: a prefix of %d virtual tokens, %d numbers; it lies in the cache, so rows are padded", *start.shape[:1], start.numel())
    return wrapped


def check_architecture(model: Any, place: str) -> None:
    """Refuse layers that forget what is far back, or keep something else than keys and values of one shape."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) | ({"sliding_attention"} if getattr(config, "sliding_window", None) else set())
    if kinds <= {"full_attention"} and getattr(config, "kv_lora_rank", None) is None:
        return
    cause = "a prefix needs layers that each see the whole sequence through plain keys and values"
    raise DataError(place, cause, "use lora for this architecture", got=config.model_type)


@torch.no_grad()
def keys_and_values(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """What a model keeps of these tokens, in peft's layout: float32 of shape (tokens, layers × 2 × heads × head_dim)."""
    cache = model.eval()(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=True).past_key_values
    states = torch.cat([torch.cat([layer.keys, layer.values]) for layer in cache.layers])  # (layers × 2, heads, tokens, head_dim)
    return states.permute(2, 0, 1, 3).flatten(1).float()


def shape_of(model: Any) -> tuple[int, int, int]:
    """Layers of a base, the heads of a layer's keys, and their size."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, size


def check_prefix(place: str, config: dict[str, Any], model: Any) -> None:
    """Compare the configuration of a finished prefix with the base that it is put before.

    peft builds the prefix from these numbers alone and would find out at the first token, if at all. Raises DataError.
    """
    check_architecture(model, place)
    if config.get("task_type") != "CAUSAL_LM":  # peft would load it and never use it
        raise DataError(f"{place}: task_type", "the prefix is of no causal language model", "train one", got=config.get("task_type"))
    layers, heads, width = (config[key] for key in ("num_layers", "num_attention_heads", "token_dim"))
    ours = shape_of(model)
    if (layers, heads, width) != (ours[0], ours[1], ours[1] * ours[2]) or config.get("num_transformer_submodules") not in (None, 1):
        cause = f"the adapter does not fit the base, which has {ours[0]} layers with {ours[1]} key heads of {ours[2]}"
        got = f"{layers} layers with {heads} of {width // heads}"
        raise DataError(place, cause, "use the base it was trained on", got=got)
