"""Hubs over HTTP: data files by commit, verified and resumed, and every fault as one line with its exit code."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_hub import FakeHub, Handler, fake_hub, git_sha1, sha256
from hub_faults import BODY, CARD, FAULTS, FILE, FILES, REPO, STORAGE, Fault, environment, hub_params, prepare
from huggingface_hub import constants, hf_hub_download, snapshot_download
from stage_project import make_project

from medcot import huggingface, libraries, modelscope, transfer
from medcot.errors import DataError, MachineError, MedcotError
from medcot.hub import licence_of, open_repo, read_card
from medcot.hub_data import fetch_data_file
from medcot.hub_params import HubParams
from medcot.huggingface import HuggingFace
from medcot.libraries import online
from medcot.modelscope import ModelScope
from medcot.stage import run_stage
from medcot.transfer import RemoteFile, digest_of, is_commit
from stages import download

PLATFORMS = ["huggingface", "modelscope"]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


class Machine(NamedTuple):
    """A machine with its own caches before a fake hub, and the stage run on it."""

    hub: FakeHub
    home: Path
    run: Callable[..., tuple[int, str]]


@pytest.fixture
def machine(server: FakeHub, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    def run(params: dict[str, Any], variables: dict[str, str]) -> tuple[int, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        # What huggingface_hub, and we, read once at import.
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path(variables["HF_HOME"]) / "hub"))
        monkeypatch.setattr(libraries, "OFFLINE_ASKED", "HF_HUB_OFFLINE" if variables["HF_HUB_OFFLINE"] == "1" else "")
        make_project(in_tmp, "", download={"source": "hub", "file": "", "hub": params})
        logging.getLogger("medcot").handlers.clear()
        code = run_stage("download", download.main)
        return code, capsys.readouterr().err

    monkeypatch.setattr(transfer, "PAUSE", 0)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setenv("MODELSCOPE_API_TIMEOUT", "1")
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    return Machine(server, in_tmp / "家 home", run)


def cases() -> Iterator[Any]:
    for fault in FAULTS:
        for platform in [fault.only] if fault.only else PLATFORMS:
            yield pytest.param(fault, platform, id=f"{platform}-{fault.name.replace(' ', '-')}")


@pytest.mark.parametrize(("fault", "platform"), cases())
def test_every_fault_ends_as_it_must_and_leaves_nothing_half_done(
    machine: Machine, fault: Fault, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "DNS" in fault.name:
        monkeypatch.setattr(socket, "getaddrinfo", _no_dns)
    if "disk" in fault.environment:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    commit = prepare(fault, machine.hub)
    code, stderr = machine.run(hub_params(platform, commit, **fault.params), environment(fault, machine.hub, platform, machine.home))
    lines = stderr.splitlines()
    assert (code, "Traceback" in stderr) == (fault.code, False), stderr
    assert fault.says in (lines[-1] if fault.code else stderr)
    assert len([line for line in lines if line.startswith("error: ")]) == (1 if fault.code else 0)
    assert (Path("data/raw").exists(), Path("metrics/download.json").exists()) == (code == 0, code == 0)
    assert "hf_bad" not in stderr
    whole = [path for path in machine.home.rglob("*") if path.is_file() and path.read_bytes() == BODY]
    kept = [path.name for path in machine.home.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size > 200]
    assert bool(whole) or not [name for name in kept if not name.endswith(".incomplete")], "what did not arrive whole is not in the cache"


def _no_dns(host: str, *args: Any, **kwargs: Any) -> Any:
    raise socket.gaierror(-2, "Name or service not known")


NONE = FAULTS[0]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_broken_download_goes_on_where_it_stopped(machine: Machine, platform: str) -> None:
    commit = prepare(NONE, machine.hub)
    variables, params = environment(NONE, machine.hub, platform, machine.home), hub_params(platform, commit)
    machine.hub.inject("reset", STORAGE, times=1)
    machine.hub.inject("status", STORAGE, times=transfer.TRIES, status=503)
    assert machine.run(params, variables)[0] == 3
    first = machine.hub.sent(STORAGE)
    assert first >= len(BODY) // 2
    machine.hub.heal()
    code, stderr = machine.run(params, variables)
    (partial,) = [int(word) for word in stderr.split("going on after ")[1].split(" of ")[:1]]
    assert code == 0
    assert 0 < partial <= len(BODY) // 2
    assert machine.hub.sent(STORAGE) == len(BODY) - partial
    (asked,) = [asked for asked in machine.hub.log if STORAGE in asked.path]
    assert asked.headers["range"] == f"bytes={partial}-"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_second_run_of_a_pinned_file_asks_the_hub_for_nothing_even_offline(machine: Machine, platform: str) -> None:
    commit = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, platform, machine.home)
    assert machine.run(hub_params(platform, commit), variables)[0] == 0
    first = Path("metrics/download.json").read_bytes(), Path("data/raw/records.jsonl").read_bytes()
    machine.hub.heal()
    assert machine.run(hub_params(platform, commit, sha256=sha256(BODY)), variables)[0] == 0
    assert machine.run(hub_params(platform, commit), variables | {"HF_HUB_OFFLINE": "1"})[0] == 0
    assert [asked for asked in machine.hub.log if asked.sent] == []
    assert (Path("metrics/download.json").read_bytes(), Path("data/raw/records.jsonl").read_bytes()) == first


@pytest.mark.parametrize("platform", PLATFORMS)
def test_metrics_say_which_file_was_read(machine: Machine, platform: str) -> None:
    commit = prepare(NONE, machine.hub)
    code, _ = machine.run(hub_params(platform, commit), environment(NONE, machine.hub, platform, machine.home))
    metrics = json.loads(Path("metrics/download.json").read_text(encoding="utf-8"))
    identity = {"platform": platform, "repo": REPO, "file": FILE, "revision": commit, "sha256": sha256(BODY), "num_bytes": len(BODY)}
    assert (code, metrics["num_read"], metrics["hub"]) == (0, 40, identity)
    record = json.loads(Path("data/raw/records.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert record["source"] == f"{REPO}/{FILE}"
    assert str(machine.home) not in Path("metrics/download.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("platform", "branch"), [("huggingface", "main"), ("modelscope", "master")])
def test_a_branch_is_resolved_recorded_and_warned_of_and_again_when_it_moves(machine: Machine, platform: str, branch: str) -> None:
    old = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, platform, machine.home)
    for revision in ("", branch):
        code, stderr = machine.run(hub_params(platform, revision), variables)
        assert code == 0
        assert f"`{branch}` may move; to get this very state again set download.hub.revision: {old}" in stderr
        assert "has moved" not in stderr
    new = machine.hub.add("dataset", REPO, {FILE: BODY[:-1] + b" ]", "README.md": CARD})
    code, stderr = machine.run(hub_params(platform, branch), variables)
    assert code == 0
    assert f"`{branch}` has moved since it was last fetched here: {new}, before {old}" in stderr
    assert json.loads(Path("metrics/download.json").read_text(encoding="utf-8"))["hub"]["revision"] == new
    code, stderr = machine.run(hub_params(platform, branch), variables | {"HF_HUB_OFFLINE": "1"})
    assert code == 0, "offline the branch is where it was last seen"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_damaged_copy_in_the_cache_is_fetched_again(machine: Machine, platform: str) -> None:
    commit = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, platform, machine.home)
    assert machine.run(hub_params(platform, commit), variables)[0] == 0
    (copy,) = [path.resolve() for path in machine.home.rglob("病例.json")]
    copy.write_bytes(BODY.replace("胸痛".encode(), "腹痛".encode()))
    code, stderr = machine.run(hub_params(platform, commit), variables)
    assert code == 0
    assert "the copy in the cache is damaged, and is fetched again" in stderr
    assert copy.read_bytes() == BODY


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_configuration_names_its_file(machine: Machine, platform: str) -> None:
    commit = prepare(NONE, machine.hub)
    code, _ = machine.run(hub_params(platform, commit, file="", config="zh"), environment(NONE, machine.hub, platform, machine.home))
    assert code == 0
    assert json.loads(Path("metrics/download.json").read_text(encoding="utf-8"))["hub"]["file"] == FILE


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_token_goes_to_the_hub_and_not_to_its_storage_nor_into_any_output(machine: Machine, platform: str) -> None:
    commit = prepare(NONE, machine.hub)
    fault = Fault("token", 0, "", environment={"token": "good"})
    code, stderr = machine.run(hub_params(platform, commit), environment(fault, machine.hub, platform, machine.home))
    assert code == 0
    storage = [asked.headers for asked in machine.hub.log if STORAGE in asked.path]
    hub = [asked.headers for asked in machine.hub.log if STORAGE not in asked.path]
    assert {headers["authorization"] for headers in hub} == {"Bearer good"}
    assert [headers for headers in storage if "authorization" in headers or "cookie" in headers] == []
    written = [path for folder in ("data", "metrics") for path in Path(folder).rglob("*") if path.is_file()]
    assert not [path for path in written if b"Bearer" in path.read_bytes()]
    assert "Bearer" not in stderr


def test_a_stored_login_is_not_sent(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, "huggingface", machine.home)
    (machine.home / "hf").mkdir(parents=True)
    (machine.home / "hf" / "token").write_text("hf_stored", encoding="utf-8")
    assert machine.run(hub_params("huggingface", commit), variables)[0] == 0
    assert [asked for asked in machine.hub.log if "authorization" in asked.headers] == []


def test_a_server_without_ranges_sends_the_file_anew(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    variables, params = environment(NONE, machine.hub, "huggingface", machine.home), hub_params("huggingface", commit)
    blobs = machine.home / "hf" / "hub" / f"datasets--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(BODY)}.incomplete").write_bytes(b"damaged" * 5)
    machine.hub.inject("no_ranges", STORAGE)
    assert machine.run(params, variables)[0] == 0
    assert machine.hub.sent(STORAGE) == len(BODY)


def test_a_partial_file_that_is_wrong_costs_one_run_and_no_more(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    variables, params = environment(NONE, machine.hub, "huggingface", machine.home), hub_params("huggingface", commit)
    blobs = machine.home / "hf" / "hub" / f"datasets--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(BODY)}.incomplete").write_bytes(b"damaged" * 5)
    code, stderr = machine.run(params, variables)
    assert code == 3
    assert "has another hash than the hub lists" in stderr
    assert machine.run(params, variables)[0] == 0


def test_a_mirror_that_answers_with_another_commit_is_refused(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    repo = machine.hub.repos["dataset", REPO]
    other = repo.commit({**repo.commits[commit], "more.txt": b"x"})
    repo.refs["f" * 40] = other
    code, stderr = machine.run(hub_params("huggingface", "f" * 40), environment(NONE, machine.hub, "huggingface", machine.home))
    assert code == 3
    assert f"the hub answers with another commit than {'f' * 40}, got {other}" in stderr


def test_a_listing_that_leads_out_of_the_cache_is_not_followed(machine: Machine) -> None:
    prepare(NONE, machine.hub)
    commit = machine.hub.add("dataset", REPO, {"../../evil.json": BODY, "ok.json": BODY})
    for platform in PLATFORMS:
        variables = environment(NONE, machine.hub, platform, machine.home)
        code, stderr = machine.run(hub_params(platform, commit, file="../../evil.json"), variables)
        assert (code, "has no such file" in stderr) == (2, True)


EVIL = "../" * 30 + "tmp"
LISTINGS = {
    "a hash that is a path": {"sha256": EVIL + "/evil"},
    "a hash of the right length that is a path": {"sha256": (EVIL + "/evil").rjust(64, "/")[-64:]},
    "a size below nothing": {"size": -1},
    "no size": {"size": None},
}


@pytest.mark.parametrize("wrong", LISTINGS.values(), ids=LISTINGS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_listing_that_names_no_hash_or_size_is_refused_before_a_file_is_made(
    machine: Machine, platform: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(self: Handler, content: Any) -> None:
        data = content.get("Data", {})
        for entry in [*content.get("siblings", []), *(data.get("Files") or [] if isinstance(data, dict) else [])]:
            if entry.get("rfilename") == FILE:
                entry["lfs"].update(wrong)
            elif entry.get("Path") == FILE:
                entry.update({key.capitalize(): value for key, value in wrong.items()})
        self.reply(200, json.dumps(content).encode())

    monkeypatch.setattr(Handler, "json", spoiled)
    commit = prepare(NONE, machine.hub)
    code, stderr = machine.run(hub_params(platform, commit), environment(NONE, machine.hub, platform, machine.home))
    assert (code, len(stderr.splitlines())) == (3, 1)
    assert "the answer is not that of a hub, got " in stderr
    assert list(machine.home.rglob("*")) == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_commit_that_is_none_names_no_directory(machine: Machine, platform: str) -> None:
    prepare(NONE, machine.hub)
    repo = machine.hub.repos["dataset", REPO]
    repo.commits[EVIL] = FILES
    repo.refs["main"] = EVIL
    code, stderr = machine.run(hub_params(platform, "main"), environment(NONE, machine.hub, platform, machine.home))
    assert (code, f"the answer is not that of a hub, got {EVIL}; look at " in stderr) == (3, True)
    assert list(machine.home.rglob("*")) == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_names_from_a_hub_cannot_write_on_the_terminal(machine: Machine, platform: str) -> None:
    prepare(NONE, machine.hub)
    card = b'---\nconfigs:\n- config_name: "x\\e[2J\\nerror: run this"\n  data_files: a\n---\n'
    commit = machine.hub.add("dataset", REPO, {"\x1b[2J\nerror: run this": BODY, "数据\u3000一.json": BODY, "README.md": card})
    for params, says in (
        ({"file": "none"}, "; it has 数据\u3000一.json"),
        ({"file": "", "config": "zh"}, "; it has x\\x1b[2J\\nerror: run this"),
    ):
        code, stderr = machine.run(hub_params(platform, commit, **params), environment(NONE, machine.hub, platform, machine.home))
        assert (code, len(stderr.splitlines()), "\x1b" in stderr) == (2, 1, False)
        assert says in stderr


def test_what_a_users_link_leads_to_is_never_deleted(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, "huggingface", machine.home)
    assert machine.run(hub_params("huggingface", commit), variables)[0] == 0
    (pointer,) = machine.home.rglob("病例.json")
    mine = machine.home / "mine.json"
    mine.write_text("[]", encoding="utf-8")
    pointer.unlink()
    pointer.symlink_to(mine)
    code, stderr = machine.run(hub_params("huggingface", commit), variables)
    assert (code, "the copy in the cache is damaged, and is fetched again" in stderr) == (0, True)
    assert mine.read_text(encoding="utf-8") == "[]"
    assert pointer.read_bytes() == BODY


def test_the_cache_is_laid_out_as_the_hubs_client_has_it(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    assert machine.run(hub_params("huggingface", commit), environment(NONE, machine.hub, "huggingface", machine.home))[0] == 0
    cache = machine.home / "hf" / "hub"
    found = hf_hub_download(REPO, FILE, repo_type="dataset", revision=commit, cache_dir=cache, local_files_only=True)
    assert Path(found).read_bytes() == BODY
    assert not Path(found).readlink().is_absolute(), "a cache may be moved"
    assert Path(found).resolve().name == sha256(BODY)


def test_the_unmodified_client_downloads_the_same_from_the_fake_hub(machine: Machine, tmp_path: Path) -> None:
    """Else it would be our own idea of a hub that the tests above speak to."""
    commit, cache = prepare(NONE, machine.hub), tmp_path / "theirs"
    with libraries.online():
        file = hf_hub_download(REPO, FILE, repo_type="dataset", revision=commit, cache_dir=cache, endpoint=machine.hub.url)
        folder = snapshot_download(REPO, repo_type="dataset", revision=commit, cache_dir=cache, endpoint=machine.hub.url)
    assert Path(file).read_bytes() == (Path(folder) / FILE).read_bytes() == BODY
    assert Path(file).resolve().name == sha256(BODY)
    assert Path(folder).name == commit


def test_where_there_are_no_links_the_file_itself_takes_its_place(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "are_symlinks_supported", lambda folder: False)
    commit = prepare(NONE, machine.hub)
    assert machine.run(hub_params("huggingface", commit), environment(NONE, machine.hub, "huggingface", machine.home))[0] == 0
    (file,) = machine.home.rglob("病例.json")
    assert not file.is_symlink()
    assert file.read_bytes() == BODY


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_has_arrived_needs_no_room_again(machine: Machine, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, platform, machine.home)
    machine.hub.inject("truncate", STORAGE, times=1)
    machine.hub.inject("status", STORAGE, status=503)
    assert machine.run(hub_params(platform, commit), variables)[0] == 3
    machine.hub.heal()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(len(BODY), 0, len(BODY) // 2 + 1))
    assert machine.run(hub_params(platform, commit), variables)[0] == 0


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("content", [b"\xff\xfe", b"../../../..", b""])
def test_a_damaged_note_of_a_branch_counts_as_none(machine: Machine, platform: str, content: bytes) -> None:
    commit = prepare(NONE, machine.hub)
    variables, params = environment(NONE, machine.hub, platform, machine.home), hub_params(platform, "main")
    assert machine.run(params, variables)[0] == 0
    (note,) = machine.home.rglob("refs/main")
    note.write_bytes(content)
    code, stderr = machine.run(params, variables | {"HF_HUB_OFFLINE": "1"})
    assert (code, "does not hold all of revision main" in stderr) == (3, True)
    assert machine.run(params, variables)[0] == 0
    assert note.read_text(encoding="utf-8") == commit


def test_a_mirror_that_knows_no_pages_is_asked_twice(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "PAGE", 1)
    monkeypatch.setattr(Handler, "listing", lambda self, files: [{"Path": FILE, "Type": "blob", "Size": len(BODY), "Sha256": sha256(BODY)}])
    commit = prepare(NONE, machine.hub)
    assert machine.run(hub_params("modelscope", commit), environment(NONE, machine.hub, "modelscope", machine.home))[0] == 0
    assert len([asked for asked in machine.hub.log if "repo/tree" in asked.path]) == 2


@pytest.mark.parametrize("seconds", ["²", "0", "-1", "9" * 400, "soon"])
def test_a_timeout_that_is_none_is_the_usual_one(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TIMEOUT", seconds)
    assert ModelScope("dataset", REPO, "master", "download.hub").timeout == 10


def test_content_that_a_mirror_named_without_a_hash_stays_in_the_cache(machine: Machine) -> None:
    commit = prepare(NONE, machine.hub)
    variables = environment(NONE, machine.hub, "huggingface", machine.home)
    assert machine.run(hub_params("huggingface", commit), variables)[0] == 0
    (pointer,) = machine.home.rglob("病例.json")
    blob = pointer.resolve().rename(pointer.resolve().with_name("0123456789abcdef"))
    pointer.unlink()
    pointer.symlink_to(blob)
    assert machine.run(hub_params("huggingface", commit), variables | {"HF_HUB_OFFLINE": "1"})[0] == 0
    assert blob.read_bytes() == BODY


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("configs: 5", "the data set's card names no configurations, got zh;"),
        ("configs:\n- config_name: zh\n  data_files: &a [*a]", "the configuration's files are nested without end, got zh;"),
    ],
)
def test_a_hostile_card_is_one_line(machine: Machine, card: str, says: str) -> None:
    prepare(NONE, machine.hub)
    commit = machine.hub.add("dataset", REPO, {**FILES, "README.md": f"---\n{card}\n---\n".encode()})
    params = hub_params("huggingface", commit, file="", config="zh")
    code, stderr = machine.run(params, environment(NONE, machine.hub, "huggingface", machine.home))
    assert (code, len(stderr.splitlines()), says in stderr) == (2, 1, True)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_data_set_of_many_files_is_listed_whole(machine: Machine, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "PAGE", 3)
    prepare(NONE, machine.hub)
    commit = machine.hub.add("dataset", REPO, {f"{i}.json": BODY for i in range(9)})
    code, _ = machine.run(hub_params(platform, commit, file="8.json"), environment(NONE, machine.hub, platform, machine.home))
    assert code == 0


# ---- parts


def test_only_forty_hex_digits_are_a_commit() -> None:
    assert is_commit("fc2c9e8a37b38f38da6d449564a8c350b244aef4")
    assert not any(map(is_commit, ("main", "fc2c9e8", "FC2C9E8A37B38F38DA6D449564A8C350B244AEF4", "")))


def test_hashes_are_those_of_git_and_of_the_content(tmp_path: Path) -> None:
    file = tmp_path / "文"
    file.write_bytes("胸痛 chest pain\n".encode())
    assert digest_of(file, 64) == sha256(file.read_bytes())
    assert digest_of(file, 40) == git_sha1(file.read_bytes())
    assert digest_of(file, 0) == ""
    (tmp_path / "empty").touch()
    assert digest_of(tmp_path / "empty", 40) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "as `git hash-object /dev/null` prints"
    assert RemoteFile("文", 0, blob_id=git_sha1(file.read_bytes())).is_file(file)
    assert not RemoteFile("文", 0, sha256="0" * 64).is_file(file)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# 模型\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen\n---\n", "qwen"),
        ("---\nlicense:\n- mit\n- cc0-1.0\n---\n", "mit, cc0-1.0"),
        ("---\nlanguage: zh\n---\n", "unknown"),
        ("# no metadata\n", "unknown"),
        ("---\nlicense: [\n---\n", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        ("---" + "\n" * 200_000 + "no end", "unknown"),
        ("---\na: " + "[" * 5000 + "\n---\n", "unknown"),
        ('---\nlicense: "mit\\n---\\n# 假的"\n---\n', "mit\\n---\\n# 假的"),
        ("", "unknown"),
    ],
)
def test_the_licence_is_that_of_the_card(tmp_path: Path, text: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert licence_of(read_card(tmp_path)) == licence


def test_a_repository_without_a_card_has_no_licence(tmp_path: Path) -> None:
    assert licence_of(read_card(tmp_path)) == "unknown"


def test_only_the_explicit_fetch_is_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(KeyError), online():
        assert not constants.is_offline_mode()
        raise KeyError
    assert constants.is_offline_mode()


def test_addresses_and_caches_are_those_of_the_hubs_own_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert ModelScope("model", "o/m", "master", "base").endpoint == "https://modelscope.cn"
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "www.modelscope.ai")
    assert ModelScope("model", "o/m", "master", "base").endpoint == "https://www.modelscope.ai"
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    assert ModelScope("dataset", "o/d", "master", "base").snapshot("c") == tmp_path / "datasets" / "o--d" / "snapshots" / "c"
    assert HuggingFace("model", "o/m", "main", "base").endpoint == constants.ENDPOINT


def test_the_default_pin_is_whole() -> None:
    params = HubParams()
    assert is_commit(params.revision)
    assert (len(params.sha256), params.num_rows) == (64, 20171)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"# nothing\n", "the data set's card names no configurations, got ; set `file`"),
        (
            b"---\nconfigs:\n- config_name: zh\n  data_files: none/*.json\n---\n",
            "the configuration is not one file, got none/*.json; set `file`",
        ),
        (b"---\nconfigs:\n- config_name: zh\n  data_files: {train: [a.json], test: b.json}\n---\n", "is not one file, got a.json, b.json;"),
    ],
)
def test_a_configuration_that_is_not_one_file_is_refused(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: bytes, message: str
) -> None:
    prepare(NONE, server)
    commit = server.add("dataset", REPO, {"README.md": card, "a.json": b"[]", "b.json": b"[ ]"})
    monkeypatch.setattr(libraries, "OFFLINE_ASKED", "")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    params = HubParams(platform="modelscope", repo=REPO, file="", revision=commit, sha256="", num_rows=0)
    with pytest.raises(DataError) as caught:
        fetch_data_file(params)
    assert message in str(caught.value)


def test_every_refusal_is_an_error_of_the_project() -> None:
    assert issubclass(DataError, MedcotError)
    assert issubclass(MachineError, MedcotError)
    with pytest.raises(DataError, match="expected the id of a repository"):
        open_repo("huggingface", "model", "", "main", "base")
