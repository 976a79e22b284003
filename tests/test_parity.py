"""Every path of training computes the gradient of one definition: transformers, peft and autograd, one row at a time, in float64.

The tests know the contract of a path and nothing of how it computes; those named "is caught" break a computation on purpose, to show
that the comparison would notice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_factory import (
    SHAPES,
    Gradients,
    adapted,
    by_autograd,
    forget,
    gradients,
    in_float64,
    num_targets,
    packed,
    random_rows,
    relative_errors,
    wrap,
    write_model,
)
from train_factory import CPU

from medcot.fused.head import CHUNK
from medcot.fused.model import FusedModel
from medcot.model import load_weights
from medcot.template import MASK
from medcot.trainer import TrainRow, trainable

# Against float64: autograd in float32 itself is 2e-6 to 3e-6 away.
TOLERANCE = 1e-5
# Between two ways of float32 that differ in the order of their sums.
ROUNDING = 2e-6
ROWS = random_rows()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def find(shape: str) -> Path:
        if shape not in made:
            made[shape] = write_model(tmp_path_factory.mktemp(shape), SHAPES[shape])
        return made[shape]

    return find


@pytest.fixture(scope="module")
def truth_of(directory: Callable[[str], Path]) -> Callable[[str], Gradients]:
    """The gradients of ROWS on the dense model of a shape, with the adapter that `adapted` gives it."""
    made: dict[str, Gradients] = {}

    def find(shape: str) -> Gradients:
        if shape not in made:
            made[shape] = by_autograd(in_float64(adapted(directory(shape)), directory(shape)), ROWS)[1]
        return made[shape]

    return find


def by_path(model: Any, passes: list[list[TrainRow]], num_items: int | None = None, **options: Any) -> tuple[float, Gradients]:
    """Loss and gradients of a step by the fused path, in these passes."""
    forget(model)
    fused = FusedModel(model)
    fused.refresh()
    count = num_items or num_targets([row for rows in passes for row in rows])
    loss = sum(float(fused.run_pass(packed(rows), count, **options)) for rows in passes)
    fused.finish()
    return loss, gradients(model)


def worst(found: Gradients, truth: Gradients) -> float:
    return max(relative_errors(found, truth).values())


def changed(row: TrainRow) -> TrainRow:
    """The same row of other tokens, and with nothing to learn from."""
    return TrainRow(row.id, [(token + 1) % 131 for token in row.input_ids], [MASK] * len(row.labels))


CASES = [
    *((shape, quantization, {}) for shape in SHAPES for quantization in ("none", "nf4")),
    *((shape, "nf4", {"target_modules": ["q_proj", "v_proj"]}) for shape in SHAPES),
    ("qwen2", "nf4", {"use_rslora": True, "r": 3}),
    ("qwen3", "none", {"target_modules": ["down_proj", "k_proj"], "r": 1}),
    ("llama", "none", {"target_modules": ["up_proj", "o_proj"], "use_rslora": True}),
]


@pytest.mark.parametrize(("shape", "quantization", "lora"), CASES)
def test_loss_and_the_gradient_of_every_matrix_are_those_of_autograd(
    directory: Callable[[str], Path], shape: str, quantization: str, lora: dict[str, Any]
) -> None:
    model = adapted(directory(shape), quantization, **lora)
    loss, truth = by_autograd(in_float64(model, directory(shape)), ROWS)
    found_loss, found = by_path(model, [ROWS])
    assert found_loss == pytest.approx(loss, rel=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == truth.keys() == trained
    assert all(grad.dtype == torch.float32 for grad in found.values())
    assert min(grad.norm() for grad in truth.values()) > 1e-2  # else there would be nothing to compare
    assert worst(found, truth) < TOLERANCE


def test_the_truth_is_the_slope_of_the_loss(directory: Callable[[str], Path]) -> None:
    """Autograd itself, against a difference of losses along a random direction."""
    exact = in_float64(adapted(directory("qwen3")), directory("qwen3"))
    _, truth = by_autograd(exact, ROWS)
    torch.manual_seed(5)
    direction = {name: torch.randn_like(grad) for name, grad in truth.items()}
    losses = []
    for size in (1e-5, -1e-5):
        moved = copy.deepcopy(exact)
        for name, p in moved.named_parameters():
            if name in direction:
                p.data += size * direction[name]
        losses.append(by_autograd(moved, ROWS)[0])
    slope = sum(float((truth[name] * direction[name]).sum()) for name in truth)
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "parts"), [("qwen2", [[0], [1], [2], [3], [4]]), ("qwen3", [[4, 1], [2], [3, 0]]), ("llama", [[2, 0, 3, 4, 1]])]
)
def test_any_passes_in_any_order_give_the_gradient_of_one_pass(
    directory: Callable[[str], Path], shape: str, parts: list[list[int]]
) -> None:
    model = adapted(directory(shape), "nf4")
    loss, whole = by_path(model, [ROWS])
    other_loss, other = by_path(model, [[ROWS[i] for i in part] for part in parts])
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert worst(other, whole) < ROUNDING


def test_a_pass_of_thousands_of_tokens_is_that_of_its_rows(directory: Callable[[str], Path]) -> None:
    """More supervised tokens than a chunk of the output layer has (medcot/fused/head.py)."""
    rows = random_rows((400, 2, 300, 350, 300, 250, 3), seed=3)
    assert num_targets(rows) > CHUNK
    model = adapted(directory("qwen2"))
    loss, truth = by_autograd(in_float64(model, directory("qwen2")), rows)
    found_loss, found = by_path(model, [rows])
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert worst(found, truth) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_recomputing_changes_nothing(directory: Callable[[str], Path], shape: str) -> None:
    model = adapted(directory(shape), "nf4")
    loss, kept = by_path(model, [ROWS], recompute=0)
    for level in (1, 2):
        again_loss, again = by_path(model, [ROWS], recompute=level)
        assert again_loss == loss
        assert worst(again, kept) < ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_learns_nothing_from_its_neighbours(directory: Callable[[str], Path], shape: str) -> None:
    model = adapted(directory(shape))
    count, silent = num_targets(ROWS), [changed(ROWS[0]), ROWS[1], changed(ROWS[2]), ROWS[3], changed(ROWS[4])]
    muted = [TrainRow(row.id, old.input_ids, row.labels) for row, old in zip(silent, ROWS, strict=True)]
    loss, before = by_path(model, [muted], count)
    other_loss, after = by_path(model, [silent], count)
    assert other_loss == pytest.approx(loss, rel=1e-7)
    assert worst(after, before) < 1e-7
    alone_loss, alone = by_path(model, [[ROWS[1], ROWS[3]]], count)
    assert alone_loss == pytest.approx(loss, rel=1e-6)
    assert worst(before, alone) < ROUNDING


def test_what_is_masked_teaches_nothing(directory: Callable[[str], Path]) -> None:
    model = adapted(directory("qwen3"))
    loss, found = by_path(model, [[changed(ROWS[0])], [changed(ROWS[2]), changed(ROWS[1])]], 10)
    assert loss == 0
    assert all(not grad.any() for grad in found.values())
    # The label of a row's first token has nothing before it, whoever sets it.
    batch = packed(ROWS)
    told = {**batch, "labels": batch["labels"].clone()}
    told["labels"][0, batch["cu_seq_lens_q"][:-1].long()] = MASK
    assert torch.equal(told["labels"], batch["labels"])


def test_a_step_weighs_every_token_alike(directory: Callable[[str], Path]) -> None:
    """The step's gradient is the mean over tokens of the rows' own gradients: rows of more tokens count more."""
    model, total = adapted(directory("llama")), num_targets(ROWS)
    counts = [num_targets([row]) for row in ROWS]
    assert min(counts) == 1
    assert max(counts) > 50
    apart = [by_path(model, [[row]]) for row in ROWS]
    loss, found = by_path(model, [ROWS[:2], ROWS[2:]])
    assert loss == pytest.approx(sum(count * one for count, (one, _) in zip(counts, apart, strict=True)) / total, rel=1e-6)
    weighted = {name: sum(count * grads[name] for count, (_, grads) in zip(counts, apart, strict=True)) / total for name in found}
    assert worst(found, weighted) < ROUNDING
    rowwise = {name: sum(grads[name] for _, grads in apart) / len(ROWS) for name in found}
    assert worst(found, rowwise) > 0.1  # which is another thing


def test_gradients_are_added_to_those_that_stand_there_and_only_once(directory: Callable[[str], Path]) -> None:
    model = adapted(directory("qwen2"), "nf4")
    _, once = by_path(model, [ROWS])
    fused, count = FusedModel(model), num_targets(ROWS)
    fused.refresh()
    fused.run_pass(packed(ROWS), count)
    fused.finish()
    twice = gradients(model)
    assert worst(twice, {name: 2 * grad for name, grad in once.items()}) < ROUNDING
    fused.finish()
    assert all(torch.equal(grad, twice[name]) for name, grad in gradients(model).items())
    forget(model)
    fused.refresh()
    fused.run_pass(packed(ROWS), count)
    fused.finish()
    assert worst(gradients(model), once) < ROUNDING


def test_a_step_reads_the_masters_as_they_are_when_it_begins(directory: Callable[[str], Path]) -> None:
    model = adapted(directory("qwen3"), "nf4")
    fused, count = FusedModel(model), num_targets(ROWS)
    fused.refresh()
    fused.run_pass(packed(ROWS), count)
    fused.finish()
    torch.manual_seed(9)
    for p in (p for p in model.parameters() if p.requires_grad):
        p.data += 0.1 * torch.randn_like(p)
    forget(model)
    fused.refresh()
    fused.run_pass(packed(ROWS), count)
    fused.finish()
    assert worst(gradients(model), by_autograd(in_float64(model, directory("qwen3")), ROWS)[1]) < TOLERANCE


def test_two_models_at_once_do_not_share_what_they_hold(directory: Callable[[str], Path]) -> None:
    models = [adapted(directory("qwen2"), "nf4"), adapted(directory("qwen2"), "none", seed=7, r=8)]
    wanted = [by_path(model, [ROWS])[1] for model in models]
    fused = [FusedModel(model) for model in models]
    for model, one in zip(models, fused, strict=True):
        forget(model)
        one.refresh()
    for one in (*fused, *fused[::-1]):
        one.run_pass(packed(ROWS), 2 * num_targets(ROWS))
    for model, one, grads in zip(models, fused, wanted, strict=True):
        one.finish()
        assert worst(gradients(model), grads) < ROUNDING


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_only_the_gradients_of_the_adapter_are_written(directory: Callable[[str], Path], quantization: str) -> None:
    model = adapted(directory("qwen3"), quantization)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags, state = {name: p.requires_grad for name, p in model.named_parameters()}, torch.random.get_rng_state()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ROWS[0].input_ids])).logits
    by_path(model, [ROWS])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(input_ids=torch.tensor([ROWS[0].input_ids])).logits, logits)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_pass_of_one_short_row_is_right_or_teaches_nothing(directory: Callable[[str], Path], length: int) -> None:
    ids = list(range(5, 5 + length))
    row = TrainRow("short", ids, [MASK, *ids[1:]])
    model = adapted(directory("llama"), "nf4")
    loss, found = by_path(model, [[row]], 3)
    wanted_loss, truth = by_autograd(in_float64(model, directory("llama")), [row], 3)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    if length == 1:
        assert not any(grad.any() for grad in found.values())
    else:
        assert max(relative_errors(found, truth, floor=0.1).values()) < TOLERANCE


def test_a_certain_model_gives_finite_numbers(directory: Callable[[str], Path]) -> None:
    """Logits of thousands: an exponential without the largest taken off would overflow."""
    model = adapted(directory("qwen2"))
    model.get_output_embeddings().weight.data *= 300
    loss, truth = by_autograd(in_exact(model, directory("qwen2")), ROWS)
    found_loss, found = by_path(model, [ROWS])
    assert loss > 500
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert worst(found, truth) < 1e-3


def in_exact(model: Any, directory: Path) -> Any:
    """in_float64 with the model's own output layer, where a test changed it."""
    exact = in_float64(model, directory)
    exact.get_output_embeddings().weight.data = model.get_output_embeddings().weight.data.double()
    return exact


