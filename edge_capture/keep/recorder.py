"""The recording of one session: its published audio, with silence in its gaps."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import numpy as np

from natterjack.spec import SessionSpec

from ..chunks import Chunk
from ..input.samples import EXPANSIONS
from .directory import KeepDirectory
from .settings import KeepSettings

MAX_FILE_S = 3600
"""How much audio a file has at most."""
_MAX_SILENCE_S = 60
"""A longer gap begins another file, whose name has its time."""
_LENGTH_AT = 18
"""Where STREAMINFO has the number of frames, beside the rate, channels and bits per sample."""


def open_keep(settings: KeepSettings) -> KeepDirectory | None:
    """The directory that the settings name, or None. Raises: UsageError."""
    if settings.keep is None:
        return None
    return KeepDirectory(settings.keep, settings.keep_bytes, settings.keep_days)


class Recorder:
    """Writes a session's chunks into FLAC files, one after another, until `close`.

    A file is readable at any moment, so also after SIGKILL: its length is written into its header
    as it grows. A fault of the disk never reaches the caller, who waits for the disk.
    """

    def __init__(self, directory: KeepDirectory, spec: SessionSpec) -> None:
        self._directory = directory
        self._key, self._format = spec.key, spec.audio_format
        self._expansion = EXPANSIONS.get(self._format.encoding)
        self._file: _File | None = None
        self._position = 0
        """The position after the last chunk."""

    def write(self, chunk: Chunk) -> None:
        """Write a chunk, which is not encoded for the wire."""
        self._directory.tidy()
        if not chunk.payload or not self._directory.usable:
            return
        rate = self._format.sample_rate
        missing = chunk.pos - self._position
        self._position = chunk.pos + self._format.frames(len(chunk.payload))
        try:
            file = self._file
            if file is not None and (
                file.frames >= MAX_FILE_S * rate
                or file.size >= self._directory.max_file_bytes
                or not 0 <= missing <= _MAX_SILENCE_S * rate
                or file.deleted
            ):
                self._end()
                file = None
            if file is None:
                raw = self._directory.create(self._key, chunk.time_ns)
                file = self._file = _File(raw, rate, self._format.channels)
            elif missing:
                file.write(np.zeros((missing, self._format.channels), np.int16))
            file.write(self._samples(chunk.payload))
        except OSError as error:
            self._file = None
            self._directory.failed(error)
        else:
            self._directory.recovered()

    def close(self) -> None:
        """End the file. Idempotent."""
        try:
            self._end()
        except OSError as error:
            self._directory.failed(error)

    def _end(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _samples(self, payload: bytes) -> Any:
        if self._expansion is not None:
            samples = self._expansion[np.frombuffer(payload, np.uint8)]
        else:
            samples = np.frombuffer(payload, "<i2")
        return samples.reshape(-1, self._format.channels)


class _File:
    """A FLAC file that is being written."""

    def __init__(self, raw: io.FileIO, rate: int, channels: int) -> None:
        """Raises: OSError; then it is closed."""
        import soundfile  # 20 ms, and memory that other runs do not need

        self.frames = 0
        self._rate = rate
        self._sink = _Sink(raw)
        self._announced = 0
        self._errors = soundfile.SoundFileError
        self._stream = self._guarded(
            soundfile.SoundFile, self._sink, "w", rate, channels, "PCM_16", format="FLAC"
        )

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._sink.size

    @property
    def deleted(self) -> bool:
        """Whether it has no name any more, so that what is written to it is lost."""
        return os.fstat(self._sink.raw.fileno()).st_nlink == 0

    def write(self, samples: Any) -> None:
        """Raises: OSError; then it is closed, and readable as far as it was written."""
        self._guarded(self._stream.write, samples)
        self.frames += len(samples)
        if self.frames - self._announced > 3 * self._rate // 2:
            self._announced = self._sink.announce(self.frames)

    def close(self) -> None:
        """Raises: OSError."""
        self._guarded(self._stream.close)
        self._sink.raw.close()

    def _guarded(self, call: Any, *arguments: Any, **named: Any) -> Any:
        try:
            done = call(*arguments, **named)
        except (self._errors, AssertionError) as error:
            # soundfile asserts that everything was written.
            self._abandon()
            raise self._sink.error or OSError(0, str(error)) from None
        if self._sink.error is not None:
            self._abandon()
            raise self._sink.error
        return done

    def _abandon(self) -> None:
        self._sink.abandon(self.frames)


class _Sink:
    """The file that libsndfile writes to. Its caller is C, so it keeps an error instead of raising
    it."""

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.size = 0
        self.error: OSError | None = None
        self._lost = False

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                view = memoryview(data)
                while view:
                    view = view[self.raw.write(view) or 0 :]
                self.size = max(self.size, self.raw.tell())
            except OSError as error:
                self.error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return b"" if self.raw.closed else self.raw.read(size) or b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0 if self.raw.closed else self.raw.seek(offset, whence)

    def tell(self) -> int:
        return 0 if self.raw.closed else self.raw.tell()

    def announce(self, frames: int) -> int:
        """Write the length into the header: the blocks that the encoder has certainly written.

        Returns it. Raises: OSError.
        """
        end = self.raw.tell()
        self.raw.seek(8)
        block = int.from_bytes(self.raw.read(2), "big")
        whole = (frames - 1) // block * block  # the encoder looks a frame ahead
        self.raw.seek(_LENGTH_AT)
        packed = int.from_bytes(self.raw.read(8), "big") >> 36 << 36 | whole
        self.raw.seek(_LENGTH_AT)
        self.raw.write(packed.to_bytes(8, "big"))
        self.raw.seek(end)
        return whole

    def abandon(self, frames: int) -> None:
        """Close the file, with the last length that is certain."""
        with contextlib.suppress(OSError):
            if self.size > _LENGTH_AT + 8 and frames:
                self.announce(frames)
        self.raw.close()
        self.error = self.error or OSError(0, "the recording was given up")
