"""Settle what the model libraries do behind a stage's back; imported before them, because some look at these things once, at import.

No library asks a hub for anything by itself: peft, transformers and bitsandbytes would, to look up a base's config or to fetch
kernels. Only medcot/hub.py does, for what params.yaml names, and not when the user has set `HF_HUB_OFFLINE=1`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its variables
# What the user asked for, read before the default below covers it.
OFFLINE_ASKED = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "").upper() in TRUE), "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Passes differ in size, and torch's default leaves gaps between them that no later tensor fits. torch reads this when CUDA starts.
if "PYTORCH_ALLOC_CONF" not in os.environ:  # the newer name of the same, which torch would then not look at
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
# On CPUs with bfloat16 bitsandbytes recommends kernels that it would fetch; medcot/model.py says why they are not wanted.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@contextmanager
def online() -> Iterator[None]:
    """Let huggingface_hub reach its hub inside this block: at its variable it looks once, at this constant before each request."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def quiet_libraries() -> None:
    """Turn off the libraries' progress bars, notices and deprecations, which no user can act on: the stages say what matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    # peft looks for the base's configuration at its recorded place, which may be elsewhere, or a hub that it may not ask.
    warnings.filterwarnings("ignore", message="Could not find a config file|Unable to fetch remote file")
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")  # there they run unpaged
