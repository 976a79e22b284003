"""Load the base model and its adapter the same way for training and for both arms of the evaluation.

Weights are read from safetensors only, from a local directory, with remote code off. The precision follows from the hardware and
from `model.quantization`, and is part of what evaluation compares, so that no arm is measured in another precision.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from medcot.errors import DataError, MachineError

MAX_CPU_PARAMETERS = 500_000_000
ALLOW_CPU = "MEDCOT_ALLOW_LARGE_ON_CPU"
RECORD_FILE = "base.json"
ADAPTER_CONFIG = "adapter_config.json"
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where and how the model runs: device, compute dtype, attention, and one clause that says why."""

    device: str
    dtype: str
    attention: str
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[self.dtype]


def choose_hardware() -> Hardware:
    """Choose device, dtype and attention from what the machine has; the reason says why a GPU is not used."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Hardware("cuda", "bfloat16", "sdpa", f"{name} computes in bfloat16")
        return Hardware("cuda", "float16", "sdpa", f"{name} has no bfloat16")
    return Hardware("cpu", "float32", "sdpa", why_no_gpu())


def why_no_gpu() -> str:
    """Say in one clause why no GPU is used."""
    if torch.version.cuda is None:
        return f"no GPU is used: torch {torch.__version__} is a CPU build"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "no GPU is used: CUDA_VISIBLE_DEVICES hides them all"
    if not Path("/proc/driver/nvidia").exists():
        return "no GPU is used: this machine has no NVIDIA driver"
    return f"no GPU is used: torch {torch.__version__} finds none (is the driver older than CUDA {torch.version.cuda}?)"


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """What stage base wrote down about the base model, in `base.json`.

    source          demo | local
    path            the weights' directory; "." = beside the record
    num_parameters  counted from the safetensors headers
    files           sha256 by file name, for every file of the model
    """

    source: str
    path: str
    num_parameters: int
    files: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all file hashes: two bases are the same model when these are equal."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, directory: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (directory / RECORD_FILE).write_text(text, encoding="utf-8")


def read_base_record(model_dir: Path) -> tuple[BaseRecord, Path]:
    """Read the record and find the weights it names.

    Raises DataError when the record is missing, MachineError when the weights are not on this machine or changed since stage base.
    """
    path = model_dir / RECORD_FILE
    if not path.is_file():
        raise DataError(str(path), "the base model is missing", "run `dvc repro base`")
    record = BaseRecord(**json.loads(path.read_text(encoding="utf-8")))
    weights = model_dir if record.path == "." else Path(record.path)
    for name in record.files:
        if not (weights / name).is_file():
            raise MachineError(str(weights / name), "a file of the base model is missing", "put it back, or `dvc repro -f base`")
    return record, weights


def describe_model_dir(source: str, weights: Path, *, path: str) -> BaseRecord:
    """Hash the files of a model directory in hub layout and count its parameters.

    Raises DataError when config.json or safetensors weights are missing, or the only weights are pickles.
    """
    config = weights / "config.json"
    if not config.is_file():
        raise DataError(str(config), "not a model directory: config.json is missing", "copy the whole repository of the model")
    check_no_remote_code(config)
    tensors = sorted(weights.glob("*.safetensors"))
    if not tensors:
        pickles = sorted(p.name for p in (*weights.glob("*.bin"), *weights.glob("*.pt"), *weights.glob("*.pth")))
        raise DataError(
            str(weights), "no *.safetensors weights", "only safetensors are read, since a pickle can run code: convert them", got=pickles
        )
    check_shards(weights, {p.name for p in tensors})
    files = [config, *tensors, *weights.glob("*.index.json"), *weights.glob("generation_config.json")]
    return BaseRecord(source, path, count_parameters(tensors), {p.name: file_sha256(p) for p in sorted(set(files))})


def check_no_remote_code(config: Path) -> None:
    """Refuse a configuration whose model class lives in code of its own (`auto_map`)."""
    content = json.loads(config.read_text(encoding="utf-8"))
    if "auto_map" in content:
        raise DataError(str(config), "the model wants to run its own code", "use a model whose class transformers has", got="auto_map")


def check_shards(weights: Path, present: set[str]) -> None:
    """Refuse a model whose index names weight files that are not there."""
    for index in sorted(weights.glob("*.safetensors.index.json")):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(named - present):
            raise DataError(str(index), f"{len(missing)} of {len(named)} weight files are missing", "copy them too", got=missing[0])


def count_parameters(tensors: list[Path]) -> int:
    """Count parameters from the safetensors headers, without reading a weight."""
    total = 0
    for path in tensors:
        header = _read_header(path)
        total += sum(_numel(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def _read_header(path: Path) -> dict[str, Any]:
    # Layout: 8 bytes little-endian header size, then the header as JSON (safetensors format description).
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise DataError(str(path), "not a safetensors file, or a pointer to one", "fetch the real file (git lfs pull)")
        content: dict[str, Any] = json.loads(file.read(size))
    return content


def _numel(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(record: BaseRecord, hardware: Hardware) -> None:
    """Refuse to run a base above 0.5 B parameters on a CPU, unless `MEDCOT_ALLOW_LARGE_ON_CPU=1` asks for it."""
    if hardware.device == "cpu" and record.num_parameters > MAX_CPU_PARAMETERS and os.environ.get(ALLOW_CPU) != "1":
        size = f"{record.num_parameters / 1e9:.2f} B parameters"
        raise MachineError(
            "base", f"the model is too large for a CPU ({hardware.reason})", f"run on a GPU, or set {ALLOW_CPU}=1 and wait", got=size
        )


def load_base(model_dir: Path, quantization: str, hardware: Hardware) -> PreTrainedModel:
    """Load the base model for the chosen hardware, in NF4 with double quantisation or dense, in evaluation mode.

    quantization  "nf4" (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314) or "none"
    """
    record, weights = read_base_record(model_dir)
    check_size(record, hardware)
    return load_weights(weights, quantization, hardware)


def load_weights(weights: Path, quantization: str, hardware: Hardware) -> PreTrainedModel:
    """Load a model directory in hub layout; see load_base."""
    config = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    options: dict[str, Any] = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=hardware.torch_dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        weights,
        config=config,
        dtype=hardware.torch_dtype,
        attn_implementation=hardware.attention,
        device_map={"": hardware.device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **options,
    )
    log.info("model: %s, %s, %s, %s (%s)", weights, quantization, hardware.dtype, hardware.attention, hardware.reason)
    return model.eval()


def load_tuned(model_dir: Path, adapter_dir: Path, quantization: str, hardware: Hardware) -> Any:
    """Load the fine-tuned model: the base under its peft adapter, or the whole model of a full fine-tune.

    Raises DataError when the directory holds neither.
    """
    if (adapter_dir / ADAPTER_CONFIG).is_file():
        from peft import PeftModel

        base = load_base(model_dir, quantization, hardware)
        return PeftModel.from_pretrained(base, adapter_dir, is_trainable=False).eval()
    if (adapter_dir / "config.json").is_file():
        return load_weights(adapter_dir, quantization, hardware)
    raise DataError(str(adapter_dir), "neither a peft adapter nor a model", "run `dvc repro train`")
