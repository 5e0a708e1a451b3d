"""Recordings as files: readable at any moment, with silence in gaps, and never an obstacle."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.chunks import Chunk
from edge_capture.input.samples import EXPANSIONS
from edge_capture.keep import recorder as recorder_module
from edge_capture.keep.directory import KeepDirectory
from edge_capture.keep.recorder import Recorder
from natterjack.errors import UsageError
from natterjack.spec import SessionSpec
from tests.edge_capture.test_full_disk import Disk, disk  # noqa: F401 - a fixture

RATE, FRAMES = 16_000, 1280
SPEC = SessionSpec(tenant="acme", conversation="room", speaker="s", sample_rate=RATE)
BEGIN_NS = 1_796_115_600_000_000_000
AUDIO = np.cumsum(np.random.default_rng(2).normal(0, 60, 40 * RATE)).astype("<i2")


def chunk(pos: int, end: bool = False) -> Chunk:
    payload = b"" if end else AUDIO[pos % len(AUDIO) :][:FRAMES].tobytes()
    return Chunk(pos, BEGIN_NS + pos * 1_000_000_000 // RATE, payload, end)


@pytest.fixture
def keep(tmp_path: Path) -> KeepDirectory:
    return KeepDirectory(tmp_path / "keep", 10**9, 30)


def files(keep: KeepDirectory) -> list[Path]:
    return sorted(keep.directory.iterdir())


def test_the_whole_audio_is_in_a_private_file(keep: KeepDirectory) -> None:
    recorder = Recorder(keep, SPEC)
    for n in range(100):
        recorder.write(chunk(n * FRAMES))
    recorder.write(chunk(100 * FRAMES, end=True))
    recorder.close()
    (file,) = files(keep)
    assert file.name == "acme.room.s.20261201T090000Z.flac"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    samples, rate = soundfile.read(file, dtype="int16")
    assert rate == RATE
    assert np.array_equal(samples, AUDIO[: 100 * FRAMES])
    assert file.stat().st_size < 2 * len(samples)


def test_a_file_can_be_read_while_it_is_written(keep: KeepDirectory) -> None:
    """So also after SIGKILL: everything was given to the system, and nothing is left to be done."""
    recorder = Recorder(keep, SPEC)
    for n in range(300):
        recorder.write(chunk(n * FRAMES))
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert 300 * FRAMES - len(samples) < 3 * RATE
    assert np.array_equal(samples, AUDIO[: len(samples)])
    recorder.close()


def test_gaps_are_silence_or_another_file(keep: KeepDirectory) -> None:
    recorder = Recorder(keep, SPEC)
    recorder.write(chunk(0))
    recorder.write(chunk(FRAMES + 2 * RATE))
    recorder.write(chunk(100 * RATE))
    recorder.write(chunk(0))  # a device whose positions begin again
    recorder.close()
    first, same_second, later = files(keep)
    samples, _ = soundfile.read(first, dtype="int16")
    assert len(samples) == 2 * FRAMES + 2 * RATE
    assert not samples[FRAMES : FRAMES + 2 * RATE].any()
    assert np.array_equal(samples[-FRAMES:], AUDIO[FRAMES + 2 * RATE :][:FRAMES])
    assert same_second.name == "acme.room.s.20261201T090000Z_1.flac"
    assert later.name == "acme.room.s.20261201T090140Z.flac"


def test_a_new_file_each_hour(keep: KeepDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_FILE_S", 10)
    recorder = Recorder(keep, SPEC)
    for n in range(400):
        recorder.write(chunk(n * FRAMES))
    recorder.close()
    found = [soundfile.read(file, dtype="int16")[0] for file in files(keep)]
    assert [len(samples) for samples in found] == [10 * RATE, 10 * RATE, 10 * RATE, 2 * RATE]
    assert np.array_equal(np.concatenate(found), AUDIO[: 400 * FRAMES])


def test_companded_audio_is_expanded(keep: KeepDirectory) -> None:
    recorder = Recorder(keep, SPEC.model_copy(update={"encoding": "mulaw", "channels": 2}))
    recorder.write(Chunk(0, BEGIN_NS, bytes(range(200)), False))
    recorder.close()
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(samples, EXPANSIONS["mulaw"][:200].reshape(-1, 2))


def test_the_oldest_are_deleted(tmp_path: Path) -> None:
    keep = KeepDirectory(tmp_path, 30_000, 30)
    for hours in range(1, 5):
        path = tmp_path / f"acme.room.s.2026113{hours}T090000Z.flac"
        path.write_bytes(bytes(10_000))
        os.utime(path, (path.stat().st_mtime - hours * 3600,) * 2)
    other = tmp_path / "notes.txt"
    other.write_bytes(bytes(50_000))
    os.utime(other, (0, 0))
    recorder = Recorder(keep, SPEC)
    recorder.write(chunk(0))
    recorder.close()
    assert [path.name[18:20] for path in files(keep)[:-2]] == ["31", "32", "33"], "34 is the oldest"
    assert [path.name for path in files(keep)[-2:]] == [
        "acme.room.s.20261201T090000Z.flac", "notes.txt",
    ]  # fmt: skip


def test_a_directory_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"EDGE_KEEP: .*file"):
        KeepDirectory(tmp_path / "file", 10**9, 30)


def test_a_file_or_a_directory_that_was_deleted(
    keep: KeepDirectory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(keep, SPEC)
    recorder.write(chunk(0))
    files(keep)[0].unlink()
    for n in range(1, 20):
        recorder.write(chunk(n * FRAMES))
    assert len(files(keep)) == 1
    shutil.rmtree(keep.directory)
    for n in range(20, 40):
        recorder.write(chunk(n * FRAMES))
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    keep.directory.mkdir()
    monkeypatch.setattr(keep, "_retry_at", 0.0)
    for n in range(40, 60):
        recorder.write(chunk(n * FRAMES))
    recorder.close()
    assert "recordings are kept again" in caplog.text
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(samples, AUDIO[40 * FRAMES : 60 * FRAMES])


def test_a_disk_that_fails_is_said_once_and_used_again(
    keep: KeepDirectory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(keep, SPEC)
    recorder.write(chunk(0))
    keep.failed(OSError(errno.ENOSPC, "No space left on device"))
    for n in range(1, 50):
        recorder.write(chunk(n * FRAMES))
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text
    monkeypatch.setattr(keep, "_retry_at", 0.0)
    for n in range(50, 100):
        recorder.write(chunk(n * FRAMES))
    recorder.close()
    assert "recordings are kept again" in caplog.text
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(samples[50 * FRAMES :], AUDIO[50 * FRAMES : 100 * FRAMES])
    assert not samples[FRAMES : 50 * FRAMES].any(), "what was not kept is silence"


def test_a_full_disk(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    """Every write of the encoder may be the one that fails; what was written stays readable."""
    keep = KeepDirectory(disk.path / "keep", 10**9, 30)
    recorder = Recorder(keep, SPEC)
    for n in range(200):
        recorder.write(chunk(n * FRAMES))
    disk.fill(leaving=8192)
    for n in range(200, 400):
        recorder.write(chunk(n * FRAMES))
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text
    (file,) = files(keep)
    samples, _ = soundfile.read(file, dtype="int16")
    assert len(samples) > 190 * FRAMES
    assert np.array_equal(samples, AUDIO[: len(samples)])
    disk.free()
    keep._retry_at = 0.0  # instead of a wait of 10 s
    recorder.write(chunk(400 * FRAMES))
    recorder.close()
    assert len(files(keep)) == 2
    assert "recordings are kept again" in caplog.text
