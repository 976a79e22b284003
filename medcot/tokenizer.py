"""The one tokenizer of the project: `tokenizers.Tokenizer.from_file`, and the proof that transformers loads the same.

transformers rebuilds a tokenizer from the class named in its config, and several releases lost the Chinese characters of
R1-like directories on the way (transformers#45488, #45920). So ids come from tokenizer.json alone, and every load through
transformers is compared with it, ids and round trip, before it is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from medcot.errors import DataError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# What a hub directory may hold of a tokenizer; config.json is there for directories that do not name their tokenizer class.
COPIED_FILES = (TOKENIZER_FILE, CONFIG_FILE, "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "config.json")
PROBES = (
    "患者男，28岁，程序员，chest pain 三天，夜间加重。",
    "A 64-year-old woman has SpO₂ 88% on room air; start O₂ at 2 L/min.",
    "白细胞 12.5×10⁹/L，血钾 3.1 mmol/L，体温 38.6℃，1/2 片 bid",
    "换行\n\n  缩进\t制表 \r\n结尾 ",
    "emoji 😀👩🏽‍⚕️ 与生僻字 𠮷䶮",
)


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer.json with the names of its control tokens; it never adds BOS or EOS and never truncates."""

    backend: Tokenizer = field(repr=False)
    eos_token: str
    bos_token: str | None
    added: dict[str, int] = field(repr=False)
    """Every added token and its id: the control tokens. Runs of plain spaces that some vocabularies add are not among them."""

    def __len__(self) -> int:
        """Vocabulary size with the added tokens, as transformers' len(tokenizer)."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def eos_id(self) -> int:
        """Id of the tokenizer's own EOS; a template may end its turns with another token."""
        return self.added[self.eos_token]

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that only a template may produce."""
        return frozenset(self.added.values())

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the whole tokenizer: what metrics call the tokenizer's hash."""
        return hashlib.sha256(self.backend.to_str().encode("utf-8")).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; control tokens in it become control ids."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text and for each the [start, end) characters it came from."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included."""
        return str(self.backend.decode(list(ids), skip_special_tokens=False))


def load_tokenizer(directory: Path) -> ChatTokenizer:
    """Load tokenizer.json and the EOS and BOS named in tokenizer_config.json; imports no transformers.

    Raises DataError when a file is missing or broken, or when the EOS is not an added token of the vocabulary.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise DataError(str(path), "the tokenizer file is missing", f"put {TOKENIZER_FILE} beside {CONFIG_FILE}, or run stage base")
    config = _read_config(directory)
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for every broken file
        raise DataError(str(path), "not a tokenizer file", "fetch it again from where the model came from", got=str(error)) from None
    # A saved file may carry a truncation length, which would cut rows without a word.
    backend.no_truncation()
    backend.no_padding()
    added = {t.content: i for i, t in sorted(backend.get_added_tokens_decoder().items()) if t.special or t.content.strip()}
    eos = _token_name(config.get("eos_token"))
    if eos is None or eos not in added:
        cause = "no eos_token is named" if eos is None else "the eos_token is not an added token of tokenizer.json"
        raise DataError(str(directory / CONFIG_FILE), cause, f"set eos_token to one of {_some(added)}", got=eos)
    return ChatTokenizer(backend, eos, _token_name(config.get("bos_token")), added)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(str(path), "the tokenizer's config is missing", "copy it from where the model came from") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(str(path), "not valid JSON", "copy it again from where the model came from", got=str(error)) from None
    if not isinstance(config, dict):
        raise DataError(str(path), "expected a JSON object", "copy it again from where the model came from", got=config)
    return config


def _token_name(value: Any) -> str | None:
    """A token of tokenizer_config.json: a string, or an object that holds it as `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _some(added: dict[str, int]) -> str:
    names = list(added)
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "its added tokens (it has none)"


def check_transformers_load(directory: Path) -> Any:
    """Load the directory through transformers and return that tokenizer, proven equal to tokenizer.json on probe texts.

    Compares vocabulary size, ids and decoded text on Chinese, English, mixed text, units, emoji and every control token.
    Raises DataError on any difference, and when transformers cannot load the directory without the network or remote code.
    """
    ours = load_tokenizer(directory)
    theirs = _load_with_transformers(directory)
    if len(theirs) != len(ours):
        _refuse_load(directory, "another vocabulary size", f"{len(theirs)} instead of {len(ours)}")
    for probe in (*PROBES, *ours.added, "".join(ours.added)):
        expected = ours.encode(probe)
        ids = list(theirs(probe, add_special_tokens=False)["input_ids"])
        text = theirs.decode(expected, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if ours.decode(expected) != probe:
            _refuse_load(directory, f"a tokenizer.json that does not give back {probe!r}", ours.decode(expected))
        if ids != expected:
            _refuse_load(directory, f"other ids for {probe!r}", theirs.decode(ids))
        if text != probe:
            _refuse_load(directory, f"another text for {probe!r}", text)
    return theirs


def _refuse_load(directory: Path, what: str, got: str) -> None:
    remedy = "use a transformers release that reads it right, and a byte-level tokenizer; training on it would lose text"
    raise DataError(str(directory), f"the tokenizer check failed: transformers v tokenizers gave {what}", remedy, got=got)


def _load_with_transformers(directory: Path) -> Any:
    from transformers import AutoTokenizer  # lazily: the data stages import neither transformers nor torch

    try:
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        cause = "transformers cannot load the tokenizer offline and without remote code"
        raise DataError(str(directory), cause, "complete the directory as the hub has it", got=str(error)) from None


def install_tokenizer(source: Path, target: Path) -> int:
    """Copy a tokenizer into an existing directory, or build tokenizer.json where only vocab.json and merges.txt exist.

    Runs check_transformers_load on the result and returns len(tokenizer). Raises DataError.
    """
    if (source / TOKENIZER_FILE).is_file():
        for name in COPIED_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
    else:
        _build_from_vocab(source, target)
    return len(check_transformers_load(target))


def _build_from_vocab(source: Path, target: Path) -> None:
    """Let transformers make tokenizer.json from vocab.json and merges.txt, and check that no id moved."""
    missing = [name for name in ("vocab.json", "merges.txt", CONFIG_FILE) if not (source / name).is_file()]
    if missing:
        cause = f"neither {TOKENIZER_FILE} nor vocab.json with merges.txt and {CONFIG_FILE}"
        raise DataError(str(source), cause, "copy the tokenizer files of the model", got=f"missing {', '.join(missing)}")
    _load_with_transformers(source).save_pretrained(str(target))
    built = load_tokenizer(target).backend
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    moved = [token for token, i in vocab.items() if built.token_to_id(token) != i]
    if moved:
        _refuse_load(source, f"{len(moved)} tokens another id than vocab.json", moved[0])
