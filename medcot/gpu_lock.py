"""One stage a GPU: a model is loaded onto a card only by the process that holds the card's lock.

The lock is an flock on a file named by the GPU's UUID, so it holds whatever index CUDA_VISIBLE_DEVICES gives the card, over all users
and checkouts of a machine; the kernel drops it when the process ends, also at kill -9. Containers with a /tmp of their own do not see
each other's. `MEDCOT_GPU_LOCK` says what to do about a card that is taken: wait (default), refuse, or off (look at no lock).

The directory is open to all users, as /tmp is, so a file in it may be someone's trap: links are never followed, and what is not a plain
file with one name is neither locked nor written.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from pathlib import Path

from medcot.errors import DataError, MachineError

VARIABLE = "MEDCOT_GPU_LOCK"
CHOICES = ("wait", "refuse", "off")
EVERYBODY_STICKY, EVERYBODY = 0o1777, 0o666
HOLDER_BYTES = 200
log = logging.getLogger("medcot")
_held: dict[str, int] = {}  # UUID to file descriptor, open until the process ends


def lock_gpu(device: int | None = None) -> None:
    """Take the lock of a GPU, by default the current one, and keep it until this process ends; taking it again does nothing.

    Raises MachineError when another process holds it and `MEDCOT_GPU_LOCK=refuse`, or when the lock's file cannot be used.
    """
    choice = os.environ.get(VARIABLE, "") or "wait"
    if choice not in CHOICES:
        raise DataError(f"environment: {VARIABLE}", "unknown choice", f"use {', '.join(CHOICES)}", got=choice)
    if choice == "off":
        return
    import torch

    name = gpu_uuid(torch.cuda.current_device() if device is None else device)
    if name not in _held:
        _held[name] = take(lock_dir() / name, name, wait=choice == "wait")


def gpu_uuid(device: int) -> str:
    """The name by which all processes of a machine know a GPU: its UUID, or that of the MIG slice that is all this process sees."""
    import torch

    listed = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if device < len(listed) and listed[device].startswith("MIG-"):
        return listed[device].replace("/", "-")
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def lock_dir() -> Path:
    """Make the directory of the locks, where every user may add a file and nobody may remove another's.

    Raises MachineError when something else is in its place.
    """
    path = Path(tempfile.gettempdir()) / "medcot-gpu"
    try:
        path.mkdir(mode=0o700)
        path.chmod(EVERYBODY_STICKY)  # mkdir would apply the umask
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise MachineError(str(path), "not a directory", f"remove it, or set {VARIABLE}=off") from None
    return path


def take(path: Path, gpu: str, *, wait: bool) -> int:
    """Take the flock on a file, write who holds it into it, and return the open descriptor.

    Raises MachineError when another process holds it and wait is False, or when the file is not a plain one that this user may open.
    """
    import fcntl

    try:
        fd = open_plain(path)
    except OSError as error:
        remedy = f"remove it, or set {VARIABLE}=off"
        raise MachineError(str(path), "the lock of a GPU cannot be opened", remedy, got=error.strerror) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = holder_of(fd)
        if not wait:
            os.close(fd)
            remedy = f"wait for it to end, choose another card by CUDA_VISIBLE_DEVICES, or set {VARIABLE}=wait"
            raise MachineError(gpu, f"the GPU is held by {holder}", remedy) from None
        log.warning("gpu: waiting for %s, which is held by %s (%s=off shares it)", gpu, holder, VARIABLE)
        fcntl.flock(fd, fcntl.LOCK_EX)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"pid {os.getpid()}, {own_name()}".encode()[:HOLDER_BYTES], 0)
    return fd


def open_plain(path: Path) -> int:
    """Open or create a lock's file; raises OSError for a link, and for anything that is not a plain file with one name.

    A file of another user is opened without O_CREAT, which Linux refuses in a directory that all may write to.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, EVERYBODY)
            os.fchmod(fd, EVERYBODY)  # beyond the umask: another user's process must be able to take it later
        except FileExistsError:  # another process was quicker
            fd = os.open(path, flags)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(fd)
        raise OSError(0, "not a plain file", str(path))
    return fd


def holder_of(fd: int) -> str:
    """Who holds a lock, in its own words."""
    text = os.pread(fd, HOLDER_BYTES, 0).decode(errors="replace")
    return "".join(c for c in text if c.isprintable()) or "another process"


def own_name() -> str:
    """The stage or program that this process runs."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = Path(sys.argv[0]).name if spec is None else str(spec.name)
    module = sys.argv[1] if module == "medcot.worker" else module
    return f"stage {module.removeprefix('stages.')}" if module.startswith("stages.") else module
