"""Numbers that are not finite: whose they are, and that none of them is saved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from train_factory import Base

from medcot.errors import DataError, TrainingError
from medcot.finite import CheckWeights, blame, first_not_finite, frozen, trained
from medcot.train_params import TrainParams

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


def test_the_first_tensor_of_floats_that_is_not_finite_is_named() -> None:
    good = {"a": torch.ones(3), "b": torch.ones(3, dtype=torch.bfloat16), "n": 3, "ids": torch.tensor([2**40]), "none": None}
    assert first_not_finite(good.items()) is None
    assert first_not_finite([]) is None
    assert first_not_finite({**good, "e": torch.zeros(0), "c": torch.tensor([1.0, -INF]), "d": torch.tensor([NAN])}.items()) == "c"


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_wrong_weight_of_the_base_is_the_bases_fault(base: Base, quantization: str, value: float) -> None:
    model = base.adapted(TrainParams(), quantization)
    blame(model, 1, [])  # a sound model is to blame for nothing
    name = "base_model.model.model.layers.1.mlp.up_proj.base_layer.weight"
    broken = dict(model.named_parameters())[name]
    if quantization == "nf4":
        broken.quant_state.offset.fill_(value)  # what a wrong weight leaves when it is quantised
    else:
        broken.data[3, 5] = value
    with pytest.raises(DataError) as caught:
        blame(model, 1, [])
    remedy = "get the model again, then `dvc repro -f base`"
    assert str(caught.value) == f"models/base/model: weights of the base are not finite, got {name}; {remedy}"


@pytest.mark.parametrize("value", [NAN, INF])
def test_quantising_a_wrong_weight_leaves_a_trace_that_is_looked_at(value: float) -> None:
    weight = torch.randn(64, 128)
    weight[3, 5] = value
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(packed, requires_grad=False)
    model.weight.quant_state = state
    assert first_not_finite(frozen(model)) == "weight"


def test_trained_weights_broken_by_the_last_update_are_not_this_steps_fault(base: Base) -> None:
    model = base.adapted(TrainParams())
    name, parameter = next((n, p) for n, p in model.named_parameters() if "lora_B" in n)
    parameter.data[0, 0] = INF
    with pytest.raises(TrainingError) as caught:
        blame(model, 8, ["甲", "b"])
    cause, remedy = "the optimiser's update is not finite", "lower train.learning_rate, or raise train.adam_epsilon"
    assert str(caught.value) == f"train: step 7, records 甲, b: {cause}, got {name}; {remedy}"


@pytest.mark.parametrize(
    ("control", "step", "looks"),
    [({}, 3, False), ({"should_save": True}, 3, True), ({"should_evaluate": True}, 3, True), ({}, 10, True)],
)
@pytest.mark.parametrize("where", ["weight", "exp_avg_sq of weight"])
def test_nothing_that_is_not_finite_is_saved_measured_or_handed_over(control: dict[str, bool], step: int, looks: bool, where: str) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = SimpleNamespace(global_step=step, max_steps=10)
    flags = SimpleNamespace(**{"should_save": False, "should_evaluate": False, **control})

    def check() -> Any:
        return CheckWeights().on_step_end(None, state, flags, model=model, optimizer=optimizer)

    check()
    broken = model.weight.data if where == "weight" else optimizer.state[model.weight]["exp_avg_sq"]
    broken[1, 1] = NAN
    if not looks:
        check()
        return
    with pytest.raises(TrainingError, match=rf"^train: step {step}: the optimiser's update is not finite, got {where}; lower"):
        check()


def test_the_optimisers_moments_are_found_behind_accelerates_wrapper() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    wrapped = AcceleratedOptimizer.__new__(AcceleratedOptimizer)
    wrapped.optimizer = optimizer
    assert {"weight", "exp_avg of weight", "exp_avg_sq of bias"} <= {name for name, _ in trained(model, wrapped)}
