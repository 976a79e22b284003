"""Weights that are no numbers are found in the files, whatever their dtype and wherever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcot import weight_values
from medcot.errors import DataError
from medcot.weight_values import check_finite, first_not_finite

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_wrong_tensor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, value: float) -> None:
    monkeypatch.setattr(weight_values, "CHUNK", 16)
    largest = torch.finfo(dtype).max
    tensors = {f"{name}.权重": torch.full((5, 9), largest if name == "a" else -0.0, dtype=dtype) for name in "abc"}
    tensors["ids"] = torch.full((3,), -1, dtype=torch.int64)  # all ones, and no float
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert first_not_finite(tmp_path / "model.safetensors") is None
    for row, column in ((0, 0), (2, 3), (4, 8)):
        wrong = tensors["b.权重"].clone()
        wrong[row, column] = value
        save_file({**tensors, "b.权重": wrong}, tmp_path / "model.safetensors")
        assert first_not_finite(tmp_path / "model.safetensors") == "b.权重"


def test_a_model_with_one_is_refused_and_the_file_is_named(tmp_path: Path) -> None:
    save_file({"lm_head.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "model.safetensors")
    line = rf"^{tmp_path}/model.safetensors: a weight is not finite, got lm_head.weight; copy it again from where the model came from$"
    with pytest.raises(DataError, match=line):
        check_finite(tmp_path)
