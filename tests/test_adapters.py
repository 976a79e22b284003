"""Adapters: made, saved, and imported from peft, from LLaMA-Factory, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from factories import write_qwen3_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from train_factory import QWEN3, Base
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from medcot.adapters import Identity, add_adapter, check_identity, find_adapter, import_adapter, save_tuned, split_names
from medcot.errors import DataError
from medcot.train_params import TrainParams
from medcot.weights import describe_model_dir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def params(**values: Any) -> TrainParams:
    return TrainParams.model_validate(values)


def trained(base: Base, **values: Any) -> Any:
    """An adapter whose update is not zero, as training would leave it."""
    model = base.adapted(params(**values), "none")
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def llamafactory_export(base: Base, target: Path, **extra: Any) -> Path:
    """An adapter directory as `llamafactory-cli train` leaves one: peft's files, a tokenizer, its own reports, bfloat16 weights."""
    trained(base).bfloat16().save_pretrained(target)
    AutoTokenizer.from_pretrained(base.tokenizer_dir).save_pretrained(target)
    (target / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    for name in ("all_results.json", "trainer_state.json"):
        (target / name).write_text("{}", encoding="utf-8")
    (target / "training_args.bin").write_bytes(b"a pickle that is never read")
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": "Qwen/Qwen3-8B", "inference_mode": True, **extra}
    (target / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def bring(base: Base, directory: Path, identity: Identity | None = None) -> Any:
    return import_adapter(base.model("none"), directory, identity or base.identity(), "models/import/Qwen3-8B", base.tok, QWEN3)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(torch.tensor([[5, 6, 7, 8, 300, 301]])).logits)


# ---- a fresh adapter


def test_a_fresh_adapter_has_no_effect_and_covers_the_linear_layers_but_the_output(base: Base) -> None:
    model = base.adapted(params(), "none")
    assert torch.equal(logits(model), logits(base.model("none")))
    targets = {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_equal_seeds_give_equal_adapters(base: Base) -> None:
    one, same, other = (dict(base.adapted(params(seed=seed)).named_parameters()) for seed in (1, 1, 2))
    lora_a = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], same[name]) for name in lora_a)
    assert not any(torch.equal(one[name], other[name]) for name in lora_a)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 4), (True, 16 / 2)])
def test_the_update_is_scaled_by_alpha_over_rank_or_its_root(base: Base, rslora: bool, scale: float) -> None:
    model = trained(base, lora_rank=4, lora_alpha=16, use_rslora=rslora, lora_target="o_proj")
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.o_proj")
    x = torch.randn(3, 64)
    update = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.base_layer(x) + scale * update)


@pytest.mark.parametrize("names", ["embed_tokens", "lm_head", "embed_tokens,lm_head"])
def test_an_embedding_and_a_head_that_share_weights_stay_shared(base: Base, names: str, tmp_path: Path) -> None:
    model = base.adapted(params(additional_target=names, lora_target="q_proj"))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.weight is head.weight
    assert embedding.weight.requires_grad
    embedding.weight.data.mul_(1.5)
    save_tuned(model, tmp_path, base.identity())
    loaded = import_adapter(base.model("nf4"), tmp_path, base.identity(), "base", base.tok, QWEN3)
    assert torch.equal(loaded.get_output_embeddings().weight, embedding.weight)
    assert torch.equal(logits(loaded), logits(model))


def untied_llama(base: Base, directory: Path) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(base.tok), tie_word_embeddings=False, **shape))
    model.save_pretrained(directory)
    describe_model_dir("local", directory, path=".").write(directory)
    return model


