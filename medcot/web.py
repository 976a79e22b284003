"""The HTTP library that huggingface_hub speaks: httpx2 since its release 2, httpx before; the errors of its client are of that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    try:
        import httpx2 as httpx
    except ModuleNotFoundError:
        import httpx

__all__ = ["httpx"]
