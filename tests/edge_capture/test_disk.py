from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from edge_capture.chunks import Chunk
from edge_capture.spool import disk

from .samples import chunk

CHUNKS = [*(chunk(index) for index in range(3)), Chunk(-1 & 0xFFFF, -5, b"", True)]


def records(first: int = 7) -> bytes:
    return b"".join(disk.encode_record(first + n, content) for n, content in enumerate(CHUNKS))


def read(data: bytes, index: int = 7) -> list[Chunk]:
    return [found for found, _ in disk.read_records(io.BytesIO(data), index)]


def test_records_come_back_as_they_were() -> None:
    found = list(disk.read_records(io.BytesIO(records()), 7))
    assert [content for content, _ in found] == CHUNKS
    assert [size for _, size in found] == [disk.RECORD_BYTES + len(c.payload) for c in CHUNKS]


def test_reading_stops_at_a_record_that_is_cut_off() -> None:
    data = records()
    whole = disk.RECORD_BYTES + len(CHUNKS[0].payload)
    for length in (0, 1, disk.RECORD_BYTES - 1, disk.RECORD_BYTES, whole - 1):
        assert read(data[:length]) == []
        assert read(data[: whole + length]) == CHUNKS[:1]


def test_reading_stops_at_a_record_with_any_wrong_byte() -> None:
    data = records()
    whole = disk.RECORD_BYTES + len(CHUNKS[0].payload)
    for at in [*range(disk.RECORD_BYTES), whole - 1]:
        damaged = bytearray(data)
        damaged[whole + at] ^= 0x40
        assert read(bytes(damaged)) == CHUNKS[:1], at


def test_reading_stops_at_a_record_of_another_index() -> None:
    assert read(records(first=8)) == []


def test_a_saved_file_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    disk.save(path, b"long ago")
    disk.save(path, b"now")
    assert path.read_bytes() == b"now"
    assert [each.name for each in tmp_path.iterdir()] == ["session.json"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "000000000000.seg"
    path.write_bytes(b"whole")
    descriptor = os.open(path, os.O_RDONLY)  # so that writing fails
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            disk.write_whole(descriptor, 5, b"more")
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"whole"


def test_only_one_holder_has_the_lock(tmp_path: Path) -> None:
    lock = disk.take_lock(tmp_path)
    assert lock is not None
    assert disk.take_lock(tmp_path) is None
    os.close(lock)
    again = disk.take_lock(tmp_path)
    assert again is not None
    os.close(again)


@pytest.mark.parametrize(
    ("number", "temporary"),
    [(errno.EMFILE, True), (errno.ENOMEM, True), (errno.EIO, False), (errno.ENOSPC, False)],
)
def test_a_shortage_is_told_from_a_broken_disk(number: int, temporary: bool) -> None:
    assert disk.is_temporary(OSError(number, os.strerror(number))) == temporary


def test_a_removed_session_keeps_its_damaged_files_only(tmp_path: Path) -> None:
    directory = tmp_path / "session"
    directory.mkdir()
    for name in ("session.json", "000000000000.sent", "000000000100.sent"):
        (directory / name).write_bytes(b"")
    disk.remove(directory, [directory / "000000000100.sent"])
    kept = disk.damaged_path(directory)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert [path.name for path in kept.iterdir()] == ["000000000100.sent"]
