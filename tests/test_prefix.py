"""A prefix: where it starts, what reads it, that the base is there beneath it, and which ones are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from train_factory import CPU, PADDED, QWEN3, Base
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from medcot.adapters import import_adapter, save_tuned
from medcot.attention import NAME, packs, virtual_tokens
from medcot.divergence import divergence_frame
from medcot.errors import DataError
from medcot.evaluate_params import GenerationParams
from medcot.generation import check_lengths, generate_ids
from medcot.merge import merged_model
from medcot.model import base_within, load_tuned
from medcot.nll import Spans, next_token_nll, span_nll
from medcot.prefix import add_prefix
from medcot.preflight import check_rows
from medcot.slots import Request
from medcot.trainer import TrainRow

TOKENS = 5
STOPS = set(range(0, 400, 31))
SIZES: dict[str, Any] = {
    **{"vocab_size": 101, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "initializer_range": 0.2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def words(base: Base) -> list[int]:
    return base.tok.encode("患者胸痛三天。 First look at the ECG.")


def prefixed(base: Base, quantization: str = "none", *, moved: bool = True, hardware: Any = CPU) -> Any:
    """A model under a prefix, moved as training would."""
    model = add_prefix(base.model(quantization, hardware), TOKENS, words(base), "models/import/base")
    if moved:
        weight = model.prompt_encoder["default"].embedding.weight
        weight.data += torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.5
    return model.eval()


def sequences(base: Base, count: int = 5) -> list[list[int]]:
    return [row.input_ids for row in base.encoded(count)]


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    return torch.as_tensor(model.eval()(torch.tensor([ids])).logits[0].float())


# ---- where it starts


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_fresh_prefix_is_the_base_that_has_read_its_words(base: Base, quantization: str) -> None:
    read, ids = words(base)[:TOKENS], sequences(base)[0]
    ours = logits(prefixed(base, quantization, moved=False), ids)
    torch.testing.assert_close(ours, logits(base.model(quantization), read + ids)[TOKENS:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, logits(base.model(quantization), ids), atol=1e-2)


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen2Config(**SIZES)], ids=["llama", "qwen2"])
def test_other_architectures_start_alike_and_few_words_are_read_again(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=NAME).eval()
    expected = logits(model, [7, 8, 7, 8, 7, 5, 6, 9])[5:]
    torch.testing.assert_close(logits(add_prefix(model, 5, [7, 8], "base"), [5, 6, 9]), expected, rtol=1e-4, atol=1e-4)


def test_the_prefix_alone_is_trained_and_it_is_float32(base: Base) -> None:
    model = prefixed(base, "nf4")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name: (tuple(p.shape), p.dtype) for name, p in trained.items()} == {
        "prompt_encoder.default.embedding.weight": ((TOKENS, 2 * 2 * 2 * 16), torch.float32)
    }
    same = prefixed(base, "nf4")
    assert torch.equal(*(one.prompt_encoder["default"].embedding.weight for one in (model, same)))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=4), "gemma3_text"),
        (MistralConfig(**SIZES, sliding_window=8), "mistral"),
        (Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1), "qwen2"),
    ],
    ids=["gemma3", "mistral", "qwen2"],
)
def test_layers_that_forget_take_no_prefix(config: Any, name: str) -> None:
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(DataError) as caught:
        add_prefix(model, 4, [1, 2], "base")
    assert str(caught.value) == (
        "params.yaml: train.finetuning_type: a prefix needs layers that each see the whole sequence through plain keys and values, "
        f"got {name}; use lora for this architecture"
    )


def test_a_prefix_needs_a_row_to_start_from(base: Base) -> None:
    with pytest.raises(DataError, match=r"data/llamafactory/train.json: no training rows"):
        add_prefix(base.model("none"), 4, [], "base")


# ---- what reads it


def test_a_model_with_a_prefix_is_padded_and_without_it_packed(base: Base) -> None:
    model, lora = prefixed(base), base.model("none")
    assert (virtual_tokens(model), packs(model)) == (TOKENS, False)
    assert (virtual_tokens(lora), packs(lora)) == (0, True)
    with model.disable_adapter():
        assert (virtual_tokens(model), packs(model)) == (0, True)
    assert packs(model) is False


@pytest.mark.parametrize("max_tokens", [1, 400])
def test_likelihoods_are_those_of_each_row_by_itself(base: Base, max_tokens: int) -> None:
    """Padding, the batch and its order change nothing, and the attention of the base does not either."""
    model, ids = prefixed(base), sequences(base)
    spans = [Spans(row, {"all": range(1, len(row))}) for row in ids]
    found = [one["all"] for one in span_nll(model, spans, max_tokens)]
    assert [one["all"] for one in span_nll(prefixed(base, hardware=PADDED), spans, max_tokens)] == pytest.approx(found, rel=1e-5)
    for row, total in zip(ids, found, strict=True):
        by_definition = -torch.log_softmax(logits(model, row)[:-1], -1).gather(1, torch.tensor(row[1:])[:, None]).sum().item()
        assert total == pytest.approx(by_definition, rel=1e-5)
    chosen = next_token_nll(model, ids, [[5, 6, 7]] * len(ids), max_tokens)
    for row, values in zip(ids, chosen, strict=True):
        assert values == pytest.approx((-torch.log_softmax(logits(model, row)[-1], -1)[[5, 6, 7]]).tolist(), rel=1e-5)


def requests(base: Base) -> list[Request]:
    return [Request(ids[: 4 + 3 * i], 4 + i, ("item", i)) for i, ids in enumerate(sequences(base, 6))]


def greedy(model: Any, request: Request) -> list[int]:
    """The likeliest token by a pass over everything, again and again: no cache of ours, nor of transformers' generation."""
    new: list[int] = []
    while len(new) < request.limit and not (new and new[-1] in STOPS):
        new.append(int(logits(model, request.ids + new)[-1].argmax()))
    return new


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_greedy_replies_are_those_of_passes_without_a_cache(base: Base, quantization: str) -> None:
    model, asked = prefixed(base, quantization), requests(base)
    expected = [greedy(model, one) for one in asked]
    settings = GenerationParams(temperature=0.0, batch_size=4)
    assert generate_ids(model, asked, STOPS, settings) == expected
    assert expected != [greedy(base.model(quantization), one) for one in asked]
    for one, ids in zip(asked, expected, strict=True):
        prompt = torch.tensor([one.ids])
        options = {"do_sample": False, "max_new_tokens": len(ids), "eos_token_id": None, "pad_token_id": 0}
        assert model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)[0, len(one.ids) :].tolist() == ids


