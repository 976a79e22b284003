"""One file of a data set on a hub: named outright or by a configuration of the data set's card, at one commit, held against its pin."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medcot.errors import DataError
from medcot.hub import CARD, PLATFORMS, Repo, open_repo, read_card
from medcot.params import Params
from medcot.transfer import digest_of, is_commit

SECTION = "download.hub"


class HubParams(Params):
    """A file of a data set on a hub; the default is the Chinese file of medical-o1, pinned."""

    platform: Literal["huggingface", "modelscope"] = "huggingface"
    """The hub; its mirror and token come from the environment, never from here."""
    repo: str = "FreedomIntelligence/medical-o1-reasoning-SFT"
    """Id of the data set: owner/name."""
    config: str = ""
    """A configuration of the data set, whose card names the file; used when `file` is empty."""
    file: str = "medical_o1_sft_Chinese.json"
    """The file's path in the data set."""
    revision: str = "fc2c9e8a37b38f38da6d449564a8c350b244aef4"
    """A commit of 40 hex digits; a branch or tag is resolved to one, recorded, and warned of."""
    sha256: str = Field(default="e64b1426723b63899287236d20e9bbaec9f185e1ce4b24e9b61f610facb4369a", pattern=r"^([0-9a-f]{64})?$")
    """The file's sha256 in hex digits; empty = not pinned, and only the hub's own hash is checked."""
    num_rows: int = Field(default=20171, ge=0)
    """How many rows the file must have; 0 = not checked."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A verified file: where it lies in the hub's cache, its path in the data set, the commit, and the sha256 of its bytes."""

    path: Path
    name: str
    commit: str
    sha256: str

    def metrics(self, params: HubParams) -> dict[str, Any]:
        """What identifies the file, for the metrics."""
        identity = {"platform": params.platform, "repo": params.repo, "file": self.name, "revision": self.commit, "sha256": self.sha256}
        return {**identity, "num_bytes": self.path.stat().st_size}


def fetch_data_file(params: HubParams) -> HubFile:
    """Bring the file that the params name into the hub's cache, unless it is there.

    Raises DataError when the params name nothing that exists, or the file is not the pinned one; MachineError as open_repo does.
    """
    if is_commit(params.revision) and params.file and params.sha256:  # then nothing is left to ask the hub
        path = PLATFORMS[params.platform]("dataset", params.repo, params.revision, SECTION).snapshot(params.revision) / params.file
        if path.is_file() and digest_of(path, 64) == params.sha256:
            return HubFile(path, params.file, params.revision, params.sha256)
    repo = open_repo(params.platform, "dataset", params.repo, params.revision, SECTION)
    name = params.file or file_of_config(repo, params.config)
    if name in repo.files and repo.files[name].sha256:
        check_pin(params, repo.commit, repo.files[name].sha256)  # before the download
    path = repo.fetch([name]) / name
    sha256 = digest_of(path, 64)
    check_pin(params, repo.commit, sha256)
    return HubFile(path, name, repo.commit, sha256)


def check_pin(params: HubParams, commit: str, sha256: str) -> None:
    """Refuse a file whose hash is not the pinned one."""
    if params.sha256 and sha256 != params.sha256:
        cause = f"the file at {commit[:8]} has another sha256 than the pinned one"
        remedy = "pin the revision that has it, or set this hash (empty = no pin) once you know why it changed"
        raise DataError(f"params.yaml: {SECTION}.sha256", cause, remedy, got=sha256)


def check_num_rows(params: HubParams, rows: Sequence[Any]) -> None:
    """Refuse a file with another number of rows than the params say."""
    if params.num_rows and len(rows) != params.num_rows:
        cause, remedy = f"expected {params.num_rows} rows", "correct it (0 = not checked), or pin another revision"
        raise DataError(f"params.yaml: {SECTION}.num_rows", cause, remedy, got=len(rows))


def file_of_config(repo: Repo, config: str) -> str:
    """The one file that a configuration of the data set's card names; an empty config is the only one, or `default`."""
    place = f"params.yaml: {SECTION}.config"
    card = read_card(repo.fetch([CARD])) if CARD in repo.files else {}
    entries = [entry for entry in card.get("configs") or [] if isinstance(entry, dict)]
    configs = {str(entry.get("config_name", "default")): entry for entry in entries}
    if not configs:
        raise DataError(place, "the data set's card names no configurations", "set `file` to a path in the data set", got=config)
    name = config or (next(iter(configs)) if len(configs) == 1 else "default")
    if name not in configs:
        raise DataError(place, "the data set has no such configuration", f"it has {', '.join(configs)}", got=config)
    patterns = _patterns(configs[name].get("data_files"))
    files = [path for path in repo.files if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]
    if len(files) != 1:
        raise DataError(place, "the configuration is not one file", "set `file` to one of them", got=", ".join(files or patterns) or "none")
    return files[0]


def _patterns(data_files: Any) -> list[str]:
    """Every path or pattern under `data_files`, which a card may write as a text, a list of them, or a list of splits."""
    if isinstance(data_files, dict):
        return _patterns(data_files["path"] if "path" in data_files else list(data_files.values()))
    if isinstance(data_files, list):
        return [pattern for item in data_files for pattern in _patterns(item)]
    return [str(data_files)] if data_files else []
