"""A model directory in hub layout: what belongs to it, which model it is, and the faults that must show before anything is loaded.

Reads headers and hashes only: no torch. Weights are safetensors in one file or in shards under an index; a pickle is never read,
because it can run code, and a configuration that wants code of its own is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from medcot.errors import DataError, MachineError

RECORD_FILE = "base.json"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth")
COPY_AGAIN = "copy it again from where the model came from"
# A sample reads the head of a file, where the tensors are listed, and blocks spread evenly over the rest.
SAMPLE_WHOLE, SAMPLE_HEAD, SAMPLE_BLOCK, SAMPLE_BLOCKS = 8 << 20, 1 << 20, 1 << 16, 64
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """What stage base wrote down about the base model, in `base.json`.

    source          demo | local | hub
    path            the weights' directory; "." = beside the record; empty for source hub, where the hub's cache has them
    num_parameters  counted from the safetensors headers
    files           sha256 by file name, for every file of the model
    samples         sample_sha256 by file name: what every later load is compared with
    platform, repo, commit, licence  of source hub: where the model is from, and the licence its card names
    """

    source: str
    path: str
    num_parameters: int
    files: dict[str, str]
    samples: dict[str, str]
    platform: str = ""
    repo: str = ""
    commit: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):  # whoever edits the file by hand is told which entry is wrong
            value, kind = getattr(self, field.name), str(field.type)
            names = isinstance(value, dict) and all(isinstance(text, str) for text in (*value, *value.values()))
            if not (names if kind.startswith("dict") else type(value).__name__ == kind):
                raise TypeError(f"{field.name} is {value!r}")

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all file hashes: two bases are the same model when these are equal."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, directory: Path) -> None:
        content = {key: value for key, value in asdict(self).items() if value != "" or key == "path"}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (directory / RECORD_FILE).write_text(text, encoding="utf-8")


def read_base_record(model_dir: Path) -> tuple[BaseRecord, Path]:
    """Read the record and find the weights it names, after checking that they are still the ones it was written for.

    A model from a hub that this machine has not got is fetched at its commit.
    Raises DataError when the record is missing or the weights changed since stage base, MachineError when they cannot be had here.
    """
    path = model_dir / RECORD_FILE
    if not path.is_file():
        raise DataError(str(path), "the base model is missing", "run `dvc repro base`")
    try:
        record = BaseRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(str(path), "not a record of this version", "run `dvc repro -f base`", got=str(error)) from None
    weights = _locate(record, model_dir)
    for name, sample in record.samples.items():
        file = weights / name
        if not file.is_file():
            raise MachineError(str(file), "a file of the base model is missing", "put it back, or run `dvc repro -f base`")
        if sample_sha256(file) != sample:
            raise DataError(str(file), "the file changed since stage base recorded it", "put it back, or run `dvc repro -f base`")
    return record, weights


def _locate(record: BaseRecord, model_dir: Path) -> Path:
    if record.source == "hub":
        from medcot.hub_model import find_again  # it builds upon this module

        return find_again(record)
    return model_dir if record.path == "." else Path(record.path)


def find_model(path: str, folder: Path) -> Path:
    """Find a model's directory in the import folder, or where the path says, with a warning that DVC cannot see it change."""
    if not path:
        raise DataError("params.yaml: base.path", "source local needs a directory", f"name one under {folder}/")
    outside = Path(path).expanduser()
    weights = outside if outside.is_absolute() or not (folder / path).is_dir() else folder / path
    if not weights.is_dir():
        raise DataError("params.yaml: base.path", "no such directory", f"put the model under {folder}/", got=path)
    if not weights.resolve().is_relative_to(folder.resolve()):
        log.warning("base: %s is outside %s, where DVC would see it change", weights, folder)
    return weights


def describe_model_dir(source: str, weights: Path, *, path: str) -> BaseRecord:
    """Hash the files of a model directory in hub layout and count its parameters.

    Raises DataError for a missing or unreadable configuration, one that wants code of its own or is quantised already, and for
    weights that are missing, cut short, pickles, or pointers to the real files.
    """
    read_model_config(weights)
    tensors = find_weights(weights)
    others = (CONFIG_FILE, INDEX_FILE, "generation_config.json")
    names = sorted({path.name for path in tensors} | {name for name in others if (weights / name).is_file()})
    return BaseRecord(
        source=source,
        path=path,
        num_parameters=count_parameters(tensors),
        files={name: file_sha256(weights / name) for name in names},
        samples={name: sample_sha256(weights / name) for name in names},
    )


