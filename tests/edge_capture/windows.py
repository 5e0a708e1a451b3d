"""A stand-in for what Windows does with files, where a spool has never run: it cannot open or sync
directories, renames and deletes nothing that is open, and translates the ends of lines unless told
otherwise. It is as strict as its documentation, and knows no other program, such as a scanner for
viruses, that has a file open."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from types import SimpleNamespace
from typing import Any

import pytest

from edge_capture.spool import disk

O_BINARY = 0x40000000
"""A flag that Linux does not use; its kernel ignores it."""


def _opened() -> dict[int, str]:
    """The files and directories that this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def _refuse_if_open(path: Any) -> None:
    target = os.path.realpath(path)
    if any(one == target or one.startswith(f"{target}/") for one in _opened().values()):
        raise PermissionError(errno.EACCES, "it is being used by another process", str(path))


def _locking(descriptor: int, mode: int, count: int) -> None:
    assert (mode, count) == (2, 1)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "rename", "replace")}
    remove = os.unlink
    as_text: set[int] = set()

    def open_(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if os.path.isdir(path) and "dir_fd" not in more:  # which `shutil.rmtree` gives on Linux
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        descriptor: int = real["open"](path, flags & ~O_BINARY, mode, **more)
        (as_text.discard if flags & O_BINARY else as_text.add)(descriptor)
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        if descriptor in as_text:
            data = bytes(data).replace(b"\n", b"\r\n")
        return int(real["write"](descriptor, data))

    def fsync(descriptor: int) -> None:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR)
        if not writable or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real["fsync"](descriptor)

    def rename(source: Any, target: Any, **more: Any) -> None:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        _refuse_if_open(source)
        real["rename"](source, target, **more)

    def replace(source: Any, target: Any, **more: Any) -> None:
        _refuse_if_open(source)
        _refuse_if_open(target)
        real["replace"](source, target, **more)

    def unlink(path: Any, **more: Any) -> None:
        _refuse_if_open(path)
        remove(path, **more)

    monkeypatch.setattr(disk, "fcntl", None)
    monkeypatch.setattr(disk, "msvcrt", SimpleNamespace(locking=_locking, LK_NBLCK=2))
    monkeypatch.setattr(os, "O_BINARY", O_BINARY, raising=False)
    monkeypatch.delattr(os, "fdatasync")
    for name, function in (
        ("open", open_), ("write", write), ("fsync", fsync), ("rename", rename),
        ("replace", replace), ("unlink", unlink),
    ):  # fmt: skip
        monkeypatch.setattr(os, name, function)
