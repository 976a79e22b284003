"""The `model` section: how a row becomes tokens and how the base is loaded. Shared by convert, train and evaluate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medcot.params import Params


class ModelParams(Params):
    """Section `model` of params.yaml."""

    template: Literal["qwen3", "deepseekr1", "deepdoctor"] = "qwen3"
    """Prompt format: qwen3 (ChatML), deepseekr1 (R1 and its distills) or deepdoctor (### headings); it must fit the tokenizer."""
    system: str = ""
    """System prompt put before every question; empty means none."""
    cutoff_len: int = Field(1024, ge=16, le=1_048_576)
    """Longest row in tokens, prompt to EOS (16 to 1048576); longer rows are removed, never cut. Memory grows with it."""
    quantization: Literal["nf4", "none"] = "nf4"
    """Precision of the frozen base: nf4 (4-bit, double quantised) or none."""
