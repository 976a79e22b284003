"""The fused training path: forward and backward of a QLoRA step written out for Qwen2, Qwen3 and Llama shapes (README.md).

`FusedModel` (model.py) is the step; `why_not` (support.py) says in one clause why a model cannot take it.
"""