def test_separate_embeddings_are_trained_separately(base: Base, tmp_path: Path) -> None:
    model = add_adapter(untied_llama(base, tmp_path), params(additional_target="embed_tokens,lm_head"), "llama")
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.requires_grad
    assert model.get_output_embeddings().weight.requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_target": "q_proj,v_prj"}, "train.lora_target: the model has no such layer, got v_prj; did you mean v_proj?"),
        ({"lora_target": "xyz"}, "the model has no such layer, got xyz; it has down_proj, "),
        ({"lora_target": "lm_head"}, "train.lora_target: the output layer takes no LoRA, got lm_head; name it in train.additional_target"),
        ({"lora_target": "embed_tokens"}, "the output layer takes no LoRA, got embed_tokens"),
        (
            {"lora_target": "q_norm"},
            "train.lora_target: Target module Qwen3RMSNorm((16,), eps=1e-06) is not supported, got q_norm; name linear",
        ),
        ({"additional_target": "embeddings"}, "train.additional_target: the model has no such layer, got embeddings"),
    ],
)
def test_a_target_that_cannot_be_adapted_is_one_line(base: Base, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        base.adapted(params(**values), "none")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_split_at_commas() -> None:
    assert split_names(" q_proj, v_proj ,") == ["q_proj", "v_proj"]
    assert split_names("") == []


# ---- on disk


def test_what_is_saved_is_peft_layout_with_a_record_and_no_card(base: Base, tmp_path: Path) -> None:
    save_tuned(trained(base), tmp_path, base.identity())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "medcot.json"]
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(config["target_modules"])
    check_identity(tmp_path, base.identity())


