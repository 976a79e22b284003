"""A base model on a hub: refused before its weights are downloaded when it cannot be used, and found again from its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcot.errors import DataError
from medcot.hub import CARD, PLATFORMS, Repo, licence_of, open_repo, read_card
from medcot.transfer import digest_of, is_commit
from medcot.weights import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, BaseRecord, find_weights, read_index, read_model_config, refuse_weights

SECTION = "base"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
SMALL_FILES = (CONFIG_FILE, "generation_config.json", INDEX_FILE, CARD, "LICENSE", "LICENSE.txt", "LICENSE.md", *TOKENIZER_FILES)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model in the hub's cache: its directory, the commit, and the licence that its card names."""

    path: Path
    commit: str
    licence: str


def fetch_model(platform: str, repo_id: str, revision: str, check: Callable[[Path], Any]) -> HubModel:
    """Bring a model into the hub's cache: configuration, tokenizer, licence and safetensors, and nothing else of the repository.

    check  is called with the directory before any weights are downloaded, and raises if the architecture is not known
    Raises DataError for a repository without safetensors, with code of its own or quantised, and as open_repo and Repo.fetch do.
    """
    repo = open_repo(platform, "model", repo_id, revision, SECTION)
    if CONFIG_FILE not in repo.files:
        raise DataError(f"params.yaml: {SECTION}.repo", "not a model: it has no config.json", "name a model in hub layout", got=repo_id)
    if not {WEIGHTS_FILE, INDEX_FILE} & set(repo.files):
        refuse_weights(str(repo.hub.place), repo.files)
    directory = repo.fetch(name for name in SMALL_FILES if name in repo.files)
    read_model_config(directory)
    check(directory)
    repo.fetch(_weight_files(repo))
    find_weights(directory)
    return HubModel(directory, repo.commit, licence_of(read_card(directory)))


def _weight_files(repo: Repo) -> list[str]:
    return [WEIGHTS_FILE] if WEIGHTS_FILE in repo.files else read_index(repo.directory / INDEX_FILE)


def find_again(record: BaseRecord) -> Path:
    """The directory of a recorded model: in the cache, else fetched at its commit and compared with the recorded hashes.

    Raises MachineError when it is not there and cannot be fetched, DataError when the hub's files are others by now.
    """
    if record.platform not in PLATFORMS or not is_commit(record.commit):
        raise DataError("models/base/model/base.json", "not a record of a model on a hub", "run `dvc repro -f base`", got=record.commit)
    hub = PLATFORMS[record.platform]("model", record.repo, record.commit, SECTION)
    directory = hub.snapshot(record.commit)
    if all((directory / name).is_file() for name in record.files):
        return directory
    directory = open_repo(record.platform, "model", record.repo, record.commit, SECTION).fetch(record.files)
    for name, sha256 in record.files.items():
        if digest_of(directory / name, 64) != sha256:
            cause = f"the file at {record.commit[:8]} is not the one that stage base recorded"
            raise DataError(f"{hub.place}: {name}", cause, "run `dvc repro -f base` if you trust the new one")
    return directory
