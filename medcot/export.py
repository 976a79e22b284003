"""Export the fine-tune as a complete model directory: merged, checked against the adapter it came from, and described.

The check reads the files that were written: the merged model is loaded again, and its next-token distributions are compared with
those of the 16-bit base under the unmerged adapter. Above a limit nothing appears at the target.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import medcot.libraries  # noqa: F401 - before the model libraries

# isort: split
import torch

from medcot.adapters import Identity, check_identity
from medcot.chat_template import check_chat_template, modelfile, settle_tokenizer
from medcot.divergence import mean_kl, reference
from medcot.errors import DataError, MachineError, TrainingError
from medcot.evaluation import EvalSet, read_eval_set, weights_hash
from medcot.merge import DTYPES, merged_model
from medcot.model import Hardware, check_size, choose_hardware, load_tuned, load_weights, read_base_record
from medcot.model_card import render_card
from medcot.model_params import ModelParams
from medcot.params import load_section
from medcot.stage import SCHEMA_VERSION, atomic_dir, stage_lock
from medcot.template import Encoded, encode, eos_id
from medcot.tokenizer import COPIED_FILES, check_transformers_load, install_tokenizer

DATA = Path("data/llamafactory")
TOKENIZER = Path("models/base/tokenizer")
MODEL = Path("models/base/model")
ADAPTER = Path("models/adapter")
METRICS = Path("metrics/evaluate.json")
EXPORT_FILE, GENERATION_FILE, IDENTITY_FILE = "export.json", "generation_config.json", "medcot.json"
GGUF_NAME = "medcot-bf16.gguf"
# All that an export holds; a directory with more is somebody's.
OWN_FILES = (
    *(
        EXPORT_FILE,
        GENERATION_FILE,
        IDENTITY_FILE,
        "config.json",
        "README.md",
        "Modelfile",
        "*.safetensors",
        "model.safetensors.index.json",
    ),
    *(*COPIED_FILES, "added_tokens.json"),
)
SHARD_SIZE = "5GB"
NUM_PROMPTS, NUM_POSITIONS = 32, 64
# A bfloat16 merge of the demo measures 2e-5 nats, with bfloat16 arithmetic 2e-4; a merge into the 4-bit base, or none at all, 1e-2.
MAX_KL = 0.005
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class Divergence:
    """What the merge and the change of precision did to the next-token distributions: mean KL per token, in nats.

    adapter_merged  KL(16-bit base + adapter ‖ merged): what the merge rounded away; limited
    trained_merged  KL(4-bit base + adapter ‖ merged): what leaving 4-bit changes; None where the base was not quantised
    num_prompts, num_tokens  validation rows, and positions in their responses
    computed_in     float32, or the GPU's own dtype where float32 did not fit, whose rounding is then in the figures too
    """

    adapter_merged: float
    trained_merged: float | None
    num_prompts: int
    num_tokens: int
    computed_in: str


def export(out: Path, dtype: str = "bfloat16", max_kl: float = MAX_KL, *, force: bool = False) -> Divergence:
    """Write the fine-tune in models/ to a directory in hub layout; run in the repository root.

    out     appears complete or not at all; force replaces an earlier export
    dtype   bfloat16, float16 or float32
    max_kl  limit of Divergence.adapter_merged
    Raises DataError, MachineError for a disk or GPU that is too small, TrainingError above the limit.
    """
    params, hardware = load_section("model", ModelParams), choose_hardware()
    record, weights = read_base_record(MODEL)
    check_size(record, hardware)
    data = read_eval_set(DATA, TOKENIZER, "val", params)
    identity = Identity(record.fingerprint, data.template.fingerprint, data.tok.fingerprint)
    check_adapter(ADAPTER, identity)
    check_target(out, force)
    check_space(out, record.num_parameters * DTYPES[dtype].itemsize + _size(ADAPTER))
    with stage_lock("export"), atomic_dir(out) as building:
        log.info("export: merging %s into %s", ADAPTER, weights)
        write_model(building, weights, data, dtype)
        log.info("export: comparing the merged model with the adapter")
        divergence = measure(building, data, params.quantization, hardware, record.num_parameters)
        check_divergence(divergence, max_kl)
        facts = describe(asdict(record), identity, params, dtype, divergence)
        _write_json(building / IDENTITY_FILE, asdict(identity))
        (building / "README.md").write_text(render_card(out.absolute().name, facts, read_evaluation(facts["adapter_hash"])), "utf-8")
        _write_json(building / EXPORT_FILE, facts)
    return divergence


def check_adapter(directory: Path, identity: Identity) -> None:
    """Refuse a fine-tune that is missing or was made on another base, template or tokenizer."""
    if not any(directory.glob("*.safetensors")):
        raise DataError(str(directory), "there is no fine-tune to export", "run `dvc repro train`")
    check_identity(directory, identity)


def check_target(out: Path, force: bool) -> None:
    """Refuse a target that holds anything but an earlier export, and that one too unless force is given."""
    if ((out.exists() or out.is_symlink()) and not out.is_dir()) or out.name == "..":
        raise DataError(str(out), "not a directory", "name another target")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / EXPORT_FILE).is_file():
        raise DataError(str(out), "the directory is not empty, and no earlier export", "name another one")
    if not force:
        raise DataError(str(out), "the directory holds an earlier export", "name another one, or add --force to replace it")
    if foreign := sorted(path.name for path in out.iterdir() if not any(path.match(pattern) for pattern in OWN_FILES)):
        raise DataError(str(out), "--force would delete what no export wrote", "move it elsewhere", got=", ".join(foreign))


def check_space(out: Path, num_bytes: int) -> None:
    """Refuse a disk that does not hold the estimated size."""
    present = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(present).free
    if free < num_bytes:
        need = f"the export needs about {num_bytes / 1e9:.1f} GB"
        raise MachineError(
            str(out), f"{need}, the disk has less", "free space, or name a target on another disk", got=f"{free / 1e9:.1f} GB"
        )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def write_model(out: Path, weights: Path, data: EvalSet, dtype: str) -> None:
    """Write weights, configurations, tokenizer, chat template and Modelfile, and prove the prompt equal to training's."""
    install_tokenizer(TOKENIZER, out)
    model = merged_model(weights, ADAPTER, dtype)
    model.config.eos_token_id = eos_id(data.tok, data.template)
    model.save_pretrained(out, max_shard_size=SHARD_SIZE)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors leaves them to the owner alone, and a server may be somebody else
    sampling = generation_config(weights, data, model.config.pad_token_id)
    _write_json(out / GENERATION_FILE, sampling)
    settle_tokenizer(out, data.template, data.tok.eos_token, data.system)
    check_chat_template(check_transformers_load(out), data.tok, data.template, data.system, [row.question for row in chosen(data)])
    text = modelfile(data.template, data.tok.eos_token, data.system, GGUF_NAME, sampling)
    (out / "Modelfile").write_text(text, encoding="utf-8")


