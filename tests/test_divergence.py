"""How far two models are apart on general texts, written and read by the columns of one definition."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from model_factory import tiny_model

from medcot.arm import DIVERGENCE_FILE, DIVERGENCE_SCHEMA, read_divergence
from medcot.divergence import divergence_frame
from medcot.errors import DataError
from medcot.nll import Spans

TEXTS = {"zh:长城": Spans([5, 9, 3, 7, 11, 2], {"text": range(1, 6)}), "en:wall": Spans([4, 8, 6], {"text": range(2, 3)})}


def test_a_model_is_not_apart_from_itself_and_from_another_by_the_closed_form(tmp_path: Path) -> None:
    base, tuned = tiny_model(32), tiny_model(32, seed=1)
    same, other = (divergence_frame(lambda: nullcontext(base), model, list(TEXTS), list(TEXTS.values())) for model in (base, tuned))
    assert same.rows() == [("zh:长城", 5, 0.0, 5), ("en:wall", 1, 0.0, 1)]
    with torch.no_grad():
        p, q = (model(input_ids=torch.tensor([[4, 8, 6]])).logits[0, 1].double().log_softmax(-1) for model in (base, tuned))
    assert other["kl"][1] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
    assert other["kl"].min() > 0
    other.write_parquet(tmp_path / DIVERGENCE_FILE)
    assert dict(other.schema) == DIVERGENCE_SCHEMA
    assert read_divergence(tmp_path, "").equals(other)
    other.rename({"top1": "top"}).write_parquet(tmp_path / DIVERGENCE_FILE)
    with pytest.raises(DataError, match=r"divergence.parquet has other columns: .*top Int64; run it again"):
        read_divergence(tmp_path, "run it again")
