"""Hugging Face behind medcot's hub: listing by its own client, files into its own cache, hashes compared.

Address, token and cache are huggingface_hub's: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` or `HF_HUB_CACHE`. A token that was stored by a
login is not sent: what a run uses is named by its environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoSibling

from medcot.errors import MachineError
from medcot.refusals import Place, check_status
from medcot.transfer import Link, RemoteFile, fetch
from medcot.web import httpx


class HuggingFace:
    """One repository on Hugging Face, or on a mirror of it."""

    default_revision = "main"

    def __init__(self, kind: str, repo: str, revision: str, section: str) -> None:
        self.token = os.environ.get("HF_TOKEN") or False
        self.endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        self.place = Place("Hugging Face", kind, repo, revision, section, "HF_ENDPOINT", "HF_TOKEN", bool(self.token))
        self.folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)

    def list_files(self) -> tuple[str, list[RemoteFile]]:
        """The commit that the revision names, and its files."""
        place = self.place
        with _plain_words(place):
            api = HfApi(endpoint=self.endpoint, token=self.token)
            look_up = api.dataset_info if place.kind == "dataset" else api.model_info
            info = look_up(place.repo, revision=place.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            return str(info.sha), [_remote_file(sibling) for sibling in info.siblings or []]

    def snapshot(self, commit: str) -> Path:
        """The directory of a commit's files in the cache."""
        return self.folder / "snapshots" / commit

    def cached(self, commit: str, path: str) -> RemoteFile:
        """A file in the cache, with the hash after which huggingface_hub has named its content."""
        file = (self.snapshot(commit) / path).resolve()
        return RemoteFile(path, file.stat().st_size, blob_id=file.name if file.parent.name == "blobs" else "")

    def discard(self, commit: str, path: str) -> None:
        """Take a damaged file out of the cache, content and pointer."""
        pointer = self.snapshot(commit) / path
        pointer.resolve().unlink(missing_ok=True)
        pointer.unlink(missing_ok=True)

    def fetch(self, commit: str, file: RemoteFile) -> None:
        """Bring one file into the cache: its content verified by us, its pointer set by huggingface_hub, which then downloads nothing."""
        place, blob = self.place, self.folder / "blobs" / file.digest
        url = hf_hub_url(place.repo, file.path, repo_type=place.kind, revision=commit, endpoint=self.endpoint)
        link = Link(get_session(), url, {"Authorization": f"Bearer {self.token}"} if self.token else {}, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        fetch(link, file, blob, self.folder.parent / ".locks" / self.folder.name / f"{file.digest}.lock", place)
        with _plain_words(place, file.path):
            pointer = hf_hub_download(
                place.repo,
                file.path,
                repo_type=place.kind,
                revision=commit,
                cache_dir=self.folder.parent,
                endpoint=self.endpoint,
                token=self.token,
            )
        # A mirror may name the content otherwise than its listing does; then the client has fetched it anew, and compared no hash.
        if Path(pointer).resolve() != blob.resolve() and not file.is_file(Path(pointer)):
            self.discard(commit, file.path)
            remedy = f"set {place.endpoint} to another mirror"
            raise MachineError(f"{place}: {file.path}", "the hub lists one hash and sends another file", remedy)


def _remote_file(sibling: RepoSibling) -> RemoteFile:
    if sibling.lfs:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sha256=sibling.lfs.sha256)
    if sibling.size is None or sibling.blob_id is None:
        raise ValueError(f"{sibling.rfilename} is listed without size and hash")
    return RemoteFile(sibling.rfilename, sibling.size, blob_id=sibling.blob_id)


@contextmanager
def _plain_words(place: Place, path: str = "") -> Iterator[None]:
    """Turn the client's errors into ours; failures of the transport pass, since they may be tried again."""
    try:
        yield
    except LocalEntryNotFoundError as error:  # the client hides what happened behind this one
        cause = error.__cause__
        if isinstance(cause, httpx.TransportError):
            raise cause from None
        if isinstance(cause, HfHubHTTPError):
            check_status(cause.response.status_code, cause.response.headers, place, path)
        raise place.no_hub(_first_line(cause or error)) from None
    except HfHubHTTPError as error:
        check_status(error.response.status_code, error.response.headers, place, path)
        raise place.no_hub(_first_line(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # what parsing the answer of something else leads to
        raise place.no_hub(_first_line(error)) from None


def _first_line(error: BaseException) -> str | None:
    return next(iter(str(error).splitlines()), None)
