"""A repository on a hub, at one commit: which files it has, and those that are wanted brought into the hub's cache, verified.

The cache is the hub's own (`HF_HOME`, `MODELSCOPE_CACHE`), outside the repository and outside DVC: it is shared by all checkouts, and
an interrupted download goes on from there. Without network (`HF_HUB_OFFLINE=1`) what the cache holds of a commit is the repository.
"""

from __future__ import annotations

import difflib
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medcot import libraries
from medcot.errors import DataError, MachineError, one_line, printable
from medcot.huggingface import HuggingFace
from medcot.modelscope import ModelScope
from medcot.stage import atomic_file
from medcot.transfer import RemoteFile, is_commit, partial_of, persist, size_of
from medcot.web import httpx

Platform = Literal["huggingface", "modelscope"]
PLATFORMS: Mapping[str, type[HuggingFace] | type[ModelScope]] = {"huggingface": HuggingFace, "modelscope": ModelScope}
CARD = "README.md"
MAX_CARD = 1 << 20  # characters of it that are looked through for metadata
REPO_ID = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*(/\w[\w.-]*)?(?<![.-])")
MAX_REPO_ID = 96  # characters, as huggingface_hub has it
REVISION = re.compile(r"\w[\w.+-]*(/[\w+-][\w.+-]*)*")
log = logging.getLogger("medcot")


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository at a commit.

    files  by path: what the hub lists, or offline what the cache holds
    """

    hub: HuggingFace | ModelScope
    commit: str
    files: Mapping[str, RemoteFile]

    @property
    def directory(self) -> Path:
        """Where its files lie once they are fetched."""
        return self.hub.snapshot(self.commit)

    def fetch(self, paths: Iterable[str]) -> Path:
        """Bring files into the cache, except those that are there and whole, and return the commit's directory.

        Raises DataError for a path that is not listed, MachineError when the disk is too small, the hub cannot be reached, or sends
        something else than it lists.
        """
        wanted = [self.files.get(path) or self._no_such_file(path) for path in paths]
        missing = [file for file in wanted if not self._is_whole(file)]
        if missing and libraries.OFFLINE_ASKED:
            raise not_in_cache(self.hub)
        self._check_disk(sum(max(0, file.size - size_of(partial_of(self.hub.target(self.commit, file)))) for file in missing))
        with libraries.online():
            for file in missing:
                persist(lambda file=file: self.hub.fetch(self.commit, file), self.hub.place)  # type: ignore[misc]
        return self.directory

    def _no_such_file(self, path: str) -> RemoteFile:
        place = self.hub.place
        close = difflib.get_close_matches(path, self.files, n=1)
        data = [name for name in self.files if not name.startswith(".") and name != CARD]
        remedy = f"did you mean `{close[0]}`?" if close else f"it has {', '.join(data[:8]) or 'none'}"
        name = place.param("file") if place.kind == "dataset" else str(place)
        raise DataError(name, f"{place.repo} has no such file at {self.commit[:8]}", remedy, got=path)

    def _is_whole(self, file: RemoteFile) -> bool:
        """Whether the cache has the file; one that is damaged there is taken out."""
        if not (self.directory / file.path).exists():
            return False
        if not file.digest or file.is_file(self.directory / file.path):
            return True
        log.warning("%s: %s: the copy in the cache is damaged, and is fetched again", self.hub.place, file.path)
        self.hub.discard(self.commit, file.path)
        return False

    def _check_disk(self, size: int) -> None:
        folder = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if size > free:
            remedy = "free space, or set HF_HOME or MODELSCOPE_CACHE to a larger disk"
            raise MachineError(str(folder), f"the disk has no room for {size / 1e9:.1f} GB", remedy, got=f"{free / 1e9:.1f} GB free")


def open_repo(platform: str, kind: str, repo: str, revision: str, section: str) -> Repo:
    """Find a repository's commit and files; a branch or tag is resolved, with a warning, and another one when it has moved.

    kind      model | dataset
    revision  commit, branch or tag; empty = the main branch
    section   of params.yaml that the errors name
    Raises DataError for a name that no hub has, MachineError when the hub cannot be reached or does not grant access.
    """
    hub_class = PLATFORMS[platform]
    revision = revision or hub_class.default_revision
    if not REPO_ID.fullmatch(repo) or len(repo) > MAX_REPO_ID:
        raise DataError(f"params.yaml: {section}.repo", "expected the id of a repository", "write owner/name", got=repo)
    if not REVISION.fullmatch(revision):
        raise DataError(f"params.yaml: {section}.revision", "expected a commit, branch or tag", "copy it from the hub", got=revision)
    hub = hub_class(kind, repo, revision, section)
    if not re.match(r"https?://[^/]", hub.endpoint):
        raise MachineError(hub.place.endpoint, "expected the address of a hub", "write https://…, or unset it", got=hub.endpoint)
    if libraries.OFFLINE_ASKED:
        return _from_cache(hub)
    _check_connection(hub)
    with libraries.online():
        commit, files = persist(hub.list_files, hub.place)
    if not is_commit(commit):  # it names directories of the cache
        raise hub.place.no_hub(commit)
    if is_commit(revision) and commit != revision:
        raise MachineError(
            str(hub.place), f"the hub answers with another commit than {revision}", f"look at {hub.place.endpoint}", got=commit
        )
    if not is_commit(revision):
        _remember(hub, commit)
    return Repo(hub, commit, {file.path: file for file in files if _is_safe(file.path)})


def _check_connection(hub: HuggingFace | ModelScope) -> None:
    """Make one client before the first request: it reads proxies and certificates from the environment, and says nothing of which."""
    try:
        httpx.URL(hub.endpoint)
        httpx.Client().close()
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        names = f"{hub.place.endpoint}, HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE"
        remedy = f"check {names}; a SOCKS proxy needs `pip install socksio`"
        raise MachineError("environment", "no connection can be set up with these settings", remedy, got=str(error)) from None


def _is_safe(path: str) -> bool:
    """Whether a listed path stays below the directory that it is put into, and can be shown."""
    return not path.startswith("/") and ".." not in path.split("/") and "\\" not in path and path == printable(path)


def _remember(hub: HuggingFace | ModelScope, commit: str) -> None:
    """Note where a branch or tag stands now, as huggingface_hub does, and say so."""
    place, ref = hub.place, hub.folder / "refs" / hub.place.revision
    before = _last_seen(ref)
    if before not in ("", commit):
        log.warning("%s: `%s` has moved since it was last fetched here: %s, before %s", place, place.revision, commit, before)
    log.warning("%s: `%s` may move; to get this very state again set %s.revision: %s", place, place.revision, place.section, commit)
    if before != commit:
        with atomic_file(ref) as out:
            out.write_text(commit, encoding="utf-8")


def _last_seen(ref: Path) -> str:
    """The commit where a branch or tag stood when it was last fetched here; empty where no commit is noted."""
    commit = ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else ""
    return commit if is_commit(commit) else ""


def _from_cache(hub: HuggingFace | ModelScope) -> Repo:
    """What the cache holds of the revision, for a user who wants no network."""
    revision, ref = hub.place.revision, hub.folder / "refs" / hub.place.revision
    commit = revision if is_commit(revision) else _last_seen(ref)
    directory = hub.snapshot(commit)
    if not commit or not directory.is_dir():
        raise not_in_cache(hub)
    paths = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return Repo(hub, commit, {path: hub.cached(commit, path) for path in paths})


def not_in_cache(hub: HuggingFace | ModelScope) -> MachineError:
    """The error of a user who asked for no network and has not got the files."""
    variable = libraries.OFFLINE_ASKED
    cause = f"{variable} forbids fetching, and the cache {hub.folder} does not hold all of revision {hub.place.revision}"
    return MachineError(str(hub.place), cause, f"unset {variable} for one run, or copy that folder from a machine that has it")


def read_card(directory: Path) -> dict[str, Any]:
    """The metadata at the head of a repository's README; empty when there is none, or none that is YAML."""
    card = directory / CARD
    if not card.is_file():
        return {}
    with card.open(encoding="utf-8", errors="replace") as file:
        match = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", file.read(MAX_CARD), re.DOTALL)
    try:
        content = yaml.safe_load(match.group(1)) if match else {}
    except (yaml.YAMLError, ValueError, LookupError, RecursionError):
        log.warning("%s: the metadata at its head is no YAML and is ignored", card)
        return {}
    return content if isinstance(content, dict) else {}


def licence_of(card: Mapping[str, Any]) -> str:
    """The licence that a card names, or `unknown`."""
    value = card.get("license_name") if card.get("license") == "other" else card.get("license")
    return one_line(", ".join(map(str, value)) if isinstance(value, list) else str(value or card.get("license") or "unknown"))
