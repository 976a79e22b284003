"""The fused path's Triton kernels without a GPU: run beside their twins by Triton's interpreter, compiled for every architecture."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import kernel_cases
import pytest
import torch
from conftest import ROOT

from medcot.fused import ops, twins

triton = pytest.importorskip("triton", reason="triton is not installed")

# Rounding of float32; and of bfloat16, which the interpreter rounds towards zero at every store where a GPU rounds to nearest.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_the_pinned_triton_is_the_one_that_torch_would_bring() -> None:
    pins = re.findall(r"^triton==(\S+)", (ROOT / "requirements-triton.txt").read_text(encoding="utf-8"), flags=re.M)
    assert len(pins) == 1
    locked = re.findall(r"^torch==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.M)
    wanted = [need for need in metadata.requires("torch") or () if need.startswith("triton==")]
    if metadata.version("torch").split("+")[0] != locked[0] or not wanted:
        pytest.skip("this torch is another release, or a build that brings no triton")
    assert re.match(r"triton==([\w.]+)", wanted[0])[1] == pins[0]  # type: ignore[index]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The largest difference between kernel and twin for each case; a process of its own, since triton asks its mode once."""
    out = tmp_path_factory.mktemp("kernels") / "differences.json"
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(ROOT / "tests/kernel_cases.py"), str(out)], env=env, check=True, timeout=300)
    found: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ops.KERNELS)
def test_a_kernel_computes_what_its_twin_does(interpreted: dict[str, float], name: str, dtype: str) -> None:
    found = {case: error for case, error in interpreted.items() if case.startswith(f"{dtype} {name} ")}
    assert len(found) >= 2
    assert max(found.values()) < TOLERANCE[dtype], found


def test_another_computation_would_be_seen() -> None:
    """The comparison can fail: a twin without its epsilon, or with the rotation turned round, is far away."""

    class Broken:
        @staticmethod
        def add_norm(stream: Any, delta: Any, weight: Any, eps: float, pad: int) -> Any:
            return twins.add_norm(stream, delta, weight, 0.0, pad)

        @staticmethod
        def rotate(qkv: Any, cos: Any, sin: Any, *rest: Any) -> Any:
            return twins.rotate(qkv, cos, -sin, *rest)

    for name, case in kernel_cases.cases(torch.float32, (7,)).items():
        assert kernel_cases.difference(case, twins, twins) == 0, name
        if case.name in ("add_norm", "rotate") and not name.startswith("rotate 1x"):
            assert kernel_cases.difference(case, Broken, twins) > 1e3 * TOLERANCE["float32"], name


class Driver:
    """Stands for a GPU of this compute capability, for which kernels are compiled and never launched."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # triton keeps one cache a device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


# Widths of Qwen2 7B and of Qwen3 1.7B, which has norms of heads; Llama 8B's give the same machine code as the first.
MODELS = {"7B": (3584, 18944, 152064, 28, 4, 64), "1.7B": (2048, 6144, 151936, 16, 8, 64)}
CAPABILITIES = {80: 163, 86: 99, 89: 99, 90: 227}  # KiB of shared memory that one block may have (CUDA programming guide, table 27)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], list[Any]]:
    """Every kernel by triton's own way of a launch, up to the launch itself, for each compute capability."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from medcot.fused import kernels

    made: dict[tuple[int, str], list[Any]] = {}
    calls = [case for model, widths in MODELS.items() for case in kernel_cases.real_calls(*widths, norms=model == "1.7B")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setattr(driver, "_active", None)  # and give back whatever was there
        for capability in CAPABILITIES:
            driver.set_active(Driver(capability))

            def compile_only(self: Any, grid: Any, at: int = capability) -> Callable[..., None]:
                def launch(*args: Any, **kwargs: Any) -> None:
                    name = self.fn.__name__.removesuffix("_kernel")
                    made.setdefault((at, name), []).append(self.run(*args, grid=grid, warmup=True, **kwargs))

                return launch

            patch.setattr(JITFunction, "__getitem__", compile_only)
            for case in calls:
                getattr(kernels, case.name)(*case.arguments)
    return made


@pytest.mark.parametrize("name", ops.KERNELS)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_kernel_compiles_and_fits(compiled: dict[tuple[int, str], list[Any]], capability: int, name: str, tmp_path: Path) -> None:
    found = compiled[capability, name]
    assert len(found) == len(MODELS) * (2 if name == "add_norm" else 1)
    for one in found:
        assert f".target sm_{capability}" in one.asm["ptx"]
        assert one.metadata.shared <= 1024 * CAPABILITIES[capability]
        assert spilled(one.asm["cubin"], tmp_path) == 0


def spilled(cubin: bytes, directory: Path) -> int:
    """Bytes of local memory a thread, where what does not fit into its registers goes."""
    from triton.backends import nvidia

    path = directory / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(nvidia.__file__ or "").parent / "bin/cuobjdump"
    said = subprocess.run([str(tool), "--dump-resource-usage", str(path)], check=True, capture_output=True, text=True).stdout
    sizes = re.findall(r"(?:STACK|LOCAL):(\d+)", said)
    assert len(sizes) == 2, said
    return sum(int(size) for size in sizes)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("model", MODELS)
def test_on_a_gpu_a_kernel_computes_what_its_twin_does(model: str) -> None:
    from medcot.fused import kernels

    small = list(kernel_cases.cases(torch.bfloat16).values())
    for case in (*small, *kernel_cases.real_calls(*MODELS[model], norms=model == "1.7B")):
        assert kernel_cases.difference(case, kernels, twins, "cuda") < 8e-3, case.name
