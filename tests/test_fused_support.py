"""What the fused step does not compute is named in one clause."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused_factory import small_model
from parity_factory import SHAPES
from transformers import AutoModelForCausalLM, MistralConfig

from medcot.fused import support
from medcot.fused.support import why_not
from medcot.train_params import TrainParams


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lora", [{}, {"use_rslora": True, "r": 3}, {"target_modules": ["v_proj"]}, {"rank_pattern": {"q_proj": 9}}])
def test_shapes_ranks_scalings_and_targets_are_supported(shape: str, lora: dict[str, Any]) -> None:
    assert why_not(small_model(shape, **lora), TrainParams()) is None


@pytest.mark.parametrize(
    ("params", "clause"),
    [
        ({"finetuning_type": "full"}, "finetuning_type is full"),
        ({"lora_dropout": 0.1}, "lora_dropout is 0.1"),
        ({"use_dora": True}, "use_dora is True"),
        ({"additional_target": "embed_tokens"}, "additional_target is embed_tokens"),
        ({"label_smoothing_factor": 0.2}, "label_smoothing_factor is 0.2"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is 5.0"),
    ],
)
def test_settings_that_it_does_not_compute_are_named(params: dict[str, Any], clause: str) -> None:
    assert why_not(small_model("qwen2"), TrainParams(**params)) == clause


@pytest.mark.parametrize(
    ("lora", "clause"),
    [
        ({"lora_dropout": 0.5}, "q_proj has dropout in its adapter"),
        ({"use_dora": True}, "q_proj has a variant of LoRA"),
        ({"lora_bias": True}, "q_proj has a bias in its adapter"),
        ({"bias": "all"}, "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias is trained too"),
        ({"modules_to_save": ["lm_head"]}, "its embedding or output layer is not a plain one"),
        ({"target_modules": ["embed_tokens"]}, "its embedding or output layer is not a plain one"),
    ],
)
def test_peft_settings_that_it_does_not_compute_are_named(lora: dict[str, Any], clause: str) -> None:
    assert why_not(small_model("qwen2", **lora), TrainParams()) == clause


def test_a_model_without_adapter_or_with_two_is_named() -> None:
    model = small_model("llama")
    assert why_not(model.get_base_model(), TrainParams()) == "the model has no adapter"
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    assert why_not(model, TrainParams()) == "2 adapters are active"


def test_another_kind_of_adapter_is_named() -> None:
    from peft import PrefixTuningConfig, get_peft_model

    base = AutoModelForCausalLM.from_config(SHAPES["llama"])
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert why_not(model, TrainParams()) == "the adapter is of type PREFIX_TUNING"


def test_an_unknown_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MistralConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=20)
    monkeypatch.setitem(SHAPES, "mistral", config)
    assert why_not(small_model("mistral"), TrainParams()) == "MistralForCausalLM is not Qwen2, Qwen3, Llama"


def changed(change: Any) -> Any:
    model = small_model("qwen3")
    change(model.get_base_model())
    return model


class OtherNorm(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (lambda base: setattr(base.model, "norm", OtherNorm()), "its RMSNorm is test_fused_support.OtherNorm"),
        (lambda base: setattr(base.config, "hidden_act", "gelu"), "its activation is gelu"),
        (lambda base: setattr(base.model.rotary_emb, "rope_type", "dynamic"), "its rotation (dynamic) follows the longest row of a batch"),
        (lambda base: setattr(base.model.layers[1].self_attn, "sliding_window", 7), "its attention slides over 7 tokens"),
        (lambda base: setattr(base.model.layers[0].self_attn, "attention_dropout", 0.1), "attention_dropout is 0.1"),
        (lambda base: setattr(base.model.layers[0].self_attn, "head_dim", 128), "it rotates a part of each head"),
        (
            lambda base: setattr(base.model.layers[1].mlp, "up_proj", torch.nn.Bilinear(1, 1, 1)),
            "up_proj is torch.nn.modules.linear.Bilinear",
        ),
        (lambda base: base.half(), "it computes in torch.float16"),
        (
            lambda base: setattr(base.lm_head, "weight", torch.nn.Parameter(base.lm_head.weight.double(), False)),
            "its output layer torch.float64",
        ),
    ],
)
def test_a_module_that_computes_something_else_is_named(change: Any, clause: str) -> None:
    found = why_not(changed(change), TrainParams())
    assert found is not None
    assert clause in found


def test_masters_in_16_bits_or_frozen_are_named() -> None:
    model = small_model("llama")
    name, master = next((name, p) for name, p in model.named_parameters() if p.requires_grad)
    master.data = master.data.bfloat16()
    assert why_not(model, TrainParams()) == f"{name} is torch.bfloat16"
    master.data = master.data.float()
    master.requires_grad_(False)
    assert why_not(model, TrainParams()) == f"{name} is frozen"


def test_an_adapter_that_is_merged_or_off_is_named() -> None:
    model = small_model("llama")
    with model.disable_adapter():
        assert why_not(model, TrainParams()) == "q_proj has its adapter merged or off"
    model.merge_adapter()
    assert why_not(model, TrainParams()) == "q_proj has its adapter merged or off"


def quantise(base: Any, name: str, **options: Any) -> None:
    import bitsandbytes as bnb

    layer = base.model.layers[0].mlp.down_proj.base_layer
    made = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, **{"quant_type": "nf4", **options})
    made.load_state_dict({"weight": layer.weight.data})
    base.model.layers[0].mlp.down_proj.base_layer = made.to("cpu")


def test_another_quantisation_or_a_mixed_one_is_named() -> None:
    assert why_not(changed(lambda base: quantise(base, "down_proj", quant_type="fp4")), TrainParams()) == (
        "down_proj is not quantised as NF4 in blocks of 64"
    )
    assert (
        why_not(changed(lambda base: quantise(base, "down_proj")), TrainParams()) == "some of its layers are quantised and others are not"
    )


@pytest.mark.parametrize(
    ("found", "clause"),
    [
        ({"capability": (7, 5)}, "the GPU has compute capability 7.5"),
        ({"triton": None}, "triton is not installed"),
        ({"operators": False}, "has no flash attention of this form"),
        ({"head_dim": 264}, "its heads have 264 dimensions"),
        ({"dtype": torch.float32}, "it computes in torch.float32"),
        ({}, None),
    ],
)
def test_a_gpu_that_is_too_old_or_lacks_a_library_is_named(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], clause: str | None
) -> None:
    class OnGpu:
        """Stands for weights on a GPU, which this machine may not have."""

        dtype, device = found.get("dtype", torch.bfloat16), torch.device("cuda")

    attention = type("Attention", (), {"head_dim": found.get("head_dim", 128)})
    layer, weights = type("Layer", (), {"self_attn": attention}), type("Embedding", (), {"weight": OnGpu})
    base = type("Base", (), {"parameters": lambda: [OnGpu], "model": type("Model", (), {"embed_tokens": weights, "layers": [layer]})})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found.get("capability", (8, 0)))
    monkeypatch.setattr(support.importlib.util, "find_spec", lambda name: found.get("triton", "here"))
    monkeypatch.setattr(support, "has_operators", lambda: found.get("operators", True))
    said = support._machine(base)
    assert (said is None) if clause is None else (said is not None and clause in said)
