"""Merge a LoRA adapter into the dense base: float32 arithmetic on the weights as they are stored, then one rounding.

Never into the 4-bit base: its weights are not the ones that anybody serves, and a merged weight would be quantised a second time.
peft's own merge rounds the update to 16 bit first and the sum again, so each layer is float32 while it is merged.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open

from medcot.adapters import read_adapter_config
from medcot.errors import DataError
from medcot.model import ADAPTER_CONFIG, Hardware, load_weights
from medcot.prefix import PREFIX_TUNING
from medcot.weights import find_weights

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
STORED = {"BF16": "bfloat16", "F16": "float16"}
# What changes the architecture, or the moment from which the adapter acts: no weight of the base can stand for it.
UNMERGEABLE = ("alora_invocation_tokens", "arrow_config", "layer_replication")


def stored_dtype(weights: Path) -> str:
    """The dtype that holds every tensor of a model directory as it is stored; float32 where they differ."""
    kinds: set[str] = set()
    for path in find_weights(weights):
        with safe_open(path, "pt") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict
    return STORED.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def load_dense(weights: Path) -> Any:
    """Load a model directory on the CPU in the dtype it is stored in, so that nothing is rounded before the merge."""
    return load_weights(weights, "none", Hardware("cpu", stored_dtype(weights), "sdpa", "weights are merged in main memory"))


def merged_model(weights: Path, adapter: Path, dtype: str) -> Any:
    """The fine-tuned model as one dense model: the base with the adapter merged in, or the full fine-tune, rounded to dtype.

    Raises DataError when the adapter cannot be merged.
    """
    if not (adapter / ADAPTER_CONFIG).is_file():
        return load_dense(adapter).to(DTYPES[dtype])
    config = read_adapter_config(adapter)
    if config["peft_type"] == PREFIX_TUNING:
        cause, remedy = "a prefix cannot be merged: it changes no weight, and no server of dense models reads it", "use it through peft"
        raise DataError(str(adapter / ADAPTER_CONFIG), cause, remedy, got=PREFIX_TUNING)
    if hindered := [key for key in UNMERGEABLE if config.get(key)]:
        raise DataError(str(adapter / ADAPTER_CONFIG), "such an adapter cannot be merged", "serve it as an adapter", got=hindered[0])
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of tied weights, which are settled here
            wrapped = PeftModel.from_pretrained(load_dense(weights), adapter, torch_device="cpu")
            return merge(wrapped, DTYPES[dtype])
    except (ValueError, NotImplementedError, RuntimeError, SafetensorError) as error:
        cause, remedy = "the adapter cannot be merged", "train it again, or serve it as an adapter"
        raise DataError(str(adapter), cause, remedy, got=str(error).strip().splitlines()[0]) from None


def merge(wrapped: PeftModel, dtype: torch.dtype) -> Any:
    """Merge in place, layer by layer in float32, and return the model that was wrapped, in dtype."""
    untie_adapted(wrapped)
    for layer in wrapped.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.get_base_layer().to(torch.float32)
            layer.merge(safe_merge=True)
            layer.get_base_layer().to(dtype)
    # What is left to peft: to unwrap, to put trained modules in place, and to say in the config whether embeddings are still tied.
    return wrapped.merge_and_unload().to(dtype)


def untie_adapted(wrapped: PeftModel) -> None:
    """Give embedding and output layer a weight each where they share one and a LoRA sits on either.

    The update of one would else be merged into both, or that of both twice into one.
    """
    model = wrapped.get_base_model()
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if None in layers or not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    embedding, head = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
