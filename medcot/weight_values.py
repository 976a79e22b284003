"""Weights that are no numbers, found in the files before anything loads them: on a GPU, quantising to NF4 makes a number of a NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medcot.errors import DataError
from medcot.weights import COPY_AGAIN, find_weights, read_header

# A float whose exponent bits are all ones is infinite or not a number (IEEE 754; bfloat16 is the upper half of a float32).
EXPONENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F16": (np.dtype("<u2"), 0x7C00),
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F64": (np.dtype("<u8"), 0x7FF0000000000000),
}
CHUNK = 1 << 24  # elements looked at together


def check_finite(weights: Path) -> None:
    """Refuse a model directory with a weight that is not finite; reads every weight once. Raises DataError."""
    for path in find_weights(weights):
        if name := first_not_finite(path):
            raise DataError(str(path), "a weight is not finite", COPY_AGAIN, got=name)


def first_not_finite(path: Path) -> str | None:
    """The name of a safetensors file's first tensor, in the order of the file, with a NaN or an infinity in it."""
    entries = {name: entry for name, entry in read_header(path).items() if name != "__metadata__" and entry["dtype"] in EXPONENTS}
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, mask = EXPONENTS[entry["dtype"]]
        begin, end = entry["data_offsets"]
        count = (end - begin) // dtype.itemsize
        for first in range(0, count, CHUNK):
            bits = np.fromfile(path, dtype, count=min(CHUNK, count - first), offset=start + begin + first * dtype.itemsize)
            if ((bits & dtype.type(mask)) == mask).any():
                return name
    return None