def read_model_config(weights: Path) -> dict[str, Any]:
    """Read config.json and refuse what this project does not run: remote code, and weights that are quantised already."""
    path = weights / CONFIG_FILE
    if not path.is_file():
        raise DataError(str(path), "not a model directory: config.json is missing", "copy the whole repository of the model")
    content = _read_json(path)
    if "auto_map" in content:
        raise DataError(str(path), "the model wants to run its own code", "use a model whose class transformers has", got="auto_map")
    if "quantization_config" in content:
        method = dict(content["quantization_config"] or {}).get("quant_method")
        remedy = "use the original weights, which model.quantization then quantises"
        raise DataError(str(path), "the weights are quantised already", remedy, got=method)
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(str(path), "not valid JSON", COPY_AGAIN, got=str(error)) from None
    if not isinstance(content, dict):
        raise DataError(str(path), "expected a JSON object", COPY_AGAIN, got=content)
    return content


def find_weights(weights: Path) -> list[Path]:
    """List the weight files that transformers would load: model.safetensors, or the shards its index names."""
    if (weights / WEIGHTS_FILE).is_file():
        return [weights / WEIGHTS_FILE]
    index = weights / INDEX_FILE
    if index.is_file():
        shards = [weights / name for name in read_index(index)]
        if missing := [path.name for path in shards if not path.is_file()]:
            raise DataError(str(index), f"{len(missing)} of {len(shards)} weight files are missing", "copy them too", got=missing[0])
        return shards
    refuse_weights(str(weights), (path.name for path in weights.iterdir()))


def read_index(index: Path) -> list[str]:
    """The names of the shards that an index lists, each once, in order."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise DataError(str(index), "no weight_map", COPY_AGAIN, got=names)
    return sorted({str(name) for name in names.values()})


def refuse_weights(place: str, names: Iterable[str]) -> NoReturn:
    """Raise the error of a model whose weights are pickles or in another layout, naming them."""
    others = sorted(name for name in names if name.endswith((*PICKLES, ".safetensors", ".gguf")))
    remedy = f"only {WEIGHTS_FILE} or shards with {INDEX_FILE} are read, since a pickle can run code: convert them"
    raise DataError(place, "no safetensors weights in hub layout", remedy, got=others)


def count_parameters(tensors: list[Path]) -> int:
    """Count parameters from the safetensors headers, without reading a weight."""
    return sum(prod(entry["shape"]) for path in tensors for name, entry in read_header(path).items() if name != "__metadata__")


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and data_offsets by tensor. Raises DataError for a file that is none."""
    # Layout: 8 bytes little-endian header size, the header as JSON, then the data it gives offsets into (safetensors description).
    length = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > length - 8:
            raise DataError(str(path), "not a safetensors file, or a pointer to one", "fetch the real file (git lfs pull)")
        try:
            content: dict[str, Any] = json.loads(file.read(size))
            end = max((entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(str(path), "the header is not one of safetensors", COPY_AGAIN) from None
    if 8 + size + end != length:
        raise DataError(str(path), f"the file should be {8 + size + end} bytes long", COPY_AGAIN, got=length)
    return content


def check_vocabulary(weights: Path, num_tokens: int) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings: their ids would point outside the table."""
    config = read_model_config(weights)
    size = config.get("vocab_size")
    if isinstance(size, int) and num_tokens > size:
        raise DataError(
            str(weights),
            f"the tokenizer has more tokens than the model's vocab_size {size}",
            "use the model's own tokenizer",
            got=num_tokens,
        )


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sample_sha256(path: Path) -> str:
    """The sha256 of a file's size and of a sample of its bytes, in hex: milliseconds for a file of any size.

    Other weights of the same shapes differ nearly everywhere, so the sample tells them apart as surely as the whole file would;
    only a change of a few bytes between two blocks goes unseen, and that is no other model.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE_WHOLE if size <= SAMPLE_WHOLE else SAMPLE_HEAD))
        if size > SAMPLE_WHOLE:
            for block in range(1, SAMPLE_BLOCKS + 1):
                file.seek((size - SAMPLE_BLOCK) * block // SAMPLE_BLOCKS)
                digest.update(file.read(SAMPLE_BLOCK))
    return digest.hexdigest()