def test_sampled_replies_depend_neither_on_the_order_nor_on_the_other_prompts(base: Base) -> None:
    model, asked = prefixed(base), requests(base)
    replies = generate_ids(model, asked, STOPS, GenerationParams(batch_size=4))
    assert generate_ids(model, asked[::-1], STOPS, GenerationParams(batch_size=3))[::-1] == replies
    assert replies != generate_ids(model, asked, STOPS, GenerationParams(temperature=0.0))


def test_the_prefix_takes_its_part_of_the_context(base: Base) -> None:
    longest = [Request([5] * 2000, 48, ("long",))]
    check_lengths(base.model("none"), longest)
    with pytest.raises(DataError, match=r"with its reply is longer than the 2043 that the model reads, got 48; lower it"):
        check_lengths(prefixed(base), longest)


@pytest.mark.parametrize("room", [1, 0, -3])
def test_a_prefix_as_long_as_the_context_is_refused(base: Base, room: int) -> None:
    model = prefixed(base)
    model.config.max_position_embeddings = TOKENS + room
    message = (
        f"params.yaml: train.num_virtual_tokens: the prefix leaves no room in the model's context of {TOKENS + room} tokens, got 5; lower"
    )
    with pytest.raises(DataError, match=message):
        check_rows([TrainRow("行", [1, 2], [1, 2])], model)


# ---- the base beneath it


def test_the_base_beneath_a_prefix_is_the_base_to_the_bit(base: Base) -> None:
    model, plain, ids = prefixed(base, "nf4"), base.model("nf4"), sequences(base)
    spans = [Spans(row, {"all": range(1, len(row))}) for row in ids]
    with base_within(model, lambda: None)() as beneath:
        assert torch.equal(logits(beneath, ids[0]), logits(plain, ids[0]))
        assert span_nll(beneath, spans, 256) == span_nll(plain, spans, 256)
        replies = generate_ids(beneath, requests(base), STOPS, GenerationParams())
    assert replies == generate_ids(plain, requests(base), STOPS, GenerationParams())
    assert replies != generate_ids(model, requests(base), STOPS, GenerationParams())
    frame = divergence_frame(base_within(model, lambda: None), model, ["a"], spans[:1])
    assert frame["kl"].item() > 0.1


