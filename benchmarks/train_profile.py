"""Where the time of a training step goes: device time by category, out of torch.profiler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm")
SKINNY = 128  # a side of a LoRA product is a few ranks, padded to 64; every side of the base's weights is longer
# What a kernel's name has in it, by category; the first that matches counts. Matrix products are told apart by their shapes instead.
KERNELS = {
    "base products": ("gemm_4bit",),
    "attention": ("flash", "fmha", "varlen", "attention"),
    "dequantisation": ("nf4", "dequant"),
    "head and cross-entropy": ("cross_entropy", "softmax", "_ce", "nll"),
    "optimiser": ("adam", "multi_tensor", "lpnorm"),
    "norm, rope, SwiGLU": ("rms", "norm", "rope", "rotate", "swiglu", "silu"),
}
SHARES = (
    "base products",
    "LoRA products",
    "head and cross-entropy",
    "attention",
    "dequantisation",
    "norm, rope, SwiGLU",
    "optimiser",
    "other",
)


def product_category(shapes: Sequence[Sequence[int]], vocabulary: int) -> str:
    """Tell a matrix product by its operands: one side is the vocabulary, or a few ranks wide, or it is one with the base's weights."""
    sides = {side for shape in shapes for side in shape if len(shape) >= 2}
    if vocabulary in sides:
        return "head and cross-entropy"
    return "LoRA products" if sides and min(sides) <= SKINNY else "base products"


def kernel_category(name: str) -> str:
    """Tell a kernel that is no matrix product by its name."""
    lower = name.lower()
    return next((category for category, parts in KERNELS.items() if any(part in lower for part in parts)), "other")


def share(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sum (category, microseconds) to shares of the whole."""
    sums = dict.fromkeys(SHARES, 0.0)
    for category, time in times:
        sums[category] += time
    whole = sum(sums.values())
    return {category: time / whole for category, time in sums.items()} if whole else sums


class Profiler(TrainerCallback):  # type: ignore[misc]
    """Profile one optimiser step, the `step`-th, of a trainer."""

    def __init__(self, step: int) -> None:
        self.step = step
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.profile = profile(activities=activities, record_shapes=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.profile.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.profile.stop()

    def shares(self, vocabulary: int) -> dict[str, float]:
        """Share of the device's busy time by category; of the CPU's own where there is no GPU."""
        return share(self._times(vocabulary))

    def _times(self, vocabulary: int) -> Iterable[tuple[str, float]]:
        on_gpu = torch.cuda.is_available()
        products = 0.0
        for event in self.profile.key_averages(group_by_input_shape=True):
            time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if event.key in PRODUCTS:
                products += time
                yield product_category(event.input_shapes, vocabulary), time
            elif not on_gpu:
                yield kernel_category(event.key), time
        if on_gpu:
            yield from self._kernels(products)

    def _kernels(self, products: float) -> Iterable[tuple[str, float]]:
        """The kernels themselves; the time of the matrix products, whose kernels have many names, is taken out of what is left over."""
        left = -products
        for event in self.profile.key_averages():
            if str(event.device_type).endswith("CUDA") and not event.is_user_annotation:
                category = kernel_category(event.key)
                if category == "other":
                    left += event.self_device_time_total
                else:
                    yield category, event.self_device_time_total
        yield "other", max(0.0, left)
