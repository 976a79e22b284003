"""Which models the fused step is right for: everything that it does not compute is looked for, and named in one clause."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear

from medcot.fused.attention import has_operators
from medcot.train_params import TrainParams

ARCHITECTURES = {"Qwen2": "qwen2", "Qwen3": "qwen3", "Llama": "llama"}
"""Prefix of the classes in transformers, and the module that they are in."""
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
CAPABILITY = (8, 0)  # bfloat16 and flash attention need Ampere
HEAD_DIM = 256


def why_not(model: Any, params: TrainParams) -> str | None:
    """Say in one clause why a model cannot take the fused step, or nothing where it can; its adapter must be as it will be trained."""
    reasons = (_params(params), _adapter(model))
    if found := next((reason for reason in reasons if reason), None):
        return found
    base = model.get_base_model()
    checks = (_architecture, _settings, _linears, _ends, _machine)
    return next((reason for check in checks if (reason := check(base))), None) or _trained(model)


def _params(params: TrainParams) -> str | None:
    if params.finetuning_type != "lora":
        return f"finetuning_type is {params.finetuning_type}"
    settings = ("lora_dropout", "use_dora", "additional_target", "label_smoothing_factor", "neftune_noise_alpha")
    return next((f"{name} is {getattr(params, name)}" for name in settings if getattr(params, name)), None)


def _adapter(model: Any) -> str | None:
    if not isinstance(model, PeftModel):
        return "the model has no adapter"
    if len(model.active_adapters) != 1:
        return f"{len(model.active_adapters)} adapters are active"
    config = model.peft_config[model.active_adapters[0]]
    return None if type(config) is LoraConfig else f"the adapter is of type {config.peft_type.value}"


def _architecture(base: Any) -> str | None:
    """Exact types only: a subclass may compute something else. By name, since Liger puts its own classes into transformers' modules."""
    name = type(base).__name__
    prefix = name.removesuffix("ForCausalLM")
    if prefix not in ARCHITECTURES:
        return f"{name} is not {', '.join(ARCHITECTURES)}"
    home = f"transformers.models.{ARCHITECTURES[prefix]}.modeling_{ARCHITECTURES[prefix]}.{prefix}"
    wanted = [(base, "ForCausalLM"), (base.model, "Model"), (base.model.norm, "RMSNorm"), (base.model.rotary_emb, "RotaryEmbedding")]
    for layer in base.model.layers:
        wanted += [(layer, "DecoderLayer"), (layer.self_attn, "Attention"), (layer.mlp, "MLP")]
        wanted += [(layer.input_layernorm, "RMSNorm"), (layer.post_attention_layernorm, "RMSNorm")]
    return next((f"its {kind} is {_full_name(module)}" for module, kind in wanted if _full_name(module) != home + kind), None)


def _settings(base: Any) -> str | None:
    config = base.config
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    kind = base.model.rotary_emb.rope_type
    if "dynamic" in kind or kind == "longrope":
        return f"its rotation ({kind}) follows the longest row of a batch"
    for layer in base.model.layers:
        attention = layer.self_attn
        if getattr(attention, "sliding_window", None):
            return f"its attention slides over {attention.sliding_window} tokens"
        if attention.attention_dropout:
            return f"attention_dropout is {attention.attention_dropout}"
        if 2 * base.model.rotary_emb.inv_freq.numel() != attention.head_dim:
            return "it rotates a part of each head"
    return None


def _projections(base: Any) -> Iterator[tuple[str, Any]]:
    for layer in base.model.layers:
        yield from ((name, getattr(layer.self_attn, name)) for name in ATTENTION)
        yield from ((name, getattr(layer.mlp, name)) for name in MLP)


def _linears(base: Any) -> str | None:
    if found := next((f"{name} {reason}" for name, layer in _projections(base) if (reason := why_not_linear(layer))), None):
        return found
    kinds = {type(getattr(layer, "base_layer", layer)) for _, layer in _projections(base)}
    return None if len(kinds) == 1 else "some of its layers are quantised and others are not"


def why_not_linear(layer: Any) -> str | None:
    """Say in one clause why a linear layer, under a LoRA adapter or not, is none that medcot/fused/linear.py can multiply."""
    adapted = hasattr(layer, "lora_A")
    if adapted and type(layer) is not LoraLinear and _full_name(layer) != "peft.tuners.lora.bnb.Linear4bit":
        return f"is {_full_name(layer)}"
    base_layer = getattr(layer, "base_layer", layer)
    if type(base_layer) is not torch.nn.Linear:
        if _full_name(base_layer) != "bitsandbytes.nn.modules.Linear4bit":
            return f"is {_full_name(base_layer)}"
        state = base_layer.weight.quant_state
        if state is None or (state.quant_type, state.blocksize) != ("nf4", 64) or base_layer.weight.dtype != torch.uint8:
            return "is not quantised as NF4 in blocks of 64"
        if base_layer.in_features % 64:
            return f"has {base_layer.in_features} inputs"
    return _lora(layer) if adapted else None


def _full_name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _lora(layer: Any) -> str | None:
    name = layer.active_adapters[0]
    if layer.merged or layer.disable_adapters:
        return "has its adapter merged or off"
    if getattr(layer, "lora_variant", {}).get(name) is not None or layer.use_dora.get(name):
        return "has a variant of LoRA"
    if layer.lora_bias.get(name) or getattr(layer, "fan_in_fan_out", False):
        return "has a bias in its adapter"
    if name in layer.lora_dropout and not isinstance(layer.lora_dropout[name], torch.nn.Identity):
        return "has dropout in its adapter"
    return None


def _ends(base: Any) -> str | None:
    """The embedding and the output layer."""
    head, embedding = base.lm_head, base.model.embed_tokens
    if type(embedding) is not torch.nn.Embedding or type(head) is not torch.nn.Linear or head.bias is not None:
        return "its embedding or output layer is not a plain one"
    if head.weight.dtype != embedding.weight.dtype:
        return f"its embedding is {embedding.weight.dtype} and its output layer {head.weight.dtype}"
    return None


def _machine(base: Any) -> str | None:
    weight = base.model.embed_tokens.weight
    if len({parameter.device for parameter in base.parameters()}) > 1:
        return "its layers are on several devices"
    if weight.device.type != "cuda":
        return None if weight.dtype in (torch.float32, torch.bfloat16) else f"it computes in {weight.dtype}"
    if weight.dtype != torch.bfloat16:
        return f"it computes in {weight.dtype}"
    if torch.cuda.get_device_capability(weight.device) < CAPABILITY:
        return f"the GPU has compute capability {'.'.join(map(str, torch.cuda.get_device_capability(weight.device)))}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    head_dim = base.model.layers[0].self_attn.head_dim
    if head_dim > HEAD_DIM or head_dim % 8:
        return f"its heads have {head_dim} dimensions"
    return None if has_operators() else f"torch {torch.__version__} has no flash attention of this form"


def _trained(model: Any) -> str | None:
    """Whether anything but the adapters of these layers is trained, or they are not in float32."""
    masters = {
        id(matrix[name].weight)
        for _, layer in _projections(model.get_base_model())
        for name in getattr(layer, "active_adapters", ())
        for matrix in (layer.lora_A, layer.lora_B)
        if name in matrix
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in masters:
            return f"{name} is trained too"
        if id(parameter) in masters and not (parameter.requires_grad and parameter.dtype == torch.float32):
            return f"{name} is {parameter.dtype}" if parameter.requires_grad else f"{name} is frozen"
    return None if masters else "none of its layers has an adapter"
