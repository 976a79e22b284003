"""One file of a data set on a hub: named outright or by a configuration of the data set's card, at one commit, held against its pin."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcot.errors import DataError
from medcot.hub import CARD, PLATFORMS, Repo, open_repo, read_card
from medcot.hub_params import SECTION, HubParams
from medcot.transfer import digest_of, is_commit

MAX_PATTERNS = 1000  # of one configuration; a card of a few bytes can name millions


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


def file_of_config(repo: Repo, config: str) -> str:
    """The one file that a configuration of the data set's card names; an empty config is the only one, or `default`."""
    place = f"params.yaml: {SECTION}.config"
    card = read_card(repo.fetch([CARD])) if CARD in repo.files else {}
    listed = card.get("configs")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    configs = {str(entry.get("config_name", "default")): entry for entry in entries}
    if not configs:
        raise DataError(place, "the data set's card names no configurations", "set `file` to a path in the data set", got=config)
    name = config or (next(iter(configs)) if len(configs) == 1 else "default")
    if name not in configs:
        raise DataError(place, "the data set has no such configuration", f"it has {', '.join(configs)}", got=config)
    try:
        patterns = list(itertools.islice(_patterns(configs[name].get("data_files")), MAX_PATTERNS))
    except RecursionError:
        cause = "the configuration's files are nested without end"
        raise DataError(place, cause, "set `file` to a path in the data set", got=name) from None
    files = [path for path in repo.files if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]
    if len(files) != 1:
        raise DataError(place, "the configuration is not one file", "set `file` to one of them", got=", ".join(files or patterns) or "none")
    return files[0]


def _patterns(data_files: Any) -> Iterator[str]:
    """Every path or pattern under `data_files`, which a card may write as a text, a list of them, or a list of splits."""
    if isinstance(data_files, dict):
        yield from _patterns(data_files["path"] if "path" in data_files else list(data_files.values()))
    elif isinstance(data_files, list):
        for item in data_files:
            yield from _patterns(item)
    elif data_files:
        yield str(data_files)
