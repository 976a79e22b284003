"""ModelScope behind medcot's hub: a small client for its public HTTP API, of which listing, commits and files are all that is needed.

The variables are those of ModelScope's own SDK: `MODELSCOPE_ENDPOINT` (or the older `MODELSCOPE_DOMAIN`), `MODELSCOPE_API_TOKEN` and
`MODELSCOPE_CACHE`; so is the layout of the cache, with the commit as the snapshot's name. The SDK itself is not used: it looks for
cloud regions, retries for minutes and hides a refusal's status.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from medcot.errors import MachineError
from medcot.refusals import Place, check_status
from medcot.transfer import Link, RemoteFile, fetch, is_commit, read_token
from medcot.web import httpx

ENDPOINT = "https://modelscope.cn"
CACHE = "~/.cache/modelscope"
TIMEOUT = "10"  # seconds that the server may be silent, where `MODELSCOPE_API_TIMEOUT` says nothing
PAGE, PAGES = 200, 1000  # files of a data set in one answer, and answers to one listing


class ModelScope:
    """One repository on ModelScope."""

    default_revision = "master"

    def __init__(self, kind: str, repo: str, revision: str, section: str) -> None:
        address = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or ENDPOINT
        self.endpoint = (address if "://" in address else f"https://{address}").rstrip("/")
        token = read_token("MODELSCOPE_API_TOKEN")
        # Older routes know the cookie only, newer ones the header; httpx passes neither on to another host.
        self.headers = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
        self.place = Place("ModelScope", kind, repo, revision, section, "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", bool(token))
        seconds = os.environ.get("MODELSCOPE_API_TIMEOUT", TIMEOUT)
        self.timeout = float(seconds if re.fullmatch("[1-9][0-9]{0,5}", seconds) else TIMEOUT)
        cache = Path(os.environ.get("MODELSCOPE_CACHE") or CACHE).expanduser()
        self.folder = cache / f"{kind}s" / repo.replace("/", "--")

    def list_files(self) -> tuple[str, list[RemoteFile]]:
        """The commit that the revision names, and its files."""
        try:
            with httpx.Client() as client:
                commit = self._commit(client)
                entries = self._entries(client, commit)
            blobs = [entry for entry in entries if entry.get("Type") != "tree"]
            return commit, [RemoteFile(str(e["Path"]), int(e["Size"]), str(e.get("Sha256") or "")) for e in blobs]
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # what reading the answer of something else leads to
            raise self.place.no_hub(str(error)) from None

    def _commit(self, client: httpx.Client) -> str:
        """The newest commit of a branch or tag; a commit is itself."""
        if is_commit(self.place.revision):
            return self.place.revision
        data = self._get(client, "commits", Ref=self.place.revision, PageNumber=1, PageSize=1)
        commits = data.get("Commit") if isinstance(data, dict) else None
        if not commits:
            raise self.place.no_revision()
        return str(commits[0]["Id"])

    def _entries(self, client: httpx.Client, commit: str) -> list[dict[str, Any]]:
        """Every file and folder at a commit; data sets come page by page."""
        if self.place.kind == "model":
            return self._page(self._get(client, "repo/files", Revision=commit, Recursive=True))
        entries: list[dict[str, Any]] = []
        for number in range(1, PAGES + 1):
            page = self._page(self._get(client, "repo/tree", Revision=commit, Recursive=True, PageNumber=number, PageSize=PAGE))
            if not page or page[0] in entries:  # a mirror that knows no pages sends the first one for ever
                break
            entries += page
            if len(page) < PAGE:
                break
        return entries

    def _page(self, data: Any) -> list[dict[str, Any]]:
        files = data.get("Files") if isinstance(data, dict) else data
        if files is None:  # the hub's answer to a revision that it does not have
            raise self.place.no_revision()
        return list(files)

    def _get(self, client: httpx.Client, route: str, **params: Any) -> Any:
        """Ask one route of the repository and return the data of its answer."""
        place = self.place
        url = f"{self.endpoint}/api/v1/{place.kind}s/{place.repo}/{route}"
        response = client.get(url, params=params, headers=self.headers, timeout=self.timeout, follow_redirects=True)
        check_status(response.status_code, response.headers, place)
        try:
            body = response.json()
            if body.get("Code", 200) == 200:
                return body["Data"]
        except (ValueError, KeyError, AttributeError):
            raise place.no_hub(response.text[:80]) from None
        raise MachineError(str(place), "the hub refuses the request", f"check {place.endpoint}", got=body.get("Message"))

    def snapshot(self, commit: str) -> Path:
        """The directory of a commit's files in the cache."""
        return self.folder / "snapshots" / commit

    def cached(self, commit: str, path: str) -> RemoteFile:
        """A file in the cache; its name tells no hash."""
        return RemoteFile(path, (self.snapshot(commit) / path).stat().st_size)

    def target(self, commit: str, file: RemoteFile) -> Path:
        """Where a file's content goes."""
        return self.snapshot(commit) / file.path

    def discard(self, commit: str, path: str) -> None:
        """Take a damaged file out of the cache."""
        (self.snapshot(commit) / path).unlink(missing_ok=True)

    def fetch(self, commit: str, file: RemoteFile) -> None:
        """Bring one file into the cache, verified."""
        url = f"{self.endpoint}/api/v1/{self.place.kind}s/{self.place.repo}/repo"
        address = str(httpx.URL(url, params={"Revision": commit, "FilePath": file.path}))
        lock = self.folder / ".locks" / f"{commit}-{file.path.replace('/', '-')}.lock"
        with httpx.Client() as client:
            fetch(Link(client, address, self.headers, self.timeout), file, self.target(commit, file), lock, self.place)
