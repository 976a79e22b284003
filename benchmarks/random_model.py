"""Models of real width with random weights, and rows of realistic length: what the speed of training is measured on.

Speed and memory depend on shapes, not on values, so nothing is downloaded. The weights are quantised on the device itself, one layer at a
time, so a 14B model in NF4 needs no more memory than it ends up with.
"""

from __future__ import annotations

import math
from typing import Any

import medcot.libraries  # noqa: F401 - before transformers

# isort: split
import numpy as np
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from medcot.attention import NAME as VARLEN

MEAN_TOKENS, SD_TOKENS, MIN_TOKENS, MAX_TOKENS = 700, 250, 64, 2048
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Architecture, its config class, and the published shape: (hidden, layers, heads, key heads, head dim, intermediate, vocabulary, tied).
SHAPES: dict[str, tuple[Any, tuple[int, int, int, int, int, int, int, bool]]] = {
    "1.7b": (Qwen3Config, (2048, 28, 16, 8, 128, 6144, 151936, True)),
    "7b": (Qwen2Config, (3584, 28, 28, 4, 128, 18944, 152064, False)),
    "8b": (LlamaConfig, (4096, 32, 32, 8, 128, 14336, 128256, False)),
    "14b": (Qwen2Config, (5120, 48, 40, 8, 128, 13824, 152064, False)),
}


def config_of(shape: str, layers: int | None = None, *, tiny: bool = False) -> PretrainedConfig:
    """Configuration of a shape, with fewer layers, or tiny (the same architecture, small enough for a CPU)."""
    config_class, (hidden, depth, heads, key_heads, head_dim, intermediate, vocabulary, tied) = SHAPES[shape]
    if tiny:
        hidden, depth, heads, key_heads, head_dim, intermediate, vocabulary = 128, 2, 4, 2, 32, 256, 1024
    rope = _LLAMA3_ROPE if config_class is LlamaConfig else {"rope_type": "default", "rope_theta": 1000000.0}
    return config_class(
        hidden_size=hidden,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        rope_parameters=rope,
    )


def build(
    shape: str,
    layers: int | None = None,
    quantization: str = "nf4",
    attention: str = VARLEN,
    device: str | None = None,
    *,
    tiny: bool = False,
    seed: int = 0,
) -> Any:
    """Make a causal language model with random weights, as from_pretrained would hand it over.

    quantization  "nf4" with double quantisation, or "none"
    device        default: the GPU in bfloat16 where there is one, else the CPU in float32
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    torch.manual_seed(seed)
    config = config_of(shape, layers, tiny=tiny)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if quantization == "nf4":
        _as_quantised(model, dtype)
    for name, module in list(model.named_modules()):
        _fill(name, module, dtype, device)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    model.tie_weights()
    return model.eval()


def _as_quantised(model: Any, dtype: torch.dtype) -> None:
    """Put bitsandbytes' layers in, and mark the model the way its quantizer would: peft, TRL and transformers look at these marks."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.auto import AutoHfQuantizer

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    replace_with_bnb_linear(model, ["lm_head"], config)
    model.is_loaded_in_4bit = model.is_quantized = True
    model.quantization_method = config.quant_method
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)


def _fill(name: str, module: Any, dtype: torch.dtype, device: str) -> None:
    packed = type(module).__module__.startswith("bitsandbytes")
    for key, parameter in list(module._parameters.items()):
        if parameter is None or parameter.device.type != "meta":
            continue
        if packed and key == "weight":
            module.weight = _quantise(module, dtype, device)
            continue
        values = torch.empty(parameter.shape, dtype=dtype, device=device)
        # Norms near one, so that a kernel that forgets their weight is caught.
        values = values.uniform_(0.5, 1.5) if "norm" in name else values.normal_(0, 0.02)
        module._parameters[key] = torch.nn.Parameter(values, requires_grad=False)
    if packed:
        module.support_avx512bf16_for_cpu = False  # see medcot/model.py avoid_packed_weights


def _quantise(module: Any, dtype: torch.dtype, device: str) -> Any:
    from bitsandbytes.nn import Params4bit

    weight = torch.empty(module.out_features, module.in_features, dtype=dtype, device=device).normal_(0, 0.02)
    packed = Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", blocksize=64, module=module)
    return packed.to(device)


def num_weights(config: Any) -> int:
    """Weights that a token is multiplied with: the linear layers and the output layer (4 x this = FLOPs of a QLoRA step, a token)."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    attention = config.hidden_size * (queries + 2 * keys) + queries * config.hidden_size
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    return int(layer * config.num_hidden_layers + config.hidden_size * config.vocab_size)


def lengths(count: int, seed: int = 0) -> list[int]:
    """Row lengths in tokens: log-normal, mean 700, standard deviation 250, between 64 and 2048."""
    variance = math.log(1 + (SD_TOKENS / MEAN_TOKENS) ** 2)
    drawn = np.random.default_rng(seed).lognormal(math.log(MEAN_TOKENS) - variance / 2, math.sqrt(variance), count)
    return [int(length) for length in drawn.clip(MIN_TOKENS, MAX_TOKENS)]
