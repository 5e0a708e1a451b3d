"""The files of the spool: records, and file operations that survive a power cut."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from natterjack.audio import MAX_CHUNK_BYTES

from ..chunks import Chunk

fcntl: Any
msvcrt: Any
try:
    fcntl, msvcrt = importlib.import_module("fcntl"), None
except ImportError:  # on Windows
    fcntl, msvcrt = None, importlib.import_module("msvcrt")

MAGIC = b"NJSPOOL1"
"""First bytes of a file of records."""
_RECORD = struct.Struct("<IIQQqB")
"""CRC-32 of what follows, payload bytes, index, position, time, and 1 for the last chunk."""
RECORD_BYTES = _RECORD.size
"""Size of a record without its payload."""
_CRC = struct.Struct("<I")
_LOCK = ".lock-"
"""Beginning of the name of a file that is locked in place of a directory, which Windows cannot
lock."""
_UNFINISHED = re.compile(r"\.(new|old)-")
_SEGMENT = re.compile(r"\d{12,}\.(seg|sent)")
_FILE = re.compile(rf"(session|failed|dropped)\.(json|new)|{_SEGMENT.pattern}")
"""Names of the files that this program creates in a session's directory."""
_FULL_ERRNOS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_TEMPORARY_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def encode_record(index: int, chunk: Chunk) -> bytes:
    """Return the record of a chunk."""
    pos, time_ns, payload, end, _ = chunk  # session.json keeps the notes
    record = bytearray(_RECORD.pack(0, len(payload), index, pos, time_ns, end) + payload)
    _CRC.pack_into(record, 0, zlib.crc32(memoryview(record)[_CRC.size :]))
    return bytes(record)


def read_records(file: BinaryIO, index: int) -> Iterator[tuple[Chunk, int]]:
    """Yield each chunk with the size of its record, starting at `index`.

    Stops at the first record that is incomplete or damaged. Raises: OSError.
    """
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        crc, size, found, pos, time_ns, end = _RECORD.unpack(head)
        if size > MAX_CHUNK_BYTES:
            return
        payload = file.read(size)
        if found != index or zlib.crc32(payload, zlib.crc32(head[_CRC.size :])) != crc:
            return
        yield Chunk(pos, time_ns, payload, bool(end)), _RECORD.size + size
        index += 1


def is_cut(rest: bytes, index: int) -> bool:
    """Return whether `rest` may be what an interrupted write of chunk `index` has left.

    That is the beginning of its record, or zeros. Anything else is damage.
    """
    if len(rest) < _RECORD.size or not rest.strip(b"\0"):
        return True
    _, size, found, *_ = _RECORD.unpack_from(rest)
    return bool(found == index and size <= MAX_CHUNK_BYTES and len(rest) < _RECORD.size + size)


def open_file(path: Path) -> BinaryIO:
    """Open a file to read. Raises: OSError, also for a FIFO, which would block."""
    if stat.S_ISFIFO(path.stat().st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return path.open("rb")


def segment_paths(directory: Path) -> list[Path]:
    """Return a session's files of records in order. Raises: OSError."""
    return sorted(path for path in directory.iterdir() if _SEGMENT.fullmatch(path.name))


def open_to_write(path: Path, *, at: int | None = None) -> int:
    """Open a file to write at the offset `at`, or an empty one. Returns the descriptor.

    Raises: OSError.
    """
    flags = os.O_WRONLY | getattr(os, "O_BINARY", 0)
    if at is None:
        return os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o600)
    descriptor = os.open(path, flags)
    os.lseek(descriptor, at, os.SEEK_SET)
    return descriptor


def renames_open_files() -> bool:
    """Return whether the system renames a file that this process has open. Windows does not."""
    return fcntl is not None


def write_whole(descriptor: int, offset: int, data: bytes) -> int:
    """Append `data` to a file whose end is at `offset`. Returns the number of bytes.

    On an OSError, the file is truncated to `offset`.
    """
    written = 0
    try:
        while written < len(data):
            written += os.write(descriptor, data[written:] if written else data)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, offset)
        raise
    return written


def save(path: Path, data: bytes) -> None:
    """Replace a file atomically, even in a power cut. Raises: OSError."""
    temporary = path.with_suffix(".new")
    descriptor = open_to_write(temporary)
    try:
        write_whole(descriptor, 0, data)
        _flush(descriptor, os.fsync)
    except OSError:
        unlink([temporary])  # what it has of a full disk
        raise
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync([path.parent])