def test_a_saved_adapter_comes_back_bit_for_bit(base: Base, tmp_path: Path) -> None:
    model = trained(base, use_dora=True, use_rslora=True)
    save_tuned(model, tmp_path, base.identity())
    loaded = bring(base, tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.peft_config["default"].base_model_name_or_path == "models/import/Qwen3-8B"
    save_tuned(loaded, tmp_path / "again", base.identity())
    again, first = load_file(tmp_path / "again/adapter_model.safetensors"), load_file(tmp_path / "adapter_model.safetensors")
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_an_adapter_that_peft_wrote_is_imported(base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = get_peft_model(base.model("none"), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.fill_(0.05)
    model.save_pretrained(tmp_path)
    loaded = bring(base, tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), logits(base.model("none")))
    assert f"{tmp_path} does not say its template; qwen3 is taken on trust" in caplog.text


def test_an_adapter_as_llamafactory_writes_it_is_imported(base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = llamafactory_export(base, tmp_path)
    loaded = bring(base, directory)
    torch.testing.assert_close(logits(loaded), logits(trained(base)), rtol=0.1, atol=0.5)  # its weights went through bfloat16
    assert not torch.equal(logits(loaded), logits(base.model("none")))
    assert "names its base" not in caplog.text  # the directory here has the same last name
    (directory / "training_args.yaml").write_text("template: qwen3\nstage: sft\n", encoding="utf-8")
    caplog.clear()
    bring(base, directory)
    assert caplog.text == "" or "trust" not in caplog.text


def test_another_base_by_name_is_warned_of(base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bring(base, llamafactory_export(base, tmp_path, base_model_name_or_path="Qwen/Qwen3-8B-Base"))
    assert "the adapter names its base Qwen/Qwen3-8B-Base, here it is models/import/Qwen3-8B; only shapes can be compared" in caplog.text


def test_another_template_is_refused(base: Base, tmp_path: Path) -> None:
    directory = llamafactory_export(base, tmp_path)
    (directory / "training_args.yaml").write_text(yaml.safe_dump({"template": "deepseekr1"}), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"trained with another template than model.template qwen3 \(qwen3\), got deepseekr1; set model.template"
    ):
        bring(base, directory)
    (directory / "training_args.yaml").write_text("template: [", encoding="utf-8")
    with pytest.raises(DataError, match=r"training_args.yaml: not valid YAML"):
        bring(base, directory)
    (directory / "training_args.yaml").write_text("template: qwen3\ndate: 2020-13-45  # 日期\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"training_args.yaml: not valid YAML, got month must be in 1..12; mend or remove it"):
        bring(base, directory)


def test_another_tokenizer_is_refused(base: Base, tmp_path: Path) -> None:
    directory = llamafactory_export(base, tmp_path)
    shutil.copy(write_qwen3_tokenizer(tmp_path / "other", vocab_size=400) / "tokenizer.json", directory)
    with pytest.raises(DataError, match="the adapter came with another tokenizer than the base's, got 407 tokens; use the base it was"):
        bring(base, directory)


@pytest.mark.parametrize("key", ["base", "template", "tokenizer"])
def test_the_record_of_another_base_template_or_tokenizer_is_refused(base: Base, tmp_path: Path, key: str) -> None:
    save_tuned(trained(base), tmp_path, base.identity())
    other = {**json.loads((tmp_path / "medcot.json").read_text()), key: "0123456789abcdef"}
    (tmp_path / "medcot.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(DataError, match=f"the adapter was made on another {key} .*, got 0123456789abcdef; use the same one"):
        bring(base, tmp_path)
    (tmp_path / "medcot.json").write_text("[1", encoding="utf-8")
    with pytest.raises(DataError, match="not a record of what the fine-tune was made on"):
        bring(base, tmp_path)


def refusal(base: Base, directory: Path) -> str:
    with pytest.raises(DataError) as caught:
        bring(base, directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_adapter_of_another_shape_does_not_fit(base: Base, tmp_path: Path) -> None:
    wide = get_peft_model(untied_llama(base, tmp_path / "llama"), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    wide.save_pretrained(tmp_path / "wide")
    message = refusal(base, tmp_path / "wide")
    assert "the adapter does not fit the base, got size mismatch" in message
    assert message.endswith("use the base it was trained on")


def test_an_adapter_with_layers_missing_or_too_many_does_not_fit(base: Base, tmp_path: Path) -> None:
    save_tuned(trained(base), tmp_path, base.identity())
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if "layers.1" in name)
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    assert "1 tensors do not fit the base" in refusal(base, tmp_path)
    save_file({**tensors, name.replace("layers.1", "layers.7"): tensors[name].clone()}, path)
    assert "1 tensors do not fit the base" in refusal(base, tmp_path)


def test_weights_that_are_not_finite_or_not_safetensors_are_refused(base: Base, tmp_path: Path) -> None:
    save_tuned(trained(base), tmp_path, base.identity())
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, path)
    assert "1 tensors are not finite" in refusal(base, tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    assert "the adapter does not fit the base" in refusal(base, tmp_path)


def test_pickled_weights_are_refused(base: Base, tmp_path: Path) -> None:
    save_tuned(trained(base), tmp_path, base.identity())
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    message = refusal(base, tmp_path)
    assert "adapter_model.safetensors is missing, got ['adapter_model.bin']" in message
    assert message.endswith("a pickle is never read")


def test_a_directory_that_is_no_lora_adapter_is_refused(base: Base, tmp_path: Path) -> None:
    assert "not a peft adapter in safetensors: adapter_config.json is missing" in refusal(base, tmp_path)
    save_tuned(trained(base), tmp_path, base.identity())
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "peft_type": "PROMPT_TUNING"}), encoding="utf-8")
    expected = "only LoRA adapters and prefixes are imported: others may change what a position means, got PROMPT_TUNING; "
    assert expected in refusal(base, tmp_path)
    for text in ("{", "{}", "[]"):
        path.write_text(text, encoding="utf-8")
        assert "not an adapter's configuration" in refusal(base, tmp_path)


@pytest.mark.parametrize(("key", "value"), [("lora_alpha", None), ("r", "八"), ("r", True), ("r", 2.5), ("lora_dropout", float("nan"))])
def test_a_number_of_the_configuration_that_is_none_is_named(base: Base, tmp_path: Path, key: str, value: object) -> None:
    directory = llamafactory_export(base, tmp_path, **{key: value})
    assert f"adapter_config.json: {key}: not a number that peft can use, got {value!r}; copy" in refusal(base, directory)


def test_an_adapter_is_found_inside_first_and_elsewhere_with_a_warning(
    in_tmp: Path, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inside = Path("models/import_adapter")
    (inside / "名").mkdir(parents=True)
    assert find_adapter("名", inside) == inside / "名"
    assert caplog.text == ""
    outside = tmp_path_factory.mktemp("elsewhere")
    assert find_adapter(str(outside), inside) == outside
    assert f"{outside} is outside models/import_adapter, where DVC would see it change" in caplog.text
    caplog.clear()
    assert find_adapter(str((inside / "名").resolve()), inside).name == "名"
    assert caplog.text == ""
    with pytest.raises(DataError, match=r"train.adapter: no such directory, got none; put the adapter under models/import_adapter/"):
        find_adapter("none", inside)
