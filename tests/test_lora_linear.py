"""One function per adapted layer: the gradients that peft gives, on any architecture, and peft's own forward wherever it is not used."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parity_factory import SHAPES, SIZES, VOCAB, Gradients, adapted, forget, gradients, num_targets, packed, random_rows, wrap, write_model
from torch.nn.functional import cross_entropy
from train_factory import CPU, Base
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, LlamaConfig, MistralConfig, PhiConfig

from medcot import lora_linear
from medcot.lora_linear import LoraLinears
from medcot.train_params import TrainParams
from medcot.training import run, trainer_config

OTHERS: dict[str, Any] = {
    "mistral, sliding": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=16),
    "gemma 2": Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16),
    "phi": PhiConfig(**SIZES, num_key_value_heads=4, partial_rotary_factor=0.5),
}
ROWS = random_rows((23, 2, 50, 41))
NUM_LAYERS = {"phi": 12}  # 2 x 7 elsewhere


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_linear, "DEVICES", ("cpu", "cuda"))


def random_model(config: Any, **lora: Any) -> Any:
    torch.manual_seed(0)
    return wrap(AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32, attn_implementation="eager"), **lora)


def step(model: Any, linears: LoraLinears | None = None, smoothing: float = 0.0, passes: int = 2) -> tuple[float, Gradients]:
    """Loss and gradients of a step over ROWS, in some passes of padded rows."""
    forget(model)
    total = 0.0
    if linears:
        linears.begin_step()
    for rows in (ROWS[start::passes] for start in range(passes)):
        width = max(len(row.input_ids) for row in rows)
        ids = torch.tensor([row.input_ids + [0] * (width - len(row.input_ids)) for row in rows])
        labels = torch.tensor([row.labels + [-100] * (width - len(row.labels)) for row in rows])
        mask = torch.tensor([[1] * len(row.input_ids) + [0] * (width - len(row.input_ids)) for row in rows])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].flatten(0, 1)
        loss = cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum", label_smoothing=smoothing) / num_targets(ROWS)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if linears:
        linears.end_step()
    return total, gradients(model)


def assert_same(got: tuple[float, Gradients], wanted: tuple[float, Gradients]) -> None:
    assert got[0] == pytest.approx(wanted[0], rel=1e-5)
    assert got[1].keys() == wanted[1].keys()
    for name, grad in wanted[1].items():
        assert got[1][name].dtype == torch.float32
        assert (got[1][name] - grad).norm() <= 1e-5 * grad.norm(), name


@pytest.mark.parametrize("kind", [*SHAPES, *OTHERS])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_loss_and_gradients_are_those_of_peft(kind: str, recompute: bool) -> None:
    model = random_model((SHAPES | OTHERS)[kind])
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    wanted = step(model)
    linears = LoraLinears(model)
    assert len(linears.layers) == NUM_LAYERS.get(kind, 14)
    assert_same(step(model, linears), wanted)


def test_a_model_in_nf4_gives_the_gradients_of_peft(tmp_path: Path) -> None:
    model = adapted(write_model(tmp_path, SHAPES["qwen2"]), "nf4")
    batch = packed(ROWS)
    labels = batch.pop("labels")

    def run() -> tuple[float, Gradients]:
        forget(model)
        loss = cross_entropy(model(**batch, use_cache=False).logits[0, :-1], labels[0, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), gradients(model)

    wanted = run()
    linears = LoraLinears(model)
    assert len(linears.layers) == 14
    linears.begin_step()
    assert_same(run(), wanted)
    linears.end_step()
    assert_same(run(), wanted)  # by peft's forward, over the scales that are quantised no longer


def test_other_parameters_may_be_trained_beside_it_and_labels_smoothed() -> None:
    model = random_model(SHAPES["qwen2"], modules_to_save=["lm_head"], target_modules=["q_proj", "down_proj"])
    wanted = step(model, smoothing=0.1)
    linears = LoraLinears(model)
    assert len(linears.layers) == 4
    got = step(model, linears, smoothing=0.1)
    assert any("lm_head" in name for name in got[1])
    assert_same(got, wanted)


def test_masters_that_moved_are_read_at_the_next_step() -> None:
    model = random_model(SHAPES["llama"])
    linears = LoraLinears(model)
    step(model, linears)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.mul_(1.5)
    got = step(model, linears)
    linears.remove()
    assert_same(got, step(model))


def served(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls that the function serves, from here on."""
    calls: list[int] = []
    forward = lora_linear._LoraLinear.forward

    def count(ctx: Any, *args: Any) -> Any:
        calls.append(1)
        return forward(ctx, *args)

    monkeypatch.setattr(lora_linear._LoraLinear, "forward", staticmethod(count))
    return calls


def test_peft_computes_what_is_no_step_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(SHAPES["qwen2"])
    linears, ids = LoraLinears(model), torch.tensor([[5, 6, 7]])
    calls = served(monkeypatch)
    model(input_ids=ids)  # no step
    linears.begin_step()
    with torch.no_grad():
        model(input_ids=ids)
    with model.disable_adapter():
        model(input_ids=ids)
    assert not calls
    model(input_ids=ids)
    assert len(calls) == 14
    model.merge_adapter()
    model(input_ids=ids)
    assert len(calls) == 14