def open_all(paths: Iterable[Path]) -> list[int]:
    """Open files and directories, all or none, and return their descriptors. Raises: OSError."""
    descriptors: list[int] = []
    try:
        for path in paths:
            if fcntl is not None:
                descriptors.append(os.open(path, os.O_RDONLY))
            elif not path.is_dir():  # Windows cannot sync a directory, nor what is read only
                descriptors.append(os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)))
    except OSError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors


def sync(paths: Iterable[Path]) -> None:
    """Sync files and directories to the disk. Raises: OSError."""
    sync_open(open_all(paths))


def sync_open(descriptors: list[int]) -> None:
    """Sync open files and directories, even if they were renamed, and close them.

    Raises: OSError.
    """
    try:
        for descriptor in descriptors:
            directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            _flush(descriptor, os.fsync if directory else getattr(os, "fdatasync", os.fsync))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _flush(descriptor: int, system_call: Callable[[int], None]) -> None:
    """Write a file or directory to the disk by a system call of that name. Raises: OSError."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS, where fsync leaves data in the disk's cache
        with contextlib.suppress(OSError):  # some file systems have only fsync
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    system_call(descriptor)


def unlink(paths: Iterable[Path]) -> None:
    """Delete files. Those that cannot be deleted are skipped."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def damaged_path(directory: Path) -> Path:
    """Return where a session's damaged files stay once its directory is removed."""
    return directory.with_name(f"damaged-{directory.name}")


def remove(directory: Path, damaged: Iterable[Path] = ()) -> None:
    """Delete a session's directory except for its `damaged` files.

    It is renamed first, so that other processes see it disappear at once.
    """
    keep = {path.name for path in damaged}
    renamed = damaged_path(directory) if keep else directory.with_name(f".old-{directory.name}")
    with contextlib.suppress(OSError):
        os.rename(directory, renamed)
        _delete(renamed, keep)


def clear(directory: Path) -> None:
    """Delete a half-deleted session's directory, unless it has files of other programs."""
    with contextlib.suppress(OSError):
        if all(_FILE.fullmatch(path.name) for path in directory.iterdir()):
            _delete(directory, keep=set())


def _delete(directory: Path, keep: set[str]) -> None:
    """Delete this program's files in a directory except `keep`, and the directory if it is empty.

    Raises: OSError.
    """
    ours = [path for path in directory.iterdir() if _FILE.fullmatch(path.name)]
    unlink(path for path in ours if path.name not in keep)
    directory.rmdir()


def is_temporary(error: OSError) -> bool:
    """Return whether the system is only short of a resource, so that the disk is not at fault."""
    return error.errno in _TEMPORARY_ERRNOS


def is_full(error: OSError) -> bool:
    """Return whether there is no room on the disk now, and may be later."""
    return error.errno in _FULL_ERRNOS


def not_answering() -> OSError:
    """Return the error of a disk that has not answered in time."""
    return OSError(errno.ETIMEDOUT, "The disk does not answer")


def may_recover(error: OSError) -> bool:
    """Return whether a disk that is full, or does not answer, can be used again later."""
    return is_full(error) or error.errno == errno.ETIMEDOUT


def take_lock(directory: Path) -> int | None:
    """Lock `directory` and return a descriptor that holds the lock until it is released.

    Returns None if another process holds the lock. Raises: OSError.
    """
    if fcntl is None:
        return _take_lock_beside(directory)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def release_lock(directory: Path, lock: int) -> None:
    """Release a lock of `directory`, whatever its name was when the lock was taken."""
    os.close(lock)
    if fcntl is None:
        unlink([_lock_beside(directory)])  # fails if another process has opened it meanwhile


def _lock_beside(directory: Path) -> Path:
    return directory.with_name(_LOCK + _UNFINISHED.sub("", directory.name))


def _take_lock_beside(directory: Path) -> int | None:
    """Lock a file beside `directory`: on Windows, a directory with an open file has to keep its
    name."""
    directory.stat()
    descriptor = os.open(_lock_beside(directory), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def boot_id() -> str:
    """Return an identifier of the machine's current boot; empty if the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
