"""Settle what the model libraries do behind a stage's back; imported before them, because some look at these things once, at import.

No stage asks a hub for anything here: peft, transformers and bitsandbytes would, to look up a base's config or to fetch kernels.
"""

from __future__ import annotations

import logging
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# On CPUs with bfloat16 bitsandbytes recommends kernels that it would fetch; medcot/model.py says why they are not wanted.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Turn off the libraries' progress bars, notices and deprecations, which no user can act on: the stages say what matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", message="Could not find a config file")  # peft, of a base that is not at its recorded place
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")  # there they run unpaged
