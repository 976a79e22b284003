"""Liger's layers on the plain path: norms, rotary embedding and SwiGLU in one kernel each, where liger-kernel is installed.

https://github.com/linkedin/Liger-Kernel is the optional extra `gpu`. Its losses are not taken: TRL's head, which never
holds all logits either, is there on every device.
"""

from __future__ import annotations

import importlib.util
from typing import Any

# Architectures whose three layers Liger replaces one by one; others it knows differ in what it would replace besides.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


def why_no_liger(model: Any) -> str | None:
    """Say in one clause why Liger's layers are not used, or None where they are."""
    if (kind := model.config.get_text_config().model_type) not in ARCHITECTURES:
        return f"without Liger's layers, which are tried for {', '.join(ARCHITECTURES)} and not for {kind}"
    if importlib.util.find_spec("liger_kernel") is None:
        return "without Liger's layers: liger-kernel is not installed"
    return None


def apply_liger(model: Any) -> None:
    """Let the layers of a loaded model, under a peft adapter or not, compute with Liger's kernels; the weights are untouched."""
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    _apply_liger_kernel_to_instance(base, rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False)
