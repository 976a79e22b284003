"""The adapter's life on disk: made, imported, checked against base and template, saved in peft's layout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from medcot.errors import DataError
from medcot.model import ADAPTER_CONFIG
from medcot.tokenizer import TOKENIZER_FILE, load_tokenizer
from medcot.train_params import TrainParams

IDENTITY_FILE = "medcot.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a fine-tune was made on; written beside the adapter and compared when it comes back.

    base, template, tokenizer   fingerprints of 16 hex digits
    """

    base: str
    template: str
    tokenizer: str


def add_adapter(model: Any, params: TrainParams, base_name: str) -> Any:
    """Wrap the model in a fresh LoRA adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685); its update is zero at first.

    Raises DataError when lora_target names no layer of this architecture.
    """
    torch.manual_seed(params.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules="all-linear" if params.lora_target == "all" else split_names(params.lora_target),
        modules_to_save=split_names(params.additional_target) or None,
        use_rslora=params.use_rslora,
        use_dora=params.use_dora,
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        place = "params.yaml: train.lora_target"
        raise DataError(place, str(error).splitlines()[0], "name linear layers of this model", got=params.lora_target) from None
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    return wrapped


def split_names(text: str) -> list[str]:
    """Names separated by commas, as LLaMA-Factory writes lists."""
    return [name.strip() for name in text.split(",") if name.strip()]


def import_adapter(model: Any, directory: Path, identity: Identity, base_name: str) -> Any:
    """Put a finished peft or LLaMA-Factory adapter on the model, after checking that it belongs to this base and template.

    Raises DataError when it is not an adapter in safetensors, when its own record names another base, template or tokenizer, or when
    its tensors do not fit the base.
    """
    for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
        if not (directory / name).is_file():
            raise DataError(str(directory), f"not a peft adapter: {name} is missing", "point train.adapter at a directory that peft wrote")
    check_identity(directory, identity)
    try:
        wrapped = PeftModel.from_pretrained(model, directory)
        result = wrapped.load_adapter(directory, adapter_name="default")
    except (RuntimeError, ValueError) as error:
        detail = str(error).splitlines()[-1].strip()
        raise DataError(str(directory), "the adapter does not fit the base", "use the base it was trained on", got=detail) from None
    # peft reports as missing every key of the base; only keys of the adapter itself matter.
    lost = [key for key in (*result.missing_keys, *result.unexpected_keys) if "lora_" in key or "modules_to_save" in key]
    if lost:
        raise DataError(str(directory), f"{len(lost)} tensors do not fit the base", "use the base it was trained on", got=lost[0])
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    return wrapped


def check_identity(directory: Path, identity: Identity) -> None:
    """Compare an adapter's own record, and the tokenizer it carries, with this pipeline's; what it does not carry is not compared."""
    path = directory / IDENTITY_FILE
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for key, ours in asdict(identity).items():
            if theirs.get(key) != ours:
                raise DataError(str(path), f"the adapter was made on another {key} ({ours} here)", "use the same one", got=theirs.get(key))
    elif (directory / TOKENIZER_FILE).is_file() and load_tokenizer(directory).fingerprint != identity.tokenizer:
        raise DataError(str(directory / TOKENIZER_FILE), "the adapter came with another tokenizer than the base's", "use its own base")


def save_tuned(model: Any, directory: Path, identity: Identity) -> None:
    """Save an adapter in peft's layout, or a whole model, with its record; equal weights give equal bytes."""
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)  # peft's card is a form of open questions
    config = directory / ADAPTER_CONFIG
    if config.is_file():
        content = {key: sorted(value) if _is_names(value) else value for key, value in json.loads(config.read_text()).items()}
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (directory / IDENTITY_FILE).write_text(json.dumps(asdict(identity), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_names(value: Any) -> bool:
    # peft keeps module names in sets, whose order follows the hash seed.
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