def test_the_same_numbers_come_with_the_adapter_off_and_on_and_merged() -> None:
    model = random_model(SHAPES["qwen3"])
    ids = torch.tensor([[5, 6, 7, 9]])

    def numbers() -> list[torch.Tensor]:
        found = [model(input_ids=ids).logits]
        with model.disable_adapter():
            found.append(model(input_ids=ids).logits)
        model.merge_adapter()
        found.append(model(input_ids=ids).logits)
        model.unmerge_adapter()
        return found

    wanted = numbers()
    linears = LoraLinears(model)
    linears.begin_step()
    for got, expected in zip(numbers(), wanted, strict=True):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    "lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}], ids=["dropout", "dora", "lora bias", "bias"]
)
def test_layers_that_compute_something_else_stay_those_of_peft(lora: dict[str, Any]) -> None:
    model = random_model(SHAPES["qwen2"], **lora)
    with_bias = lora.get("bias") == "all"  # then q, k and v train theirs, and the other four have none
    assert len(LoraLinears(model).layers) == (8 if with_bias else 0)


def test_two_adapters_or_masters_of_sixteen_bits_stay_those_of_peft() -> None:
    model = random_model(LlamaConfig(**SIZES))
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    layer.lora_B["default"].weight.data = layer.lora_B["default"].weight.data.bfloat16()
    assert len(LoraLinears(model).layers) == 13
    model = random_model(LlamaConfig(**SIZES))
    model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
    model.base_model.set_adapter(["default", "second"])
    assert not LoraLinears(model).layers


def test_on_a_cpu_a_run_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model = random_model(SHAPES["qwen2"])
    linears = LoraLinears(model)
    assert not linears.layers
    linears.begin_step()  # of nothing
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("where", ["weight", "lora_A", "lora_B"])
def test_what_is_not_a_number_reaches_the_loss_and_the_gradients(where: str) -> None:
    model = random_model(SHAPES["qwen2"])
    layer = model.get_base_model().model.layers[0].mlp.gate_proj
    tensor = layer.base_layer.weight if where == "weight" else getattr(layer, where)["default"].weight
    tensor.data[1, 2] = float("nan")
    loss, grads = step(model, LoraLinears(model))
    assert loss != loss
    assert all(grad.isnan().any() for grad in grads.values())


def test_the_input_is_kept_once_for_all_layers_on_it() -> None:
    model = random_model(SHAPES["llama"])
    linears = LoraLinears(model)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (6, SIZES["hidden_size"]):
            kept[tensor.data_ptr()] = kept.get(tensor.data_ptr(), 0) + 1
        return tensor

    linears.begin_step()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.randint(0, VOCAB, (2, 3)), use_cache=False)
    assert sorted(kept.values()) == [1, 1, 2, 2, 3, 3]  # o; gate, up; q, k, v of two layers


def test_autocast_changes_nothing_inside() -> None:
    model = random_model(SHAPES["llama"]).to(torch.bfloat16)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.float()
    linears = LoraLinears(model)
    assert len(linears.layers) == 14
    linears.begin_step()
    layer, x = model.get_base_model().model.layers[0].mlp.up_proj, torch.randn(5, SIZES["hidden_size"], dtype=torch.bfloat16)
    plain = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(x)
    assert plain.dtype == inside.dtype == torch.bfloat16
    assert torch.equal(plain, inside)


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"label_smoothing_factor": 0.1, "eval_steps": 1}], ids=str)
def test_a_run_of_the_plain_path_ends_where_it_does_by_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("MEDCOT_TOKENS_PER_PASS", "60")  # several passes a step
    base = Base(tmp_path / "base")
    params = TrainParams.model_validate({"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, **settings})
    calls, ends = served(monkeypatch), []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(lora_linear, "DEVICES", devices)
        model, tokenizer = base.adapted(params), AutoTokenizer.from_pretrained(base.tokenizer_dir)
        config = trainer_config(params, CPU, 16, 6, tmp_path / str(len(devices)))
        outcome = run(model, tokenizer, base.encoded(16), base.encoded(6, start=100), params, config, CPU)
        assert bool(calls) == bool(devices)
        ends.append((outcome.eval_loss, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}))
    (loss, peft), (other_loss, ours) = ends
    assert other_loss == pytest.approx(loss, rel=1e-4)
    assert max(float((peft[name] - ours[name]).abs().max()) for name in peft) < 1e-4 < max(float(p.abs().max()) for p in peft.values())


@pytest.mark.parametrize("found", [None, "a spec"])
def test_a_gpu_without_triton_leaves_the_layers_to_peft(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_linear, "why_not_linear", lambda layer: None)
    monkeypatch.setattr(lora_linear.importlib.util, "find_spec", {"triton": found}.get)
    weight = SimpleNamespace(is_cuda=True, device=torch.device("cuda"), dtype=torch.bfloat16)
    matrix = {"default": SimpleNamespace(weight=torch.nn.Parameter(torch.zeros(2, 2)))}
    base = SimpleNamespace(weight=weight, parameters=list)
    layer = SimpleNamespace(active_adapters=["default"], lora_A=matrix, lora_B=matrix, base_layer=base)
    assert lora_linear._fits(layer) is bool(found)