# ---- on disk


def test_it_is_saved_as_an_ordinary_peft_adapter_and_comes_back(base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medcot")
    model, ids = prefixed(base), sequences(base)[0]
    save_tuned(model, tmp_path, base.identity())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "medcot.json"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"prompt_embeddings": torch.float32}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "models/import/base"
    assert torch.equal(logits(PeftModel.from_pretrained(base.model("none"), tmp_path), ids), logits(model, ids))
    assert torch.equal(logits(load_tuned(base.model_dir, tmp_path, "none", CPU), ids), logits(model, ids))
    assert f"model: {tmp_path} is a prefix of 5 virtual tokens; it lies in the cache, so rows are padded" in caplog.text
    (tmp_path / "again").mkdir()
    imported = bring(base, tmp_path)
    assert torch.equal(logits(imported, ids), logits(model, ids))
    save_tuned(imported, tmp_path / "again", base.identity())
    assert (tmp_path / "again/adapter_model.safetensors").read_bytes() == (tmp_path / "adapter_model.safetensors").read_bytes()


def bring(base: Base, directory: Path) -> Any:
    return import_adapter(base.model("none"), directory, base.identity(), "models/import/base", base.tok, QWEN3)


def finished(base: Base, directory: Path, **config: object) -> Path:
    """A saved prefix whose configuration says something else."""
    save_tuned(prefixed(base), directory, base.identity())
    path = directory / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | config
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None or key not in config}), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": 3}, "the adapter does not fit the base, which has 2 layers with 2 key heads of 16, got 3 layers with 2 of 16"),
        ({"num_attention_heads": 4}, "got 2 layers with 4 of 8; use the base it was trained on"),
        ({"num_transformer_submodules": 2}, "the adapter does not fit the base"),
        ({"task_type": "SEQ_CLS"}, "adapter_config.json: task_type: the prefix is of no causal language model, got SEQ_CLS; train one"),
        ({"num_virtual_tokens": 7}, "the adapter does not fit the base, got"),
        ({"num_virtual_tokens": 0}, "adapter_config.json: num_virtual_tokens: not a number that peft can use, got 0; copy"),
        ({"token_dim": 32.0}, "adapter_config.json: token_dim: not a number that peft can use, got 32.0; copy"),
        ({"peft_type": ["PREFIX_TUNING"]}, "only LoRA adapters and prefixes are imported"),
        ({"num_layers": None}, "adapter_config.json: num_layers: not a number that peft can use, got None; copy"),
        ({"num_virtual_tokens": 10**400}, "adapter_config.json: num_virtual_tokens: not a number that peft can use, got 1000"),
    ],
    ids=["layers", "heads", "submodules", "task", "length", "none", "float", "list", "absent", "huge"],
)
def test_a_finished_prefix_that_does_not_fit_is_one_line(base: Base, tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        bring(base, finished(base, tmp_path, **config))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_tensors_of_a_prefix_are_refused(base: Base, tmp_path: Path) -> None:
    path = finished(base, tmp_path) / "adapter_model.safetensors"
    tensor = load_file(path)["prompt_embeddings"]
    save_file({"prompt_embeddings": torch.full_like(tensor, float("inf"))}, path)
    with pytest.raises(DataError, match=r"1 tensors are not finite, got prompt_encoder.default.embedding.weight"):
        bring(base, tmp_path)
    save_file({"embeddings": tensor}, path)
    with pytest.raises(DataError, match=r"the adapter does not fit the base, got 'prompt_embeddings'"):
        bring(base, tmp_path)


def test_prompt_tuning_is_refused_because_its_virtual_tokens_have_logits(base: Base, tmp_path: Path) -> None:
    tuned = get_peft_model(base.model("none"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    assert logits(tuned, [5, 6, 7]).shape[0] == 7
    assert logits(prefixed(base), [5, 6, 7]).shape[0] == 3
    tuned.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"only LoRA adapters and prefixes are imported: others may change what a position means, got"):
        bring(base, tmp_path)


def test_a_prefix_cannot_be_merged(base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        merged_model(base.model_dir, finished(base, tmp_path), "float32")
    assert str(caught.value) == (
        f"{tmp_path}/adapter_config.json: a prefix cannot be merged: it changes no weight, and no server of dense models reads it, "
        "got PREFIX_TUNING; use it through peft"
    )
