"""Load the base model and its adapter the same way for training and for both arms of the evaluation.

Weights are read from safetensors only, from a local directory, with remote code off. The precision follows from the hardware and
from `model.quantization`, and is part of what evaluation compares, so that no arm is measured in another precision.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcot.libraries import quiet_libraries  # before transformers

# isort: split
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from medcot.attention import NAME as PACKED
from medcot.attention import implementation_for, virtual_tokens
from medcot.errors import DataError, MachineError
from medcot.gpu_lock import lock_gpu
from medcot.gpu_memory import cap_memory
from medcot.weights import BaseRecord as BaseRecord
from medcot.weights import describe_model_dir as describe_model_dir
from medcot.weights import file_sha256 as file_sha256
from medcot.weights import read_base_record as read_base_record

MAX_CPU_PARAMETERS = 500_000_000
SMALL_MODEL = 10_000_000
ALLOW_CPU = "MEDCOT_ALLOW_LARGE_ON_CPU"
ADAPTER_CONFIG = "adapter_config.json"
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
GIB = 2**30
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where and how the model runs: device, compute dtype, attention (varlen or sdpa), and one clause that says why."""

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
            return Hardware("cuda", "bfloat16", "varlen", f"{name} computes in bfloat16")
        return Hardware("cuda", "float16", "varlen", f"{name} has no bfloat16")
    return Hardware("cpu", "float32", "varlen", why_no_gpu())


def peak_memory() -> list[str]:
    """The most GPU memory this process held at once, as a clause; nothing without a GPU."""
    if not torch.cuda.is_available():
        return []
    peaks = torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB
    return [f"peak GPU memory {peaks[0]:.1f} GiB in use, {peaks[1]:.1f} GiB reserved"]


def limit_threads(num_parameters: int) -> None:
    """Compute a small model on one CPU thread: its threads would wait for each other longer than they compute.

    With another busy process on the machine, a step of the demo takes many times as long on two threads as on one.
    """
    if num_parameters < SMALL_MODEL:
        torch.set_num_threads(1)


def why_no_gpu() -> str:
    """Say in one clause why no GPU is used."""
    if torch.version.cuda is None:
        return f"no GPU is used: torch {torch.__version__} is a CPU build"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "no GPU is used: CUDA_VISIBLE_DEVICES hides them all"
    if not NVIDIA_DRIVER.exists():
        return "no GPU is used: this machine has no NVIDIA driver"
    return f"no GPU is used: torch {torch.__version__} finds none (is the driver older than CUDA {torch.version.cuda}?)"


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
    Raises DataError or MachineError as read_base_record does, and when the weights do not fill the model.
    """
    record, weights = read_base_record(model_dir)
    check_size(record, hardware)
    return load_weights(weights, quantization, hardware)


def load_weights(weights: Path, quantization: str, hardware: Hardware) -> PreTrainedModel:
    """Load a model directory in hub layout; see load_base."""
    quiet_libraries()
    config = read_architecture(weights)
    wanted = attention_of(config, hardware)
    if hardware.device == "cuda":
        lock_gpu()
        cap_memory()
    model, report = AutoModelForCausalLM.from_pretrained(
        weights,
        config=config,
        dtype=hardware.torch_dtype,
        attn_implementation=wanted,
        device_map={"": hardware.device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        quantization_config=nf4_config(hardware) if quantization == "nf4" else None,
    )
    # transformers fills a missing tensor with random numbers and only warns.
    if lost := sorted(report["missing_keys"]):
        cause, remedy = f"{len(lost)} tensors of the model are not in its weights", "copy the whole repository of the model"
        raise DataError(str(weights), cause, remedy, got=lost[0])
    limit_threads(model.num_parameters())
    avoid_packed_weights(model)
    log.info("model: %s, %s, %s, %s (%s)", weights, quantization, hardware.dtype, wanted, hardware.reason)
    return model.eval()


def attention_of(config: Any, hardware: Hardware) -> str:
    """Name the attention that a model of this architecture is loaded with: the hardware's, or sdpa where it does not fit the layers."""
    return implementation_for(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config) if hardware.attention == "varlen" else "sdpa"


def describe_precision(weights: Path, quantization: str, hardware: Hardware) -> str:
    """Say in which precision load_weights loads a model: quantisation, dtype, attention, device, such as `nf4 bfloat16 varlen cuda`."""
    attention = "varlen" if attention_of(read_architecture(weights), hardware) == PACKED else "sdpa"
    return f"{quantization} {hardware.dtype} {attention} {hardware.device}"


def nf4_config(hardware: Hardware) -> BitsAndBytesConfig:
    """NF4 with double quantisation of the scales, computing in the hardware's dtype."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MachineError("model", "bitsandbytes is not installed", "install it, or set model.quantization: none")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=hardware.torch_dtype
    )


def avoid_packed_weights(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for bfloat16 kernels on CPUs that have them.

    It does so at the first evaluation. From then on every layer computes in bfloat16, whatever dtype was asked for, and gives no
    gradient to its input: training goes on, and the adapters below the top layer learn from a broken signal (0.50.2, tried).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def read_architecture(weights: Path) -> Any:
    """Read the configuration as transformers does, and refuse what is no causal language model that it knows."""
    try:
        config = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        cause = f"transformers {transformers.__version__} cannot read the configuration"
        raise DataError(str(weights / "config.json"), cause, "use a model that it knows", got=str(error)) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise DataError(str(weights / "config.json"), "not a causal language model", "use one that is", got=config.model_type)
    return config


def load_tuned(model_dir: Path, adapter_dir: Path, quantization: str, hardware: Hardware) -> Any:
    """Load the fine-tuned model: the base under its peft adapter, or the whole model of a full fine-tune.

    Raises DataError when the directory holds neither.
    """
    if (adapter_dir / ADAPTER_CONFIG).is_file():
        from peft import PeftModel

        base = load_base(model_dir, quantization, hardware)
        tuned = PeftModel.from_pretrained(base, adapter_dir, is_trainable=False).eval()
        if tokens := virtual_tokens(tuned):
            log.info("model: %s is a prefix of %d virtual tokens; it lies in the cache, so rows are padded", adapter_dir, tokens)
        return tuned
    if (adapter_dir / "config.json").is_file():
        check_size(read_base_record(model_dir)[0], hardware)
        return load_weights(adapter_dir, quantization, hardware)
    raise DataError(str(adapter_dir), "neither a peft adapter nor a model", "run `dvc repro train`")


def base_within(tuned: Any, load: Callable[[], Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Give contexts whose value is the base of a fine-tuned model: the same model with its adapter off, or for a full fine-tune load()."""
    if not hasattr(tuned, "disable_adapter"):
        base = load()
        return lambda: nullcontext(base)

    @contextmanager
    def without_adapter() -> Iterator[Any]:
        with tuned.disable_adapter():
            yield tuned

    return without_adapter
