"""The step's own operations: Triton kernels on a GPU (and anywhere under TRITON_INTERPRET=1), their twins in plain torch elsewhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from medcot.fused import twins

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _dispatched(twin: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Choose by the first argument, which is a tensor in each of them."""

    @functools.wraps(twin)
    def choose(*args: Any, **kwargs: Any) -> Any:
        on_gpu = args[0].is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
        return getattr(_kernels(), twin.__name__)(*args, **kwargs) if on_gpu else twin(*args, **kwargs)

    return choose


@functools.cache
def _kernels() -> Any:
    from medcot.fused import kernels  # needs triton, which CPU builds of torch come without

    return kernels


unpack_nf4 = _dispatched(twins.unpack_nf4)
add_norm = _dispatched(twins.add_norm)
norm_backward = _dispatched(twins.norm_backward)
swiglu = _dispatched(twins.swiglu)
swiglu_backward = _dispatched(twins.swiglu_backward)
rotate = _dispatched(twins.rotate)
rotate_backward = _dispatched(twins.rotate_backward)
cross_entropy = _dispatched(twins.cross_entropy)

KERNELS = ("unpack_nf4", "add_norm", "norm_backward", "swiglu", "swiglu_backward", "rotate", "rotate_backward", "cross_entropy")
