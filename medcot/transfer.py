"""Bring a file over HTTP: resumed where it broke off, verified before it counts, and every failure in one plain sentence.

What has arrived waits beside the target as `<name>.incomplete`, across runs; it takes the target's name only when size and hash are
those that the hub lists. huggingface_hub 2 resumes within one call alone and compares no hash, so both hubs come through here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from tqdm import tqdm

from medcot.errors import MachineError
from medcot.refusals import BusyError, Place, check_status, unreachable
from medcot.web import httpx

TRIES = 4  # without a new byte in between
PAUSE = 1.0  # seconds more before each further try; the second comes at once
COMMIT = re.compile("[0-9a-f]{40}")
HASHES = {"sha256": re.compile("([0-9a-f]{64})?"), "blob_id": re.compile("([0-9a-f]{40}|[0-9a-f]{64})?")}
log = logging.getLogger("medcot")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a hub lists it.

    path     in the repository
    size     bytes
    sha256   of its content; empty for a small file that Hugging Face keeps in git, where only blob_id is known
    blob_id  git's sha1 of the file
    """

    path: str
    size: int
    sha256: str = ""
    blob_id: str = ""

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 0:
            raise ValueError(f"{self.path} is listed with size {self.size}")
        for name, pattern in HASHES.items():  # the cache's file names are made of them
            if not pattern.fullmatch(getattr(self, name)):
                raise ValueError(f"{self.path} is listed with {name} {getattr(self, name)}")

    @property
    def digest(self) -> str:
        """The hash that is checked, which names the file in Hugging Face's cache too."""
        return self.sha256 or self.blob_id

    def is_file(self, path: Path) -> bool:
        """Whether a local file has the listed hash."""
        return path.is_file() and digest_of(path, len(self.digest)) == self.digest


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes, and not a branch or tag, which may move."""
    return COMMIT.fullmatch(revision) is not None


def read_token(variable: str) -> str:
    """The access token in the environment, without the line break that a file has left at its end; empty where there is none.

    Raises MachineError for a text that no request can carry; the text itself is never shown.
    """
    token = os.environ.get(variable, "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise MachineError(f"environment: {variable}", "not an access token", "copy it again from the hub's settings, or unset it")
    return token


def partial_of(target: Path) -> Path:
    """Where what has arrived of a file waits."""
    return target.with_name(f"{target.name}.incomplete")


def digest_of(path: Path, length: int) -> str:
    """The sha256 of a file (length 64) or git's sha1 of it (40), in hex; empty for another length."""
    if length not in (40, 64):
        return ""
    start = hashlib.sha256() if length == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: start).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """How a file is asked for: client, address, headers (a token among them), and the seconds that the server may be silent."""

    client: httpx.Client
    url: str
    headers: dict[str, str]
    timeout: float


def fetch(link: Link, file: RemoteFile, target: Path, lock: Path, place: Place) -> None:
    """Download a listed file to `target`, going on from an earlier try's bytes; one process at a time, by the lock's file.

    Raises MachineError when the hub cannot be reached or sends something else, DataError when it has no such file.
    """
    for path in (target, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target)
    with FileLock(lock):
        if file.is_file(target):
            return
        partial.touch()
        if have := size_of(partial):
            log.info("%s: %s: going on after %d of %d bytes", place, file.path, have, file.size)
        with tqdm(total=file.size, desc=Path(file.path).name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            try:
                persist(lambda: _receive(link, file, partial, place, bar), place, partial)
            except OSError as error:  # a disk that is full in the middle names no file
                error.filename = error.filename or str(partial)
                raise
        _verify(file, partial, place)
        partial.replace(target)


def persist(call: Callable[[], T], place: Place, partial: Path | None = None) -> T:
    """Try a call until it succeeds, or fails TRIES times without a new byte; only what may pass by itself is tried again."""
    failures, most = 0, size_of(partial)
    while True:
        try:
            return call()
        except (httpx.RequestError, BusyError) as error:
            # A server without ranges begins again each time: only more than there ever was is progress.
            stuck, most = size_of(partial) <= most, max(most, size_of(partial))
            failures = failures + 1 if stuck else 1
            if failures == TRIES or (stuck and isinstance(error, (httpx.ConnectError, httpx.TimeoutException))):
                raise (error.refusal if isinstance(error, BusyError) else unreachable(error, place)) from None
            time.sleep(PAUSE * (failures - 1))


def size_of(path: Path | None) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path and path.exists() else 0


def _receive(link: Link, file: RemoteFile, partial: Path, place: Place, bar: tqdm[Any]) -> None:
    """Append what is missing to the partial file."""
    have = size_of(partial)
    if have >= file.size:
        return
    headers = {**link.headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with link.client.stream("GET", link.url, headers=headers, timeout=link.timeout, follow_redirects=True) as response:
        check_status(response.status_code, response.headers, place, file.path)
        start = have if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
        with partial.open("r+b") as out:
            out.truncate(start)  # a server that knows no ranges sends the file from its beginning
            out.seek(start)
            bar.n = start
            for chunk in response.iter_bytes():  # as they come: what is gathered first would be lost when the connection breaks
                out.write(chunk)
                bar.update(len(chunk))
                if out.tell() > file.size:
                    break  # not the listed file, and nothing that may fill the disk


def _verify(file: RemoteFile, partial: Path, place: Place) -> None:
    """Compare size and hash with the hub's listing; what is something else is deleted, so that nothing is built upon it."""
    size, mirror = partial.stat().st_size, f"run again; if it stays so, set {place.endpoint} to another address of the hub"
    if size == file.size and file.is_file(partial):
        return
    with partial.open("rb") as head:
        start = head.read(1000).lstrip().lower()
    partial.unlink()
    name = f"{place}: {file.path}"
    if start.startswith(b"version https://git-lfs"):
        raise MachineError(name, "a Git LFS pointer came instead of the file", mirror)
    if start.startswith((b"<!doctype", b"<html")):
        remedy = f"look for a login page or proxy in between, and at {place.endpoint}"
        raise MachineError(name, "a web page came instead of the file", remedy)
    if size != file.size:
        raise MachineError(name, f"the file should be {file.size} bytes long", mirror, got=size)
    raise MachineError(name, f"the file that came has another hash than the hub lists ({file.digest})", mirror)
