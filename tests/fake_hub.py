"""Hugging Face and ModelScope on loopback: their real protocols over HTTP, with faults on demand.

One server answers for the hub, a second one, another origin, for the storage that large files are redirected to, as both hubs have it.
A test adds repositories, injects faults and reads the log of what was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 256  # bytes from which a file is kept as LFS; the real hubs decide by its name
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
Revision = dict[str, bytes]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(ThreadingHTTPServer):
    """One of the two servers; a client that goes away is no news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@dataclass
class FakeRepo:
    """A repository: files by commit, commits by branch or tag."""

    commits: dict[str, Revision] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], *branches: str) -> str:
        """Add a commit with these files, move branches to it, and return its 40 hex digits."""
        content = json.dumps({path: sha256(data) for path, data in files.items()}, sort_keys=True)
        commit = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs |= dict.fromkeys(branches or ("main", "master"), commit)
        return commit


@dataclass
class Asked:
    """One request that arrived, and the bytes of body that left."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


class FakeHub:
    """The state of both servers.

    faults  by a pattern of the path: what happens instead of the answer, see Handler.misbehave; `times` counts down, -1 is for ever
    token   what the hub asks for; a wrong one is refused, none hides gated repositories
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], FakeRepo] = {}
        self.gated: set[str] = set()
        self.token = ""
        self.faults: list[dict[str, Any]] = []
        self.log: list[Asked] = []
        self.servers = [Server(("127.0.0.1", 0), self._handler(storage)) for storage in (False, True)]
        # Another host, not only another port: huggingface_hub 1 takes one host for one hub and follows its redirects.
        hosts = ("127.0.0.1", "localhost")
        self.url, self.storage_url = (f"http://{host}:{server.server_port}" for host, server in zip(hosts, self.servers, strict=True))

    def _handler(self, storage: bool) -> type[Handler]:
        return type("BoundHandler", (Handler,), {"hub": self, "storage": storage})

    def add(self, kind: str, name: str, files: Mapping[str, bytes]) -> str:
        """Add a commit to the main branch of a repository; kind is dataset or model."""
        return self.repos.setdefault((kind, name), FakeRepo()).commit(files)

    def inject(self, fault: str, pattern: str = "/", times: int = -1, **values: Any) -> None:
        """Answer requests whose path has the pattern with a fault, so many times."""
        self.faults.append({"fault": fault, "pattern": pattern, "times": times, **values})

    def heal(self) -> None:
        """End all faults and forget the log."""
        self.faults.clear()
        self.log.clear()

    def sent(self, pattern: str = "") -> int:
        """Bytes of bodies that left on paths with the pattern."""
        return sum(asked.sent for asked in self.log if pattern in asked.path)

    def environment(self, home: Any) -> dict[str, str]:
        """The variables that lead both clients here, with fresh caches under `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MODELSCOPE_ENDPOINT": self.url,
            "MODELSCOPE_CACHE": str(home / "ms"),
        }


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running fake hub."""
    hub = FakeHub()
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True) for server in hub.servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(hub.servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub
    storage: bool

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.asked = Asked(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        self.hub.log.append(self.asked)
        meant = (f for f in self.hub.faults if f["times"] and f.get("method", self.command) == self.command)
        fault = next((f for f in meant if re.search(f["pattern"], unquote(self.path))), None)
        if fault:
            fault["times"] -= 1
            if self.misbehave(fault):
                return
        self.fault = fault or {}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if self.storage:
            self.send_content(self.find_object(parts[-1]))
        elif parts[:2] == ["api", "v1"]:
            self.modelscope(parts[2].removesuffix("s"), "/".join(parts[3:5]), "/".join(parts[5:]))
        elif parts[0] == "api" and parts[4:5] == ["tree"]:
            self.tree(parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[5])
        elif parts[0] == "api":
            self.info(parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        else:
            kind = "dataset" if parts[0] == "datasets" else "model"
            parts = parts[1:] if kind == "dataset" else parts
            self.resolve(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    # ---- faults

    def misbehave(self, fault: dict[str, Any]) -> bool:
        """Do what a fault says; whether that was the whole answer. Those of the body wait until there is one."""
        match fault["fault"]:
            case "status":
                self.reply(fault["status"], b"{}", **fault.get("headers", {}))
            case "circle":
                self.reply(302, b"", Location=self.path)
            case "elsewhere":
                self.reply(302, b"", Location=fault["address"])
            case "html":
                self.reply(200, HTML, content_type="text/html")
            case "silence":
                threading.Event().wait(fault["seconds"])
                self.close_connection = True
            case _:
                return False
        return True

    def spoil(self, body: bytes) -> bytes:
        """What a fault makes of a body that is sent whole."""
        match self.fault.get("fault"):
            case "pointer":
                return POINTER
            case "page":
                return HTML
            case "flip":  # one bit in the middle
                return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
            case "shorter":  # and said to be whole, as by a proxy
                return body[: len(body) // 3]
        return body

    # ---- answers

    def reply(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.write(body)

    def write(self, body: bytes) -> None:
        self.wfile.write(body)
        self.asked.sent += len(body)

    def json(self, content: Any) -> None:
        self.reply(200, json.dumps(content).encode())

    def refuse(self, status: int, code: str, message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        self.reply(status, json.dumps({"error": message}).encode(), **headers, X_Error_Message=message)

    def send_content(self, body: bytes, **headers: str) -> None:
        """Send a file, or the range of it that is asked for, broken off where a fault wants it."""
        start = int(match.group(1)) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        start = 0 if self.fault.get("fault") in ("no_ranges", "restless") else start
        total, body = len(body), self.spoil(body)[start:]
        self.send_response(206 if start else 200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault.get("fault") == "restless":
            self.write(body[: len(body) // 2 + sum("/objects/" in asked.path for asked in self.hub.log) % 2])
            self.close_connection = True
        elif self.fault.get("fault") in ("truncate", "reset", "stall"):
            self.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            if self.fault["fault"] == "stall":
                time.sleep(self.fault["seconds"])
            if self.fault["fault"] == "reset":  # closing with linger 0 sends RST instead of FIN
                time.sleep(0.02)  # what was sent before arrives
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        else:
            self.write(body)

    # ---- Hugging Face

    def find(self, kind: str, name: str, revision: str) -> tuple[str, Revision] | None:
        """The commit and files of a revision, or None after a refusal was sent, as the hub words it."""
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.hub.repos.get((kind, name))
        if sent and sent != self.hub.token:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None:
            self.refuse(404 if sent else 401, "RepoNotFound", "Repository not found")
        elif name in self.hub.gated and sent != "granted":
            self.refuse(403 if sent else 401, "GatedRepo", "Access to this repository is restricted")
        elif (commit := repo.refs.get(revision, revision)) not in repo.commits:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return commit, repo.commits[commit]
        return None

    def info(self, kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        commit, files = found
        siblings = []
        for path, body in sorted(files.items()):
            entry: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": git_sha1(body)}
            siblings.append(
                entry | ({"lfs": {"size": len(body), "sha256": sha256(body), "pointerSize": 130}} if len(body) >= LARGE else {})
            )
        self.json({"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str) -> None:
        """The listing that the client's snapshot_download goes by."""
        if (found := self.find(kind, name, revision)) is None:
            return
        entries = [{"type": "file", "path": path, "size": len(body), "oid": git_sha1(body)} for path, body in sorted(found[1].items())]
        for entry, (_, body) in zip(entries, sorted(found[1].items()), strict=True):
            if len(body) >= LARGE:
                entry["lfs"] = {"size": len(body), "oid": sha256(body), "pointerSize": 130}
        self.json(entries)

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        commit, files = found
        body = files.get(path)
        if body is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif len(body) < LARGE:
            self.send_content(body, X_Repo_Commit=commit, ETag=f'"{git_sha1(body)}"')
        else:
            linked = {"X_Linked_ETag": f'"{sha256(body)}"', "X_Linked_Size": str(len(body))}
            self.reply(302, b"", Location=f"{self.hub.storage_url}/objects/{sha256(body)}", X_Repo_Commit=commit, **linked)

    def find_object(self, oid: str) -> bytes:
        contents = (body for repo in self.hub.repos.values() for files in repo.commits.values() for body in files.values())
        return next(body for body in contents if sha256(body) == oid)

    # ---- ModelScope

    def modelscope(self, kind: str, name: str, route: str) -> None:
        repo = self.hub.repos.get((kind, name))
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent and sent != self.hub.token:
            self.reply(401, b'{"Code": 401, "Message": "token is invalid", "Success": false}')
        elif repo is None:
            self.reply(404, b'{"Code": 10010205001, "Message": "the repository does not exist", "Success": false}')
        elif route == "commits":
            commit = repo.refs.get(self.query["Ref"])
            self.envelope({"Commit": [{"Id": commit, "ShortId": commit[:8]}] if commit else []})
        elif route in ("repo/files", "repo/tree"):
            self.envelope({"Files": self.listing(repo.commits.get(self.query["Revision"]))})
        else:
            body = repo.commits[self.query["Revision"]][self.query["FilePath"]]
            if len(body) < LARGE:
                self.send_content(body)
            else:
                self.reply(302, b"", Location=f"{self.hub.storage_url}/objects/{sha256(body)}")

    def listing(self, files: Revision | None) -> list[dict[str, Any]] | None:
        if files is None:
            return None
        folders = sorted({path.rsplit("/", 1)[0] for path in files if "/" in path})
        entries: list[dict[str, Any]] = [{"Path": folder, "Type": "tree", "Size": 0} for folder in folders]
        entries += [{"Path": path, "Type": "blob", "Size": len(body), "Sha256": sha256(body)} for path, body in sorted(files.items())]
        number, size = int(self.query.get("PageNumber", 1)), int(self.query.get("PageSize", len(entries) or 1))
        return entries[(number - 1) * size : number * size]

    def envelope(self, data: Any) -> None:
        self.json({"Code": 200, "Success": True, "Message": "success", "Data": data})
