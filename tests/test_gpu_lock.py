"""The lock of a GPU: one process a card, dropped however that one ends, and no trap in a directory that all may write to."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from medcot import gpu_lock
from medcot.errors import DataError, MachineError
from medcot.gpu_lock import gpu_uuid, lock_dir, lock_gpu, take

# A process that holds a card until its standard input ends.
HOLDER = """
import sys
from medcot.gpu_lock import lock_dir, take
take(lock_dir() / sys.argv[1], sys.argv[1], wait=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards with UUIDs of their own, no lock held, and a temporary directory of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gpu_lock, "_held", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"0000-{i}"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(gpu_lock.VARIABLE, raising=False)


@contextmanager
def holder(gpu: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a card."""
    env = {**os.environ, "TMPDIR": tempfile.gettempdir(), "PYTHONPATH": os.pathsep.join((*sys.path, str(ROOT)))}
    command = [sys.executable, "-c", HOLDER, gpu]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_taken_card_is_refused_with_its_holder_and_free_again_once_that_one_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu_lock.VARIABLE, "refuse")
    with holder("GPU-0000-0") as other:
        with pytest.raises(MachineError) as caught:
            lock_gpu()
        remedy = "wait for it to end, choose another card by CUDA_VISIBLE_DEVICES, or set MEDCOT_GPU_LOCK=wait"
        assert str(caught.value) == f"GPU-0000-0: the GPU is held by pid {other.pid}, -c; {remedy}"
        assert caught.value.exit_code == 3
        lock_gpu(1)  # the other card is free
        other.send_signal(signal.SIGKILL)
        other.wait()
        lock_gpu()
    assert (lock_dir() / "GPU-0000-0").read_text().startswith(f"pid {os.getpid()}, ")


def test_who_waits_says_for_whom_and_goes_on_when_the_card_is_free() -> None:
    said = []

    class LetGo(logging.Handler):
        """Ends the holder once this process says that it waits."""

        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            assert other.stdin is not None
            other.stdin.close()

    with holder("GPU-0000-0") as other:
        logging.getLogger("medcot").addHandler(LetGo())
        lock_gpu()
        assert said == [f"gpu: waiting for GPU-0000-0, which is held by pid {other.pid}, -c (MEDCOT_GPU_LOCK=off shares it)"]
    assert list(gpu_lock._held) == ["GPU-0000-0"]


def test_a_process_takes_its_card_once_and_keeps_it() -> None:
    lock_gpu()
    lock_gpu()
    assert list(gpu_lock._held) == ["GPU-0000-0"]
    with pytest.raises(MachineError, match="the GPU is held by pid"):
        take(lock_dir() / "GPU-0000-0", "GPU-0000-0", wait=False)


def test_the_lock_can_be_left_out_and_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu_lock.VARIABLE, "off")
    lock_gpu()
    assert gpu_lock._held == {}
    monkeypatch.setenv(gpu_lock.VARIABLE, "nein")
    with pytest.raises(DataError, match="environment: MEDCOT_GPU_LOCK: unknown choice, got nein; use wait, refuse, off"):
        lock_gpu()


def test_a_card_has_one_name_whatever_its_index_and_a_mig_slice_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_uuid(1) == "GPU-0000-1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0000-1, MIG-GPU-77/1/0")
    assert gpu_uuid(0) == "GPU-0000-0"  # CUDA's own word for device 0
    assert gpu_uuid(1) == "MIG-GPU-77-1-0"


def test_every_user_may_take_a_lock_and_nobody_may_remove_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o077)
    try:
        lock_gpu()
    finally:
        os.umask(before)
    assert lock_dir().stat().st_mode & 0o7777 == 0o1777
    assert (lock_dir() / "GPU-0000-0").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("trap", ["link", "second name", "directory", "pipe"])
def test_a_trap_in_the_directory_is_neither_followed_nor_written(tmp_path: Path, trap: str) -> None:
    victim, path = tmp_path / "病历.txt", lock_dir() / "GPU-0000-0"
    victim.write_text("keep me 保留", encoding="utf-8")
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(victim),
        "second name": lambda: path.hardlink_to(victim),
        "directory": lambda: path.mkdir(),
        "pipe": lambda: os.mkfifo(path),
    }
    make[trap]()
    with pytest.raises(
        MachineError, match=f"GPU-0000-0: the lock of a GPU cannot be opened, got .*; remove it, or set {gpu_lock.VARIABLE}=off"
    ):
        lock_gpu()
    assert victim.read_text(encoding="utf-8") == "keep me 保留"


def test_something_else_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "medcot-gpu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="medcot-gpu: not a directory; remove it, or set MEDCOT_GPU_LOCK=off"):
        lock_gpu()
    assert not list((tmp_path / "elsewhere").iterdir())
