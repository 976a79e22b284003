"""No configuration is trained wrongly in silence: the fused path refuses it with a clause that says why, or its gradients are right."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_factory import (
    LLAMA3,
    SIZES,
    VOCAB,
    by_autograd,
    forget,
    gradients,
    num_targets,
    packed,
    random_rows,
    relative_errors,
    wrap,
    write_model,
)
from train_factory import CPU
from transformers import AutoConfig, LlamaConfig, Qwen2Config, Qwen3Config

from medcot.fused.model import FusedModel
from medcot.fused.support import why_not
from medcot.model import load_weights
from medcot.train_params import TrainParams

ROWS = random_rows((9, 2, 90, 30))
TOLERANCE = 3e-5  # between two ways of float32
GROUPED = SIZES | {"num_key_value_heads": 2}


def qwen2(**changes: Any) -> Any:
    return Qwen2Config(**GROUPED | changes)


def qwen3(**changes: Any) -> Any:
    return Qwen3Config(**GROUPED | {"head_dim": 16} | changes)


def llama(**changes: Any) -> Any:
    return LlamaConfig(**GROUPED | changes)


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **values}}


def params(**values: Any) -> TrainParams:
    return TrainParams.model_validate(values)


def refused_or_right(model: Any, settings: TrainParams) -> str | None:
    """The clause of a refusal; without one, fail unless the fused gradients are those of the model's own autograd."""
    reason = why_not(model, settings)
    if reason is not None:
        assert reason.strip()
        assert "\n" not in reason
        return reason
    loss, truth = by_autograd(model, ROWS)
    forget(model)
    fused, count = FusedModel(model), num_targets(ROWS)
    fused.refresh()
    found_loss = float(fused.run_pass(packed(ROWS), count))
    fused.finish()
    assert found_loss == pytest.approx(loss, rel=1e-5)
    errors = relative_errors(gradients(model), truth)
    assert max(errors.values()) < TOLERANCE, max(errors, key=lambda name: errors[name])
    return None


def load(config: Any, directory: Path, quantization: str = "none") -> Any:
    return load_weights(write_model(directory, config), quantization, CPU)


