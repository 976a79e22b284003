"""Section `train`: steps, warm-up, combinations that are refused, and the configuration LLaMA-Factory would read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from pydantic import ValidationError

from medcot.errors import DataError
from medcot.params import load_section, parse_section
from medcot.train_params import TrainParams


def params(**values: object) -> TrainParams:
    return parse_section("train", values, TrainParams)


@pytest.mark.parametrize(
    ("num_rows", "batch", "accumulation", "epochs", "steps"),
    [(16, 4, 1, 3.0, 12), (16, 4, 2, 3.0, 6), (17, 4, 1, 1.0, 5), (17, 4, 2, 1.0, 3), (100, 8, 1, 0.5, 7), (3, 8, 4, 2.0, 2)],
)
def test_epochs_become_steps_of_batch_times_accumulation_rows(
    num_rows: int, batch: int, accumulation: int, epochs: float, steps: int
) -> None:
    values = params(num_train_epochs=epochs, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    assert values.num_steps(num_rows) == steps
    assert values.rows_per_step == batch * accumulation


def test_max_steps_beats_epochs() -> None:
    assert params(max_steps=7, num_train_epochs=100.0).num_steps(1000) == 7


@pytest.mark.parametrize(("ratio", "fixed", "steps", "expected"), [(0.1, 0, 60, 6), (0.1, 0, 61, 7), (0.0, 0, 60, 0), (0.1, 3, 60, 3)])
def test_warmup_ratio_becomes_steps_and_warmup_steps_beat_it(ratio: float, fixed: int, steps: int, expected: int) -> None:
    assert params(warmup_ratio=ratio, warmup_steps=fixed).num_warmup_steps(steps) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"load_best_model_at_end": True}, "load_best_model_at_end needs eval_steps > 0"),
        ({"load_best_model_at_end": True, "eval_steps": 4, "save_steps": 6}, "save_steps to be 0 or a multiple of eval_steps"),
        ({"early_stopping_steps": 2, "eval_steps": 2}, "early_stopping_steps needs load_best_model_at_end: true"),
        ({"metric_for_best_model": "eval_bleu_4"}, "metric_for_best_model needs load_best_model_at_end: true"),
        (
            {"metric_for_best_model": "eval_rouge_l", "load_best_model_at_end": True, "eval_steps": 2},
            "metric_for_best_model eval_rouge_l needs eval_generate_rows > 0",
        ),
        ({"metric_for_best_model": "bleu"}, "train.metric_for_best_model"),
        ({"eval_max_new_tokens": 0}, "train.eval_max_new_tokens"),
        ({"num_virtual_tokens": 0}, "train.num_virtual_tokens"),
        (
            {"finetuning_type": "prefix", "gradient_checkpointing": True},
            "finetuning_type prefix needs gradient_checkpointing: false: transformers drops the cache in recomputed layers",
        ),
        (
            {"finetuning_type": "prefix", "additional_target": "lm_head"},
            "finetuning_type prefix trains nothing else: additional_target must be empty",
        ),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-7}, "ends at 1e-07"),
        ({"learning_rate": 2.0}, "train.learning_rate"),
        ({"lora_rank": 0}, "train.lora_rank"),
        ({"lora_target": ""}, "train.lora_target"),
        ({"optim": "adam"}, "train.optim"),
        ({"lerning_rate": 1e-4}, "did you mean `learning_rate`?"),
        ({"finetuning_type": "lora "}, "train.finetuning_type"),
    ],
)
def test_a_value_that_cannot_be_meant_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        params(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("written", "value"), [("5e-6", 5e-6), ("5e-06", 5e-6), ("5.0e-6", 5e-6), ("0.001", 1e-3), ("0", 0.0)])
def test_every_spelling_of_a_learning_rate_is_a_number(tmp_path: Path, written: str, value: float) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"train:\n  learning_rate: {written}\n", encoding="utf-8")
    assert load_section("train", TrainParams, path).learning_rate == value


def test_the_section_of_the_repository_is_valid_and_complete() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]
    assert load_section("train", TrainParams, ROOT / "params.yaml")
    assert set(values) == set(TrainParams.model_fields)


def test_every_field_is_documented() -> None:
    assert [name for name, field in TrainParams.model_fields.items() if not field.description] == []


def test_llamafactory_reads_the_same_run() -> None:
    config = params(max_steps=60, lora_alpha=16, eval_steps=20, gradient_checkpointing=True, learning_rate=5e-6).llamafactory_config()
    expected = {"max_steps": 60, "lora_alpha": 16, "eval_steps": 20, "eval_strategy": "steps", "save_strategy": "no", "learning_rate": 5e-6}
    assert {key: config[key] for key in expected} == expected
    assert isinstance(config["lora_alpha"], int)
    assert params().llamafactory_config()["disable_gradient_checkpointing"] is False, "it could not find out what fits"
    assert config["finetuning_type"] == "lora"
    assert params(finetuning_type="full").llamafactory_config()["finetuning_type"] == "full"
    assert params(finetuning_type="none").llamafactory_config()["finetuning_type"] == "lora"


def test_a_prefix_stands_in_llamafactorys_configuration_as_what_it_is() -> None:
    """It knows no such type and refuses the file: better than a LoRA under a prefix's name."""
    config = params(finetuning_type="prefix", num_virtual_tokens=30).llamafactory_config()
    assert {key: config[key] for key in ("finetuning_type", "num_virtual_tokens")} == {
        "finetuning_type": "prefix",
        "num_virtual_tokens": 30,
    }
    assert "num_virtual_tokens" not in params().llamafactory_config()


def test_a_generation_metric_becomes_llamafactorys_own_of_that_kind() -> None:
    chosen = {"eval_steps": 2, "load_best_model_at_end": True, "eval_generate_rows": 8, "eval_max_new_tokens": 64}
    config = params(metric_for_best_model="eval_rouge_l", **chosen).llamafactory_config()
    expected = {"metric_for_best_model": "eval_rouge-l", "predict_with_generate": True, "max_new_tokens": 64, "do_sample": False}
    assert {key: config[key] for key in expected} == expected
    plain = params(**chosen).llamafactory_config()
    assert {*expected, "eval_generate_rows", "eval_max_new_tokens"} & set(plain) == set()


def test_what_is_off_is_left_out_where_a_zero_would_switch_it_on() -> None:
    config = params().llamafactory_config()
    off = {"neftune_noise_alpha", "early_stopping_steps", "additional_target", "eval_steps", "save_steps", "adapter"}
    assert off & set(config) == set()
    assert config["max_steps"] == -1
    assert params(additional_target="embed_tokens", neftune_noise_alpha=5.0).llamafactory_config()["neftune_noise_alpha"] == 5.0


def test_a_seed_has_no_more_bits_than_numpy_takes() -> None:
    assert TrainParams(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(ValidationError, match="less than 4294967296"):
        TrainParams(seed=2**32)
