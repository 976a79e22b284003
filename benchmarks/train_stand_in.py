"""A stand-in for the flash_attn package over torch's own variable-length attention, for unsloth in benchmarks/train.py.

No flash-attn wheel installs beside the newest torch. unsloth has a way around it that needs torch 2.12; on older releases it would run
packed rows one by one. With this in its path it takes the kernel that flash-attn would be, which torch ships: it is measured at its best.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

OWN_WAY = (2, 12)  # the torch release from which unsloth packs without flash-attn
VERSION = "2.8.3"
PACKAGE = f'''"""torch's variable-length attention under flash-attn's names; written by benchmarks/train_stand_in.py."""

import torch
from torch.nn.attention.varlen import varlen_attn

__version__ = "{VERSION}"


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
                           causal=False, window_size=(-1, -1), **_):
    if dropout_p:
        raise NotImplementedError("no dropout")
    left = window_size[0]
    return varlen_attn(q, k, v, cu_seqlens_q.to(torch.int32), cu_seqlens_k.to(torch.int32), int(max_seqlen_q), int(max_seqlen_k),
                       scale=softmax_scale, window_size=(left, 0) if causal else tuple(window_size))


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), **_):
    rows, length = q.shape[:2]
    bounds = torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=q.device)
    flat = (states.flatten(0, 1) for states in (q, k, v))
    out = flash_attn_varlen_func(*flat, bounds, bounds, length, length, dropout_p, softmax_scale, causal, window_size)
    return out.view_as(q)


def flash_attn_with_kvcache(*_, **__):
    raise NotImplementedError("for training only")
'''
INTERFACE = """from . import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache

flash_attn_gpu = object()  # unsloth looks whether there is one
"""
PADDING = "".join(
    f"def {name}(*_, **__):\n    raise NotImplementedError('rows are not padded here')\n\n\n"
    for name in ("pad_input", "unpad_input", "index_first_axis")
)
FILES = {
    "flash_attn/__init__.py": PACKAGE,
    "flash_attn/flash_attn_interface.py": INTERFACE,
    "flash_attn/bert_padding.py": PADDING.rstrip() + "\n",
    f"flash_attn-{VERSION}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: flash_attn\nVersion: {VERSION}\n",
    f"flash_attn-{VERSION}.dist-info/RECORD": "flash_attn/__init__.py,,\n",
    f"flash_attn-{VERSION}.dist-info/top_level.txt": "flash_attn\n",
}


def needed() -> bool:
    """Whether flash-attn is missing and torch too old for unsloth's own way."""
    release = tuple(int(part) for part in importlib.metadata.version("torch").split("+")[0].split(".")[:2])
    return importlib.util.find_spec("flash_attn") is None and release < OWN_WAY


def stand_in_path(directory: Path) -> list[str]:
    """Write the stand-in where one is needed; the entries of PYTHONPATH that lead to it."""
    if not needed():
        return []
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [str(directory)]