# What the fused path cannot compute: adapter, params.
REFUSED: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "dropout": (qwen2(), {"lora_dropout": 0.1}, {"lora_dropout": 0.1}),
    "DoRA": (qwen2(), {"use_dora": True}, {"use_dora": True}),
    "modules_to_save": (qwen3(), {"modules_to_save": ["lm_head"]}, {"additional_target": "lm_head"}),
    "modules_to_save, tied": (
        qwen3(tie_word_embeddings=True),
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"additional_target": "embed_tokens"},
    ),
    "trained biases": (qwen2(), {"bias": "all"}, {}),
    "biases of the adapted layers": (qwen2(), {"bias": "lora_only"}, {}),
    "a bias in the adapter": (qwen2(), {"lora_bias": True}, {}),
    "label smoothing": (qwen3(), {}, {"label_smoothing_factor": 0.1}),
    "NEFTune": (qwen3(), {}, {"neftune_noise_alpha": 5.0}),
    "sliding window": (qwen2(use_sliding_window=True, sliding_window=5, max_window_layers=1), {}, {}),
    "attention dropout": (llama(attention_dropout=0.1), {}, {}),
    # The rotation follows the longest row of the pack: a row would depend on its neighbours.
    "dynamic rope": (qwen2(max_position_embeddings=64, **rope("dynamic", factor=4.0)), {}, {}),
    "longrope": (
        llama(**rope("longrope", factor=4.0, short_factor=[1.0] * 8, long_factor=[2.0] * 8, original_max_position_embeddings=32)),
        {},
        {},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_fused_path_cannot_compute_is_refused(tmp_path: Path, name: str) -> None:
    config, lora, values = REFUSED[name]
    reason = refused_or_right(wrap(load(config, tmp_path), **lora), params(**values))
    assert reason is not None


def test_a_full_fine_tune_and_a_base_alone_are_refused(tmp_path: Path) -> None:
    base = load(qwen2(), tmp_path)
    assert why_not(base.requires_grad_(True), params(finetuning_type="full"))
    assert why_not(base.requires_grad_(False), params())


def test_float16_is_refused(tmp_path: Path) -> None:
    assert why_not(wrap(load(qwen2(), tmp_path).half()), params())


OTHERS = [
    *("mistral", "gemma2", "gemma3_text", "phi", "phi3", "granite", "olmo2", "stablelm", "cohere", "smollm3", "glm4", "seed_oss"),
    *("gpt_neox", "qwen2_moe", "qwen3_moe"),
]


@pytest.mark.parametrize("kind", OTHERS)
def test_another_architecture_is_refused_or_right(tmp_path: Path, kind: str) -> None:
    extra = {"pad_token_id": 0, "head_dim": 16, "attention_dropout": 0.0, "residual_dropout": 0.0}
    if "moe" in kind or kind == "mixtral":
        extra |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    if kind == "granite":
        extra |= {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.3}
    model = wrap(load(AutoConfig.for_model(kind, **GROUPED | extra), tmp_path))
    refused_or_right(model, params())


# What may be supported or not, but never computed wrongly.
DOUBTFUL: dict[str, tuple[Any, dict[str, Any]]] = {
    "tied embeddings": (qwen3(tie_word_embeddings=True), {}),
    "biases in a llama": (llama(attention_bias=True, mlp_bias=True), {}),
    "biases in a qwen3": (qwen3(attention_bias=True), {}),
    "another activation": (llama(hidden_act="gelu"), {}),
    "another activation in a qwen": (qwen2(hidden_act="relu"), {}),
    "one key head": (qwen2(num_key_value_heads=1), {}),
    "heads wider than the hidden size": (qwen3(head_dim=32), {}),
    "a head of a width of its own in a llama": (llama(head_dim=24), {}),
    "heads of a width that is no power of two": (qwen2(hidden_size=48, num_attention_heads=2, num_key_value_heads=1), {}),
    "linear rope": (llama(**rope("linear", factor=4.0)), {}),
    "llama3 rope": (llama(rope_parameters=LLAMA3), {}),
    "yarn": (qwen3(**rope("yarn", factor=4.0, original_max_position_embeddings=32)), {}),
    "part of a head turned": (llama(**rope("default", partial_rotary_factor=0.5)), {}),
    "rslora": (qwen2(), {"use_rslora": True}),
    "ranks of their own": (qwen2(), {"rank_pattern": {"q_proj": 2, "up_proj": 7}}),
    "scales of their own": (qwen2(), {"alpha_pattern": {"k_proj": 40, "down_proj": 1}}),
    "some layers alone": (qwen3(), {"layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]}),
    "all but one": (qwen2(), {"exclude_modules": ["v_proj"]}),
    "the embedding too": (qwen2(), {"target_modules": ["q_proj", "embed_tokens"]}),
    "the output layer too": (qwen2(), {"target_modules": ["q_proj", "lm_head"]}),
    "one layer of one block": (qwen2(), {"target_modules": ["layers.0.mlp.gate_proj"]}),
    "another start": (qwen3(), {"init_lora_weights": "gaussian"}),
    "a start that changes the base": (qwen3(), {"init_lora_weights": "pissa"}),
    "rank above the width": (qwen2(), {"r": 80}),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_supported_or_not_is_never_wrong(tmp_path: Path, name: str) -> None:
    config, lora = DOUBTFUL[name]
    refused_or_right(wrap(load(config, tmp_path), **lora), params())


def two_adapters(model: Any) -> None:
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])


def another_adapter(model: Any) -> None:
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")


def switched_off(model: Any) -> None:
    model.base_model.disable_adapter_layers()


def merged(model: Any) -> None:
    model.merge_adapter()


def a_free_norm(model: Any) -> None:
    next(p for name, p in model.named_parameters() if "norm" in name).requires_grad_(True)


def a_frozen_matrix(model: Any) -> None:
    next(p for name, p in model.named_parameters() if "lora_A" in name).requires_grad_(False)


def half_masters(model: Any) -> None:
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.bfloat16()


def a_hook(model: Any) -> None:
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output * 1.5)


@pytest.mark.parametrize(
    "change", [two_adapters, another_adapter, switched_off, merged, a_free_norm, a_frozen_matrix, half_masters], ids=lambda f: f.__name__
)
def test_a_model_that_somebody_has_changed_is_refused_or_right(tmp_path: Path, change: Callable[[Any], None]) -> None:
    model = wrap(load(qwen2(), tmp_path))
    change(model)
    if change in (switched_off, merged):  # nothing to learn, or learned twice: autograd itself would not know what is meant
        assert why_not(model, params())
    refused_or_right(model, params())


def draw(rng: random.Random) -> tuple[Any, dict[str, Any], str]:
    """A random small model of a supported family, an adapter and a quantisation."""
    heads, quantization = rng.choice([2, 4]), rng.choice(["none", "nf4"])
    four_bit = quantization == "nf4"  # whose blocks of 64 weights lie within a row, in every real model
    sizes: dict[str, Any] = {
        "vocab_size": rng.choice([VOCAB, 160]),
        "hidden_size": 64 if four_bit else rng.choice([32, 64, 96]),
        "intermediate_size": 192 if four_bit else rng.choice([48, 96, 130]),
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([n for n in (1, 2, 4) if heads % n == 0]),
        "rms_norm_eps": rng.choice([1e-6, 1e-3, 0.1]),
        "tie_word_embeddings": rng.random() < 0.5,
        "initializer_range": 0.2,
        "max_position_embeddings": 256,
        **rng.choice([{}, rope("default"), {"rope_parameters": LLAMA3}, rope("linear", factor=2.0)]),
    }
    family = rng.choice([Qwen2Config, Qwen3Config, LlamaConfig])
    if family is not Qwen2Config:
        sizes |= {"head_dim": 32 if four_bit else rng.choice([8, 16, 20]), "attention_bias": rng.random() < 0.3}
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = {
        "r": rng.choice([1, 2, 5, 8, 16]),
        "lora_alpha": rng.choice([1, 4, 32]),
        "use_rslora": rng.random() < 0.4,
        "target_modules": "all-linear" if rng.random() < 0.4 else rng.sample(names, rng.randint(1, 6)),
    }
    return family(**sizes), lora, quantization


SUPPORTED: list[bool] = []


@pytest.mark.parametrize("seed", range(10))
def test_a_random_configuration_is_refused_or_right(tmp_path: Path, seed: int) -> None:
    config, lora, quantization = draw(random.Random(seed))
    torch.manual_seed(seed)
    SUPPORTED.append(refused_or_right(wrap(load(config, tmp_path, quantization), seed, **lora), params()) is None)


def test_the_random_configurations_were_computed_not_refused() -> None:
    assert sum(SUPPORTED) == len(SUPPORTED)
