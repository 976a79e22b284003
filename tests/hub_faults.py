"""What can go wrong between a hub and stage download, and what must happen: for tests/test_hub.py and benchmarks/hub.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_hub import FakeHub

REPO = "medic/o1-sft"
FILE = "zh/病例.json"
ROWS = [{"Question": f"病例 {i}：胸痛 {i} 天？", "Complex_CoT": f"Step {i}. 先想。", "Response": f"答案 {i}"} for i in range(40)]
BODY = json.dumps(ROWS, ensure_ascii=False).encode()
CARD = b"""---
license: apache-2.0
configs:
- config_name: zh
  data_files:
  - split: train
    path: zh/*.json
- config_name: en
  data_files: en.json
---
# Data
"""
FILES = {FILE: BODY, "en.json": b'[{"Question": "q", "Complex_CoT": "c", "Response": "r"}]', "README.md": CARD}
STORAGE, API = "/objects/", "/api/"


@dataclass(frozen=True)
class Fault:
    """One fault.

    code, says   exit code, and a part of the one line on stderr (of the log where the code is 0)
    params       over those of a download that works
    environment  over the variables that lead to the fake hub; {platform} names are filled in
    inject       what the fake hub does: fault, pattern of the path, further values
    only         the platform that knows such a thing, else both
    """

    name: str
    code: int
    says: str
    params: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    inject: tuple[Mapping[str, Any], ...] = ()
    gated: bool = False
    only: str = ""


def _at(fault: str, pattern: str = STORAGE, **values: Any) -> tuple[Mapping[str, Any], ...]:
    return ({"fault": fault, "pattern": pattern, **values},)


FAULTS = [
    Fault("none", 0, "40 rows read, 40 kept"),
    Fault(
        "repository that does not exist",
        2,
        "has no such data set, or does not show it, got medic/none; check the name",
        {"repo": "medic/none"},
    ),
    Fault(
        "id that is none",
        2,
        "params.yaml: download.hub.repo: expected the id of a repository, got ../x; write owner/name",
        {"repo": "../x"},
    ),
    Fault(
        "branch that does not exist", 2, "download.hub.revision: medic/o1-sft has no such revision, got dev; give a", {"revision": "dev"}
    ),
    Fault("commit that does not exist", 2, "medic/o1-sft has no such revision, got 0000", {"revision": "0" * 40}),
    Fault("id that is too long", 2, "params.yaml: download.hub.repo: expected the id of a repository, got a/b", {"repo": "a/" + "b" * 96}),
    Fault("revision that is none", 2, "download.hub.revision: expected a commit, branch or tag, got a..b/../c;", {"revision": "a..b/../c"}),
    Fault("file that does not exist", 2, "got zh/病例.jsn; did you mean `zh/病例.json`?", {"file": "zh/病例.jsn"}),
    Fault("configuration that does not exist", 2, "no such configuration, got fr; it has zh, en", {"file": "", "config": "fr"}),
    Fault("another sha256 than the pin", 2, "has another sha256 than the pinned one, got ", {"sha256": "0" * 64}),
    Fault("another number of rows", 2, "download.hub.num_rows: expected 41 rows, got 40; correct it", {"num_rows": 41}),
    Fault("gated, no token", 3, "the data set is gated, and access is not granted; accept its conditions", gated=True, only="huggingface"),
    Fault(
        "gated, token without access",
        3,
        "is gated, and access is not granted; its page",
        environment={"token": "good"},
        gated=True,
        only="huggingface",
    ),
    Fault("token that is wrong", 3, "the hub does not accept the token in ", environment={"token": "hf_bad"}),
    Fault("token that no request can carry", 3, ": not an access token; copy it again", environment={"token": "hf_bad 密码"}),
    Fault("token with the line break of its file", 0, "40 rows read", environment={"token": "good\n"}),
    Fault("forbidden", 3, "access is forbidden (403); set ", inject=_at("status", API, status=403)),
    Fault(
        "too many requests",
        3,
        "asks for fewer requests (429); wait 37 s",
        inject=_at("status", API, status=429, headers={"Retry-After": "37"}),
    ),
    Fault("too many requests for files", 3, "fewer requests (429); wait some minutes", inject=_at("status", STORAGE, status=429)),
    Fault("server fails", 3, "the hub fails (503); try again later, or set ", inject=_at("status", "/", status=503)),
    Fault("server fails once", 0, "40 rows read", inject=_at("status", API, status=502, times=1)),
    Fault("storage fails once", 0, "40 rows read", inject=_at("status", STORAGE, status=500, times=1)),
    Fault("silence", 3, "no answer from 127.0.0.1 in time; check the network, or set ", inject=_at("silence", API, seconds=2.5)),
    Fault("nobody listens", 3, "no connection to 127.0.0.1, got ", environment={"endpoint": "http://127.0.0.1:9"}),
    Fault(
        "name that DNS does not know", 3, "the name hub.invalid cannot be resolved (DNS)", environment={"endpoint": "http://hub.invalid"}
    ),
    Fault("address that is none", 3, "expected the address of a hub, got ftp://mirror;", environment={"endpoint": "ftp://mirror"}),
    Fault(
        "address with a port that is none",
        3,
        "environment: no connection can be set up with these settings, got ",
        environment={"endpoint": "http://127.0.0.1:x"},
    ),
    Fault(
        "proxy that nobody answers at",
        3,
        "no connection to the proxy on the way to hub.invalid, got [Errno 111]",
        environment={"endpoint": "http://hub.invalid", "http_proxy": "http://127.0.0.1:9"},
        only="modelscope",  # huggingface_hub keeps the client that its process made first
    ),
    Fault("proxy of a kind that is not there", 3, "no connection can be set up with", environment={"ALL_PROXY": "gopher://127.0.0.1:9"}),
    Fault("certificates that are not there", 3, "environment: no connection can be set up", environment={"SSL_CERT_FILE": "nowhere.pem"}),
    Fault("redirected to a file", 3, "unsupported protocol 'file://'", inject=_at("elsewhere", API, address="file:///etc/passwd")),
    Fault("redirected in circles", 3, "the answer is not that of a hub, got Exceeded", inject=_at("circle", API)),
    Fault(
        "listed, and not in the storage", 3, "the hub lists the file and has not got it (404)", inject=_at("status", STORAGE, status=404)
    ),
    Fault("asked for headers alone, the hub fails", 0, "40 rows read", inject=_at("status", "/", status=503, method="HEAD")),
    Fault("offline", 3, "HF_HUB_OFFLINE forbids fetching, and the cache ", environment={"HF_HUB_OFFLINE": "1"}),
    Fault("web page instead of the hub", 3, "the answer is not that of a hub", inject=_at("html", API)),
    Fault(
        "web page instead of the file", 3, "zh/病例.json: a web page came instead of the file; look for a login page", inject=_at("page")
    ),
    Fault("Git LFS pointer instead of the file", 3, "a Git LFS pointer came instead of the file", inject=_at("pointer")),
    Fault("a bit flipped", 3, "the file that came has another hash than the hub lists (", inject=_at("flip")),
    Fault("shorter, and said to be whole", 3, f"the file should be {len(BODY)} bytes long, got {len(BODY) // 3};", inject=_at("shorter")),
    Fault("cut off once", 0, "40 rows read", inject=_at("truncate", times=1)),
    Fault("reset once", 0, "40 rows read", inject=_at("reset", times=1)),
    Fault("cut off at another place each time, without ranges", 3, "broke off; run again", inject=_at("restless")),
    Fault("silent in the middle, once", 0, "40 rows read", inject=_at("stall", seconds=1.5, times=1)),
    Fault("reset again and again", 3, "broke off; run again: it goes on where it stopped", inject=_at("reset")),
    Fault("disk too small", 3, "the disk has no room for ", environment={"disk": "1"}),
]


def environment(fault: Fault, hub: FakeHub, platform: str, home: Path) -> dict[str, str]:
    """The variables of a run: to the fake hub, with what the fault changes, under the platform's own names."""
    names = {"huggingface": ("HF_ENDPOINT", "HF_TOKEN"), "modelscope": ("MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN")}
    short = dict(zip(("endpoint", "token"), names[platform], strict=True))
    changed = {short.get(key, key): value for key, value in fault.environment.items() if key != "disk"}
    return {**hub.environment(home), **changed}


def prepare(fault: Fault, hub: FakeHub) -> str:
    """Put the repository there, inject the fault, and return the commit."""
    hub.heal()
    hub.repos.clear()
    hub.token, hub.gated = "good", {REPO} if fault.gated else set()
    commit = hub.add("dataset", REPO, FILES)
    for values in fault.inject:
        hub.inject(**values)
    return commit


def hub_params(platform: str, commit: str, **changed: Any) -> dict[str, Any]:
    """Section download.hub for the file."""
    return {"platform": platform, "repo": REPO, "file": FILE, "revision": commit, "sha256": "", "num_rows": 40, **changed}
