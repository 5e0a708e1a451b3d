"""The files of the spool: records, and file operations that survive a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from natterjack.audio import MAX_CHUNK_BYTES

from ..chunks import Chunk

MAGIC = b"NJSPOOL1"
"""First bytes of a file of records."""
_RECORD = struct.Struct("<IIQQqB")
"""CRC-32 of what follows, payload bytes, index, position, time, and 1 for the last chunk."""
RECORD_BYTES = _RECORD.size
"""Size of a record without its payload."""
_CRC = struct.Struct("<I")
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
_SEGMENT = re.compile(r"\d{12,}\.(seg|sent)")
_FILE = re.compile(rf"(session|failed|dropped)\.(json|new)|{_SEGMENT.pattern}")
"""Names of the files that this program creates in a session's directory."""
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
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_whole(descriptor, 0, data)
        os.fsync(descriptor)
    except OSError:
        unlink([temporary])  # what it has of a full disk
        raise
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    sync([path.parent])


def open_all(paths: Iterable[Path]) -> list[int]:
    """Open files and directories, all or none, and return their descriptors. Raises: OSError."""
    descriptors: list[int] = []
    try:
        for path in paths:
            descriptors.append(os.open(path, os.O_RDONLY))
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
            (os.fsync if directory else _fdatasync)(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


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
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def take_lock(directory: Path) -> int | None:
    """Lock `directory` and return a descriptor that holds the lock until it is closed.

    Returns None if another process holds the lock. Raises: OSError.
    """
    import fcntl  # missing on Windows, which `Spool` refuses

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


def boot_id() -> str:
    """Return an identifier of the machine's current boot; empty if the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
