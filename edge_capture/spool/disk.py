"""The spool's files: records, and what is done to files so that they outlive a power cut."""

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
"""What a file of records begins with."""
_RECORD = struct.Struct("<IIQQqB")
"""CRC-32 of all that follows, bytes of payload, index, position, time, 1 if it is the last."""
RECORD_BYTES = _RECORD.size
"""On the disk, beside a chunk's payload."""
_CRC = struct.Struct("<I")
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has none
_FILE = re.compile(r"(session|failed|dropped)\.(json|new)|\d{12,}\.(seg|sent)")
"""Names of the files that are made in a session's directory."""
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def encode_record(index: int, chunk: Chunk) -> bytes:
    """A chunk as it is kept in a file."""
    pos, time_ns, payload, end = chunk
    record = bytearray(_RECORD.pack(0, len(payload), index, pos, time_ns, end) + payload)
    _CRC.pack_into(record, 0, zlib.crc32(memoryview(record)[_CRC.size :]))
    return bytes(record)


def read_records(file: BinaryIO, index: int) -> Iterator[tuple[Chunk, int]]:
    """Chunks with the bytes that each has in `file`, from `index` on, up to what is not whole.

    Raises: OSError.
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


def write_whole(descriptor: int, offset: int, data: bytes) -> int:
    """Write at the end of a file, which is at `offset`; on an OSError nothing is left of it."""
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
    """Put `data` into a file, wholly or not at all, also in a power cut. Raises: OSError."""
    making = path.with_suffix(".new")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_whole(descriptor, 0, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(making, path)
    sync([path.parent])


def open_all(paths: Iterable[Path]) -> list[int]:
    """Descriptors of files and directories, all or none. Raises: OSError."""
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
    """Bring files and directories to the disk itself. Raises: OSError."""
    sync_open(open_all(paths))


def sync_open(descriptors: list[int]) -> None:
    """As `sync`, for what is open whatever its name has become; closes it. Raises: OSError."""
    try:
        for descriptor in descriptors:
            directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            (os.fsync if directory else _fdatasync)(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def unlink(paths: Iterable[Path]) -> None:
    """Delete files, those that are gone already included."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def aside(directory: Path) -> Path:
    """Where the damaged files of a session's directory stay once it is removed."""
    return directory.with_name(f"damaged-{directory.name}")


def remove(directory: Path, damaged: Iterable[Path] = ()) -> None:
    """Delete a session's directory, at once for whoever looks, but for its `damaged` files."""
    keep = {path.name for path in damaged}
    dying = aside(directory) if keep else directory.with_name(f".old-{directory.name}")
    with contextlib.suppress(OSError):
        os.rename(directory, dying)
        _delete(dying, keep)


def clear(directory: Path) -> None:
    """Delete what is left of a session's directory, if all that it holds is ours."""
    with contextlib.suppress(OSError):
        if all(_FILE.fullmatch(path.name) for path in directory.iterdir()):
            _delete(directory, keep=set())


def _delete(directory: Path, keep: set[str]) -> None:
    """Delete our files in a directory, and it if nothing stays. Raises: OSError."""
    ours = [path for path in directory.iterdir() if _FILE.fullmatch(path.name)]
    unlink(path for path in ours if path.name not in keep)
    directory.rmdir()


def passes(error: OSError) -> bool:
    """Whether it says nothing about the disk: the system is short of something for now."""
    return error.errno in _PASSING


def take_lock(directory: Path) -> int | None:
    """A descriptor that keeps others from `directory` until it is closed; None: another has it.

    Raises: OSError.
    """
    import fcntl  # Windows has none: `Spool` says so

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
    """Tells this run of the machine from others; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