def generation_config(weights: Path, data: EvalSet, pad_id: int | None) -> dict[str, Any]:
    """The base's own generation config, or greedy decoding, with the stop tokens that the probes use."""
    path = weights / GENERATION_FILE
    base = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    base = {key: value for key, value in base.items() if not key.startswith("_")}  # transformers' notes to itself
    stops = sorted({eos_id(data.tok, data.template), data.tok.eos_id})
    return {"do_sample": False, **base, "eos_token_id": stops, "pad_token_id": data.tok.eos_id if pad_id is None else pad_id}


def chosen(data: EvalSet) -> list[Any]:
    """The first rows in id order: ids are hashes, so this is a sample that no row order and no seed changes."""
    return data.rows[:NUM_PROMPTS]


def measure(out: Path, data: EvalSet, quantization: str, hardware: Hardware, num_parameters: int) -> Divergence:
    """Compare the files in `out` with the adapter they came from; the models are loaded one after the other, never two at once."""
    rows = [encode(data.tok, data.template, row.question, row.reasoning, row.answer, data.system) for row in chosen(data)]
    exact = exact_hardware(hardware, num_parameters)
    merged = reference(load_weights(out, "none", exact), rows, NUM_POSITIONS)
    return Divergence(
        adapter_merged=_kl("none", rows, merged, exact),
        trained_merged=_kl(quantization, rows, merged, hardware) if quantization != "none" else None,
        num_prompts=len(rows),
        num_tokens=sum(len(part) for part in merged),
        computed_in=exact.dtype,
    )


def exact_hardware(hardware: Hardware, num_parameters: int) -> Hardware:
    """The same device in float32, unless its free memory does not hold the model so."""
    if hardware.device == "cuda" and num_parameters * 5 > torch.cuda.mem_get_info()[0]:  # 4 bytes each, and a row's activations
        return hardware
    return dataclasses.replace(hardware, dtype="float32", attention="sdpa")  # flash attention takes no float32


def _kl(quantization: str, rows: list[Encoded], merged: list[Any], hardware: Hardware) -> float:
    return mean_kl(load_tuned(MODEL, ADAPTER, quantization, hardware), rows, merged, NUM_POSITIONS)


def check_divergence(divergence: Divergence, max_kl: float) -> None:
    """Refuse a merge that is further from its adapter than rounding explains."""
    if not divergence.adapter_merged <= max_kl:  # NaN too
        cause = f"the merged model is not the fine-tune: KL(adapter‖merged) per token is above {max_kl} nats"
        remedy = "nothing was written; export with --dtype float32, or raise --max-kl if you accept it"
        raise TrainingError("export", cause, remedy, got=f"{divergence.adapter_merged:.3g}")


def describe_base(record: Mapping[str, Any]) -> dict[str, Any]:
    """What may be told of the base: everything in its record but hashes and the path, of which only the last name goes out."""
    told = ("source", "platform", "repo", "commit", "licence", "num_parameters")
    base = {key: record[key] for key in told if record.get(key)}
    return {**base, "name": Path(record["path"]).name} if record["path"] not in ("", ".") else base


def describe(record: Mapping[str, Any], identity: Identity, params: ModelParams, dtype: str, divergence: Divergence) -> dict[str, Any]:
    """What export.json and the card say of the model's origin; no path of this machine is in it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "base": describe_base(record),
        "fingerprints": asdict(identity),
        "adapter_hash": weights_hash(ADAPTER),
        "template": params.template,
        "system": params.system,
        "trained_on": params.quantization,
        "dtype": dtype,
        "kl": {key: value for key, value in asdict(divergence).items() if value is not None},
    }


def read_evaluation(adapter_hash: str) -> dict[str, Any] | None:
    """metrics/evaluate.json, if it is there and was measured on this very adapter."""
    if not METRICS.is_file():
        return None
    try:
        metrics = dict(json.loads(METRICS.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(str(METRICS), "not valid JSON", "run `dvc repro -f evaluate`", got=str(error)) from None
    if metrics.get("adapter_hash") == adapter_hash:
        return metrics
    log.warning("export: %s was measured on another adapter; the card leaves it out", METRICS)
    return None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
