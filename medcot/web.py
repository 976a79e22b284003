"""The HTTP library of huggingface_hub's own client, whose errors are of that one: httpx2 since its release 2, httpx before."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING or int(version("huggingface_hub").split(".")[0]) >= 2:
    import httpx2 as httpx
else:
    import httpx

__all__ = ["httpx"]
