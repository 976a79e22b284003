"""The comparison with autograd can fail: each step of the fused backward pass, done wrongly on purpose, is seen in the gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_factory import (
    SHAPES,
    adapted,
    by_autograd,
    gradients,
    in_float64,
    num_targets,
    packed,
    random_rows,
    relative_errors,
    write_model,
)

from medcot.fused import layer, linear, model, ops
from medcot.fused.model import FusedModel

ROWS = random_rows((23, 2, 60, 7))
Function = Callable[..., Any]


def merged(pack: Any) -> Any:
    ends = pack.bounds[[0, -1]]
    return dataclasses.replace(pack, bounds=ends, longest=int(ends[1]))


def scaled_back(function: Function) -> Function:
    def finish(self: Any) -> None:
        self.scalings = [1.0] * len(self.scalings)
        function(self)

    return finish


def halved(*slots: int) -> Function:
    """Of gradients of q, k and v, some lose half: as where the heads that share a key head are not all added up."""
    return lambda function: lambda *args: tuple(grad * (0.5 if i in slots else 1) for i, grad in enumerate(function(*args)))


# Where, and what is done wrongly there.
FAULTS: dict[str, tuple[Any, str, Callable[[Function], Function]]] = {
    "the rotation is not turned back": (
        ops,
        "rotate_backward",
        lambda f: lambda out, grads, raw, cos, sin, *r: f(out, grads, raw, cos, -sin, *r),
    ),
    "the rotation has no gradient": (
        ops,
        "rotate_backward",
        lambda f: lambda out, grads, raw, cos, sin, *r: f(out, grads, raw, torch.ones_like(cos), torch.zeros_like(sin), *r),
    ),
    "the norm forgets epsilon backward": (ops, "norm_backward", lambda f: lambda g, x, w, eps, *r: f(g, x, w, 1e-6, *r)),
    "the norm forgets epsilon forward": (ops, "add_norm", lambda f: lambda x, d, w, eps, pad: f(x, d, w, 1e-6, pad)),
    "the norm forgets its weight backward": (ops, "norm_backward", lambda f: lambda g, x, w, *r: f(g, x, torch.ones_like(w), *r)),
    "the residual is not added": (ops, "add_norm", lambda f: lambda x, d, *r: f(x if d is None else torch.zeros_like(x), d, *r)),
    "gate and up change places": (
        ops,
        "swiglu_backward",
        lambda f: lambda gate_up, act: f(gate_up, act) or gate_up.copy_(gate_up.roll(1, 1)),
    ),
    "attention across rows backward": (
        layer,
        "attend_backward",
        lambda f: lambda g, q, k, v, o, s, pack, a: f(g, q, k, v, o, s, merged(pack), a),
    ),
    "attention across rows forward": (layer, "attend", lambda f: lambda q, k, v, pack, a: f(q, k, v, merged(pack), a)),
    "the scores are not scaled backward": (layer, "attend_backward", lambda f: lambda *args: f(*args[:-1], 1.0)),
    "a share of the keys' gradient is lost": (layer, "attend_backward", halved(1)),
    "a share of the values' gradient is lost": (layer, "attend_backward", halved(2)),
    "the adapter's scale is forgotten backward": (linear.Masters, "give_gradients", scaled_back),
    "labels are not shifted": (
        model,
        "_supervised",
        lambda f: lambda labels: (at := (labels[0, 1:] != -100).nonzero()[:, 0], labels[0, at].clamp(min=0)),
    ),
    "the loss is of the whole step, its gradient of the pass": (ops, "cross_entropy", lambda f: lambda x, y, scale: f(x, y, 1 / len(y))),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, torch.Tensor]]]:
    made = {}
    for shape in ("qwen2", "qwen3"):
        directory = write_model(tmp_path_factory.mktemp(shape), SHAPES[shape])
        made[shape] = directory, by_autograd(in_float64(adapted(directory), directory), ROWS, 2 * num_targets(ROWS))[1]
    return made


def error(directory: Path, truth: dict[str, torch.Tensor]) -> float:
    peft_model = adapted(directory)
    fused = FusedModel(peft_model)
    fused.refresh()
    fused.run_pass(packed(ROWS), 2 * num_targets(ROWS))
    fused.finish()
    return max(relative_errors(gradients(peft_model), truth).values())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(cases: dict[str, tuple[Path, dict[str, torch.Tensor]]], monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    where, name, wrong = FAULTS[fault]
    monkeypatch.setattr(where, name, wrong(getattr(where, name)))
    for directory, truth in cases.values():
        assert error(directory, truth) > 1e-3


@pytest.mark.parametrize("shape", ["qwen2", "qwen3"])
def test_without_a_fault_there_is_none(cases: dict[str, tuple[Path, dict[str, torch.Tensor]]], shape: str) -> None:
    assert error(*cases[shape]) < 1e-5
