"""Hugging Face behind medcot's hub: listing by its own client, files into its own cache, hashes compared.

Address, token and cache are huggingface_hub's: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` or `HF_HUB_CACHE`. A token that was stored by a
login is not sent: what a run uses is named by its environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name
from huggingface_hub.hf_api import RepoSibling

from medcot.refusals import Place, check_status
from medcot.stage import atomic_file
from medcot.transfer import HASHES, Link, RemoteFile, fetch, read_token


class HuggingFace:
    """One repository on Hugging Face, or on a mirror of it."""

    default_revision = "main"

    def __init__(self, kind: str, repo: str, revision: str, section: str) -> None:
        self.token = read_token("HF_TOKEN") or False
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
        """A file in the cache, with the hash after which huggingface_hub has named its content; some mirrors have names that are none."""
        file = (self.snapshot(commit) / path).resolve()
        named = file.parent.name == "blobs" and HASHES["blob_id"].fullmatch(file.name)
        return RemoteFile(path, file.stat().st_size, blob_id=file.name if named else "")

    def discard(self, commit: str, path: str) -> None:
        """Take a damaged file out of the cache, content and pointer; what a link of the user's leads to elsewhere is not the cache's."""
        pointer = self.snapshot(commit) / path
        if pointer.resolve().parent == (self.folder / "blobs").resolve():
            pointer.resolve().unlink(missing_ok=True)
        pointer.unlink(missing_ok=True)

    def target(self, commit: str, file: RemoteFile) -> Path:
        """Where a file's content goes; the commit's directory holds links to it."""
        return self.folder / "blobs" / file.digest

    def fetch(self, commit: str, file: RemoteFile) -> None:
        """Bring one file into the cache, verified, laid out as huggingface_hub does, which finds it there without asking the hub.

        The client's own download asks for each file once more, waits minutes when that fails, and takes what comes without a hash.
        """
        place, blob = self.place, self.target(commit, file)
        url = hf_hub_url(place.repo, file.path, repo_type=place.kind, revision=commit, endpoint=self.endpoint)
        link = Link(get_session(), url, {"Authorization": f"Bearer {self.token}"} if self.token else {}, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        fetch(link, file, blob, self.folder.parent / ".locks" / self.folder.name / f"{file.digest}.lock", place)
        pointer = self.snapshot(commit) / file.path
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not are_symlinks_supported(self.folder):
            blob.replace(pointer)
            return
        with atomic_file(pointer) as out:
            out.unlink(missing_ok=True)  # of a run that was killed here
            out.symlink_to(os.path.relpath(blob, pointer.parent))


def _remote_file(sibling: RepoSibling) -> RemoteFile:
    if sibling.lfs and sibling.lfs.sha256:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sha256=sibling.lfs.sha256)
    if sibling.size is None or sibling.blob_id is None:
        raise ValueError(f"{sibling.rfilename} is listed without size and hash")
    return RemoteFile(sibling.rfilename, sibling.size, blob_id=sibling.blob_id)


@contextmanager
def _plain_words(place: Place) -> Iterator[None]:
    """Turn the client's errors into ours; failures of the transport pass, since they may be tried again."""
    try:
        yield
    except HfHubHTTPError as error:
        check_status(error.response.status_code, error.response.headers, place)
        raise place.no_hub(_first_line(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # what parsing the answer of something else leads to
        raise place.no_hub(_first_line(error)) from None


def _first_line(error: BaseException) -> str | None:
    return next(iter(str(error).splitlines()), None)
