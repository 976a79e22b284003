"""The adapter's life on disk: made, imported, checked against base and template, saved in peft's layout."""

from __future__ import annotations

import difflib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError

from medcot.errors import DataError, MachineError
from medcot.model import ADAPTER_CONFIG
from medcot.prefix import PREFIX_TUNING, check_prefix
from medcot.template import Template
from medcot.tokenizer import PROBES, TOKENIZER_FILE, ChatTokenizer, load_tokenizer
from medcot.train_params import TrainParams

IDENTITY_FILE = "medcot.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# Where LLaMA-Factory's board, and this project, write a run's settings beside its adapter.
SETTINGS_FILES = ("training_args.yaml", "llamafactory.yaml")
ANOTHER_BASE = "use the base it was trained on"
# The kinds of adapter that are imported, and the numbers of each that peft computes with, unchecked; a LoRA's may be absent.
NUMBERS: dict[str, dict[str, tuple[type, ...]]] = {
    "LORA": {"r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float)},
    PREFIX_TUNING: dict.fromkeys(("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"), (int,)),
}
LARGEST_NUMBER = 2**31  # no rank, scale or length comes near; NaN is not below it either
OWN = ("lora_", "modules_to_save", "prompt_encoder")  # in the names of an adapter's own tensors
log = logging.getLogger("medcot")


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

    With finetuning_type none it stays zero to the last bit, so it is plain LoRA then: DoRA's magnitudes would round.
    Raises DataError when lora_target or additional_target names no layer of this architecture, or one that cannot be adapted.
    """
    torch.manual_seed(params.seed)
    plain = params.finetuning_type == "none"
    targets, whole = split_names(params.lora_target), [] if plain else split_names(params.additional_target)
    check_names(model, [] if targets == ["all"] else targets, "lora_target")
    check_names(model, whole, "additional_target")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules="all-linear" if targets == ["all"] else targets,
        modules_to_save=whole or None,
        use_rslora=params.use_rslora,
        use_dora=params.use_dora and not plain,
        # Else an embedding and a head that share their weights would be trained, and merged, as two.
        ensure_weight_tying=_touches_tied(model, whole),
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        place, remedy = "params.yaml: train.lora_target", "name linear layers of this model, or all"
        raise DataError(place, str(error).split(". ")[0], remedy, got=params.lora_target) from None
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    return wrapped


def split_names(text: str) -> list[str]:
    """Names separated by commas, as LLaMA-Factory writes lists."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_names(model: Any, names: Sequence[str], key: str) -> None:
    """Refuse a name that no module of the model ends with: peft passes over it as long as it finds another.

    As lora_target the output layer is refused too, since TRL's fused head multiplies by the base's weights and would never train an
    adapter there, and so is an embedding that shares its weights with it. Raises DataError.
    """
    place = f"params.yaml: train.{key}"
    known = {name: module for name, module in model.named_modules() if hasattr(module, "weight")}
    for wanted in names:
        found = [module for name, module in known.items() if f".{name}".endswith(f".{wanted}")]
        if not found:
            last = sorted({name.rsplit(".", 1)[-1] for name in known})
            close = difflib.get_close_matches(wanted, last, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(last)}"
            raise DataError(place, "the model has no such layer", remedy, got=wanted)
        head = model.get_output_embeddings()
        if key == "lora_target" and head is not None and any(module.weight is head.weight for module in found):
            raise DataError(place, "the output layer takes no LoRA", "name it in train.additional_target", got=wanted)


def _touches_tied(model: Any, names: Sequence[str]) -> bool:
    """Whether a name is that of an embedding and output layer that share their weights."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    shared = [name for name, module in model.named_modules() if module in (head, embedding)]
    return any(f".{name}".endswith(f".{wanted}") for name in shared for wanted in names)


def find_adapter(name: str, inside: Path) -> Path:
    """Find an adapter's directory under `inside`, or where the path says, with a warning that DVC cannot see it change.

    Raises DataError when there is none.
    """
    outside = Path(name).expanduser()
    directory = outside if outside.is_absolute() or not (inside / name).is_dir() else inside / name
    if not directory.is_dir():
        raise DataError("params.yaml: train.adapter", "no such directory", f"put the adapter under {inside}/", got=name)
    if not directory.resolve().is_relative_to(inside.resolve()):
        log.warning("train: %s is outside %s, where DVC would see it change", directory, inside)
    return directory


def import_adapter(model: Any, directory: Path, identity: Identity, base_name: str, tok: ChatTokenizer, template: Template) -> Any:
    """Put a finished peft or LLaMA-Factory adapter on the model, after checking that it belongs to this base and template.

    Raises DataError when it is no LoRA adapter or prefix in safetensors, when its own record names another base, template or tokenizer, or
    when its tensors do not fit the base or are not finite.
    """
    config = read_adapter_config(directory)
    check_identity(directory, identity)
    check_origin(directory, config, base_name, tok, template)
    if config["peft_type"] == PREFIX_TUNING:
        check_prefix(str(directory / ADAPTER_CONFIG), config, model)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # what it warns of is refused below
            wrapped = PeftModel.from_pretrained(model, directory)
            result = wrapped.load_adapter(directory, adapter_name="default")
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:  # KeyError: a prefix without its tensor
        detail = str(error).splitlines()[-1].strip()
        raise DataError(str(directory), "the adapter does not fit the base", ANOTHER_BASE, got=detail) from None
    # peft reports as missing every key of the base; only keys of the adapter itself matter.
    lost = [key for key in (*result.missing_keys, *result.unexpected_keys) if any(part in key for part in OWN)]
    if lost:
        raise DataError(str(directory), f"{len(lost)} tensors do not fit the base", ANOTHER_BASE, got=lost[0])
    broken = [n for n, p in wrapped.named_parameters() if any(part in n for part in OWN) and not torch.isfinite(p).all()]
    if broken:
        raise DataError(str(directory), f"{len(broken)} tensors are not finite", "train it again, or copy it again", got=broken[0])
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    return wrapped


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """Read adapter_config.json and refuse what is no LoRA adapter or prefix in safetensors.

    Both give one logit a token of the row, whatever stands before it. Prompt tuning and its like give logits to their virtual tokens
    too, and every label would be one of another position.
    """
    remedy = "point train.adapter at a directory that peft or LLaMA-Factory wrote"
    for name in (ADAPTER_CONFIG, WEIGHTS_FILE):
        if not (directory / name).is_file():
            others = sorted(path.name for path in directory.iterdir() if path.name.startswith("adapter_model"))
            cause = f"not a peft adapter in safetensors: {name} is missing"
            raise DataError(str(directory), cause, f"{remedy}; a pickle is never read", got=others or None)
    path = directory / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(str(path), "not an adapter's configuration", remedy, got=str(error)) from None
    if not isinstance(kind, str) or kind not in NUMBERS:
        cause = "only LoRA adapters and prefixes are imported: others may change what a position means"
        raise DataError(str(path), cause, remedy, got=kind)
    for key, types in NUMBERS[kind].items():
        value = config.get(key, None if kind == PREFIX_TUNING else 1)
        if type(value) not in types or not abs(value) < LARGEST_NUMBER or (kind == PREFIX_TUNING and value < 1):
            raise DataError(f"{path}: {key}", "not a number that peft can use", "copy the adapter's configuration again", got=repr(value))
    return dict(config)


def check_identity(directory: Path, identity: Identity) -> None:
    """Compare the record that this project writes beside a fine-tune with this pipeline's; one without it is not compared."""
    path = directory / IDENTITY_FILE
    if not path.is_file():
        return
    try:
        theirs = dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise DataError(str(path), "not a record of what the fine-tune was made on", "copy it again", got=str(error)) from None
    for key, ours in asdict(identity).items():
        if theirs.get(key) != ours:
            raise DataError(str(path), f"the adapter was made on another {key} ({ours} here)", "use the same one", got=theirs.get(key))


def check_origin(directory: Path, config: dict[str, Any], base_name: str, tok: ChatTokenizer, template: Template) -> None:
    """Compare what an adapter from elsewhere says of itself: its tokenizer, its template, the name of its base.

    Another tokenizer or template is refused; another name only warned of, since directories are named as one likes.
    """
    if (directory / TOKENIZER_FILE).is_file():
        # By vocabulary and ids: libraries write the same tokenizer in different words.
        theirs = load_tokenizer(directory)
        if theirs.backend.get_vocab() != tok.backend.get_vocab() or any(theirs.encode(probe) != tok.encode(probe) for probe in PROBES):
            place = str(directory / TOKENIZER_FILE)
            raise DataError(place, "the adapter came with another tokenizer than the base's", ANOTHER_BASE, got=f"{len(theirs)} tokens")
    settings = next((directory / name for name in SETTINGS_FILES if (directory / name).is_file()), None)
    told = _template_of(settings) if settings else None
    if settings and told and told != template.llamafactory:
        cause = f"the adapter was trained with another template than model.template {template.name} ({template.llamafactory})"
        raise DataError(str(settings), cause, "set model.template to its own", got=told)
    if not told and not (directory / IDENTITY_FILE).is_file():
        log.warning("train: %s does not say its template; %s is taken on trust", directory, template.name)
    name = str(config.get("base_model_name_or_path") or "")
    if name and Path(name).name.lower() != Path(base_name).name.lower():
        log.warning("train: the adapter names its base %s, here it is %s; only shapes can be compared", name, base_name)


def _template_of(settings: Path) -> str | None:
    try:
        content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date, or not UTF-8
        raise DataError(str(settings), "not valid YAML", "mend or remove it", got=str(error)) from None
    return str(content["template"]) if isinstance(content, dict) and content.get("template") else None


def save_tuned(model: Any, directory: Path, identity: Identity) -> None:
    """Save an adapter in peft's layout, or a whole model, with its record; equal weights give equal bytes."""
    try:
        model.save_pretrained(directory)
    except SafetensorError as error:  # its word for what the disk refused
        remedy = "free space there, then run the same command again: it goes on from the last checkpoint"
        raise MachineError(str(directory), "the weights could not be written", remedy, got=str(error)) from None
    (directory / "README.md").unlink(missing_ok=True)  # peft's card is a form of open questions
    config = directory / ADAPTER_CONFIG
    if config.is_file():
        content = {key: sorted(value) if _is_names(value) else value for key, value in json.loads(config.read_text("utf-8")).items()}
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (directory / IDENTITY_FILE).write_text(json.dumps(asdict(identity), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_names(value: Any) -> bool:
    # peft keeps module names in sets, whose order follows the hash seed.
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
