"""Rows of a pack: each is computed as if it stood alone, whatever stands before it, on the CPU and (marked gpu) by the kernel."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_factory import tiny_model, tiny_model_dir
from train_factory import write_qwen3_tokenizer
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

from medcot import attention
from medcot.attention import NAME, flash, implementation_for, pack, packs, reference
from medcot.model import Hardware, choose_hardware, load_weights

VOCAB = 101
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "initializer_range": 0.2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "llama": LlamaConfig(**SIZES),
    "qwen2 with a sliding window": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "gemma3 with a sliding window": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=4),
}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def build(name: str, implementation: str = NAME) -> Any:
    torch.manual_seed(0)
    # A copy: the attention is written into the config, which two models would share.
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]), attn_implementation=implementation).eval()


def rows(count: int = 4, seed: int = 0, longest: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def logits_apart(model: Any, sequences: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids], device=model.device)).logits[0] for ids in sequences])


def logits_packed(model: Any, sequences: list[list[int]], **changes: Any) -> torch.Tensor:
    inputs = {**pack(sequences, model.device), **changes}
    with torch.no_grad():
        return model(**{key: value for key, value in inputs.items() if value is not None}).logits[0]


def test_a_pack_says_where_its_rows_begin_and_how_long_they_are() -> None:
    inputs = pack([[5, 6, 7], [8], [9, 10]])
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 3, 4, 6]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert inputs["max_length_q"] == inputs["max_length_k"] == 3


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_give_the_logits_of_each_row_alone_under_plain_sdpa(name: str) -> None:
    sequences = rows()
    torch.testing.assert_close(logits_packed(build(name), sequences), logits_apart(build(name, "sdpa"), sequences), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_does_not_change_when_its_neighbours_do(name: str) -> None:
    model, (first, second, third) = build(name), rows(3)
    other = [(token + 1) % VOCAB for token in first]
    before, after = logits_packed(model, [first, second, third]), logits_packed(model, [other, second, third[::-1]])
    inside = slice(len(first), len(first) + len(second))
    assert torch.equal(before[inside], after[inside])
    assert not torch.allclose(before[: len(first)], after[: len(first)], atol=1e-2)


def test_rows_would_see_each_other_without_bounds() -> None:
    """The test above can fail: one row of the same tokens gives the second row other logits."""
    model, (first, second) = build("qwen3"), rows(2)
    apart, together = logits_packed(model, [first, second]), logits_packed(model, [first + second])
    assert not torch.allclose(apart[len(first) :], together[len(first) :], atol=1e-2)


def test_bounds_are_read_from_the_positions_where_they_are_not_given() -> None:
    model, sequences = build("qwen3"), rows()
    without = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"))
    assert torch.equal(logits_packed(model, sequences, **without), logits_packed(model, sequences))


@pytest.mark.parametrize("name", CONFIGS)
def test_padded_batches_and_generation_are_those_of_sdpa(name: str) -> None:
    ours, plain = build(name), build(name, "sdpa")
    batch = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 4, 5, 6, 7, 9]])
    mask = (batch != 0).long()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for inputs in ({"input_ids": batch, "attention_mask": mask}, {"input_ids": batch[:1]}):
        with torch.no_grad():
            wanted, got = plain(**inputs).logits, ours(**inputs).logits
        kept = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        torch.testing.assert_close(got[kept], wanted[kept], atol=2e-5, rtol=1e-4)
        assert torch.equal(ours.generate(**inputs, **options), plain.generate(**inputs, **options))


def test_gradients_of_a_pack_are_the_sum_of_those_of_its_rows() -> None:
    packed, apart, sequences = build("qwen3").train(), build("qwen3", "sdpa").train(), rows()
    inputs = pack(sequences)
    targets = inputs["input_ids"][0]
    torch.nn.functional.cross_entropy(packed(**inputs).logits[0], targets, reduction="sum").backward()
    for ids in sequences:
        one = torch.tensor([ids])
        torch.nn.functional.cross_entropy(apart(one).logits[0], one[0], reduction="sum").backward()
    for (name, a), b in zip(packed.named_parameters(), apart.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm(), name


def test_attention_dropout_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES, head_dim=16, attention_dropout=0.5), attn_implementation=NAME)
    sequences = rows()
    assert torch.equal(logits_packed(model.eval(), sequences), logits_packed(model, sequences))
    assert not torch.equal(logits_packed(model.train(), sequences), logits_packed(model, sequences))


def test_other_kinds_of_layers_are_loaded_with_sdpa() -> None:
    config, model_class = CONFIGS["qwen3"], type(build("qwen3"))
    assert implementation_for(model_class, config) == NAME
    chunked = Qwen3Config(**SIZES)
    chunked.attention_chunk_size = 8
    assert implementation_for(model_class, chunked) == "sdpa"
    linear = Qwen3Config(**SIZES)
    linear.layer_types = ["linear_attention", "full_attention", "full_attention"]
    assert implementation_for(model_class, linear) == "sdpa"
    assert implementation_for(type("Old", (), {}), config) == "sdpa"


def test_a_loaded_model_packs_and_its_saved_config_names_no_attention(tmp_path: Path) -> None:
    tokenizer = write_qwen3_tokenizer(tmp_path / "tokenizer")
    directory = tiny_model_dir(tmp_path / "model", tokenizer)
    model = load_weights(directory, "none", Hardware("cpu", "float32", "varlen", "a test"))
    assert packs(model)
    assert not packs(tiny_model(VOCAB))
    model.save_pretrained(tmp_path / "saved")
    assert NAME not in json.dumps(json.loads((tmp_path / "saved/config.json").read_text(encoding="utf-8")))


def test_every_machine_asks_for_packing() -> None:
    assert choose_hardware().attention == "varlen"


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(28, 4, 128), (16, 8, 128), (8, 8, 64)])
def test_the_kernel_computes_the_reference(heads: int, kv_heads: int, head_dim: int, window: int | None) -> None:
    torch.manual_seed(0)
    bounds = [0, 300, 301, 900, 1537]
    shapes = [(bounds[-1], heads, head_dim), *[(bounds[-1], kv_heads, head_dim)] * 2]
    exact = [torch.randn(shape, device="cuda", dtype=torch.float32, requires_grad=True) for shape in shapes]
    half = [states.detach().to(torch.bfloat16).requires_grad_() for states in exact]
    wanted = reference(*exact, bounds, head_dim**-0.5, window)
    got = flash(*half, torch.tensor(bounds, dtype=torch.int32, device="cuda"), 637, head_dim**-0.5, window)
    weight = torch.randn_like(wanted)
    (wanted * weight).sum().backward()
    (got.float() * weight).sum().backward()
    for a, b in [(wanted, got), *((e.grad, h.grad) for e, h in zip(exact, half, strict=True))]:
        assert (b.float() - a).norm() / a.norm() < 1e-2


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_gpu_a_row_does_not_change_when_its_neighbours_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(attention, "flash", lambda *args: calls.append(1) or flash(*args))
    model, (first, second, third) = build(name).to("cuda", torch.bfloat16), rows(3, longest=200)
    other = [(token + 1) % VOCAB for token in first]
    before, after = logits_packed(model, [first, second, third]), logits_packed(model, [other, second, third[::-1]])
    inside = slice(len(first), len(first) + len(second))
    assert calls, "the kernel was not used"
    assert torch.equal(before[inside], after[inside])
    exact = logits_apart(build(name, "sdpa").to("cuda"), [first, second, third])
    assert (before.float() - exact).norm() / exact.norm() < 5e-2