@pytest.mark.parametrize("where", ["lora_A", "lora_B", "embedding", "norm"])
def test_a_number_that_is_none_is_not_hidden(directory: Callable[[str], Path], where: str) -> None:
    model = adapted(directory("qwen2"), "nf4")
    if where == "embedding":
        model.get_input_embeddings().weight.data[ROWS[1].input_ids[0], 3] = float("nan")
    else:
        p = next(p for name, p in model.named_parameters() if where in name)
        p.data.view(-1)[0] = float("nan")
    loss, found = by_path(model, [ROWS])
    assert loss != loss
    assert any(not torch.isfinite(grad).all() for grad in found.values())


# Faults of a computation, each planted into what the path is given; the comparison has to see every one of them.


def merged(batch: dict[str, Any]) -> dict[str, Any]:
    ends = torch.tensor([0, batch["input_ids"].shape[1]], dtype=torch.int32)
    return {**batch, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": int(ends[1]), "max_length_k": int(ends[1])}


def nowhere(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "position_ids": torch.zeros_like(batch["position_ids"])}


def shifted(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "labels": torch.cat([batch["labels"][:, 1:], batch["labels"][:, :1]], 1)}


def unmasked(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "labels": batch["input_ids"]}


BATCH_FAULTS = {"rows see each other": merged, "no positions": nowhere, "labels shifted twice": shifted, "prompts learned": unmasked}


@pytest.mark.parametrize("fault", BATCH_FAULTS)
@pytest.mark.parametrize("shape", ["qwen3"])
def test_a_fault_in_the_batch_is_caught(
    directory: Callable[[str], Path], truth_of: Callable[[str], Gradients], shape: str, fault: str
) -> None:
    model = adapted(directory(shape))
    fused = FusedModel(model)
    fused.refresh()
    fused.run_pass(BATCH_FAULTS[fault](packed(ROWS)), num_targets(ROWS))
    fused.finish()
    assert worst(gradients(model), truth_of(shape)) > 1000 * TOLERANCE


def without_epsilon(model: Any) -> None:
    model.config.rms_norm_eps = 1e-6
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-6


def other_scale(model: Any) -> None:
    for module in model.modules():
        if getattr(module, "scaling", None) and isinstance(module.scaling, dict):
            module.scaling["default"] = 1.0


def plain_norms(model: Any) -> None:
    for name, p in model.named_parameters():
        if name.endswith("layernorm.weight"):
            p.data.fill_(1.0)


def half_angle(model: Any) -> None:
    for name, buffer in model.named_buffers():
        if "inv_freq" in name:
            buffer *= 0.5


def transposed_adapter(model: Any) -> None:
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.data = p.data.flip(0)


MODEL_FAULTS = [without_epsilon, other_scale, plain_norms, half_angle, transposed_adapter]


@pytest.mark.parametrize("fault", MODEL_FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("shape", ["llama"])
def test_a_fault_in_the_model_is_caught(
    directory: Callable[[str], Path], truth_of: Callable[[str], Gradients], shape: str, fault: Callable[[Any], None]
) -> None:
    model = adapted(directory(shape))
    fault(model)
    assert worst(by_path(model, [ROWS])[1], truth_of(shape)) > 100 * TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_gpu_the_gradients_in_bfloat16_are_near(directory: Callable[[str], Path], shape: str) -> None:
    """On weights that bfloat16 holds exactly; benchmarks/parity.py measures models of real width."""
    base = load_weights(directory(shape), "none", CPU)
    base.load_state_dict({name: p.bfloat16().float() for name, p in base.state_dict().items()})
    model = wrap(base)
    loss, truth = by_autograd(model, ROWS)
    base.to("cuda", torch.bfloat16)
    for _, p in trainable(model):
        p.data = p.data.float()
    found_loss, found = by_path(model, [ROWS[:3], ROWS[3:]])
    assert found_loss == pytest.approx(loss, rel=2e-2)
    errors = relative_errors({name: grad.cpu() for name, grad in found.items()}, {name: grad.cpu() for name, grad in truth.items()})
    assert sum(errors.values()) / len(errors) < 0.12  # .02 to .07 in the twins' bfloat16 on a CPU


@pytest.fixture(autouse=True)
def _no_grads_left() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()
