"""What is trained: a LoRA, a prefix, every weight or nothing, or an adapter that is finished already; each on the base as params ask.

lora    low-rank updates of linear layers (medcot/adapters.py), the base frozen and in NF4 where it is quantised
prefix  keys and values before every row (medcot/prefix.py), the base frozen likewise
full    every weight, so the base cannot be quantised; the weights are float32 and computed with in the hardware's own dtype
none    a LoRA that is never trained and changes no bit
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcot.adapters import Identity, add_adapter, find_adapter, import_adapter
from medcot.errors import DataError, MachineError
from medcot.gpu_memory import GIB, memory_limit
from medcot.model import Hardware, load_base, read_base_record
from medcot.model_params import ModelParams
from medcot.prefix import add_prefix
from medcot.preflight import Tokens, kept_bytes
from medcot.template import get_template
from medcot.tokenizer import ChatTokenizer
from medcot.train_params import TrainParams

PLACE = "params.yaml: train.finetuning_type"
MASTER_BYTES = 4  # of a weight in float32
log = logging.getLogger("medcot")


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where a base lies (stage base's directory), where finished adapters are looked for, and what the fine-tune is made on."""

    base: Path
    adapters: Path
    identity: Identity
    tok: ChatTokenizer


def load_trainable(source: Source, params: TrainParams, model: ModelParams, hardware: Hardware, rows: Sequence[Tokens]) -> Any:
    """Load the model with what is trained on it.

    rows  the training rows; a prefix starts from the words of the one with the lowest id
    Raises DataError and MachineError as the base's and the adapters' own functions do, and for a full fine-tune that cannot be.
    """
    record, weights = read_base_record(source.base)
    base_name = record.repo or weights.as_posix()  # a hub's cache lies elsewhere on each machine
    if params.adapter:
        directory = find_adapter(params.adapter, source.adapters)
        base = load_base(source.base, model.quantization, hardware)
        return import_adapter(base, directory, source.identity, base_name, source.tok, get_template(model.template))
    if params.finetuning_type == "full":
        check_full(params, model, record.num_parameters)
        # Masters in float32; the hardware's dtype comes in as autocast.
        return load_base(source.base, "none", dataclasses.replace(hardware, dtype="float32")).requires_grad_(True)
    base = load_base(source.base, model.quantization, hardware)
    if params.finetuning_type == "prefix":
        words = [token for row in sorted(rows, key=lambda row: row.id)[:1] for token in row.input_ids]
        return add_prefix(base, params.num_virtual_tokens, words, base_name)
    return add_adapter(base, params, base_name)


def check_full(params: TrainParams, model: ModelParams, num_parameters: int) -> None:
    """Say what a full fine-tune keeps in memory, and refuse one on quantised weights or on a GPU too small for that alone.

    Raises DataError or MachineError.
    """
    if model.quantization != "none":
        cause = "a full fine-tune needs weights that are not quantised"
        raise DataError(PLACE, cause, "set model.quantization: none", got=params.finetuning_type)
    needed = num_parameters * MASTER_BYTES + kept_bytes(num_parameters, params.optim)
    size = f"{needed / GIB:.3g} GiB"
    log.info("train: every weight: float32 masters, gradients and an update of %s take %s, activations come on top", params.optim, size)
    if needed > (limit := memory_limit()):
        cause = f"a full fine-tune of {num_parameters / 1e9:.2f} B parameters needs {size}, and the GPU has {limit / GIB:.1f} GiB"
        raise MachineError(PLACE, cause, "use lora, or an optimiser that keeps less", got=params.finetuning_type)
