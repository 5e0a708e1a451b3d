"""Outputs that are written at the pace of a loudspeaker: WAV files and standard output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

from natterjack.voice.audio import FRAME_BYTES

from ...errors import OutputError, OutputLost
from ...sources import DEVICE_THREADS
from ...sources.boot_clock import boot_time
from ..playout import Playout

_BLOCK_S = 0.02
_LATE_S = 0.5
"""Time that is not caught up, because this process stood still or its reader did not read."""
_PIPE_BYTES = 4096
"""How much may wait in a pipe: what is there is heard after a cut."""
_SIZES = 0xFFFF_FFFF
_HEADER_BYTES = 44


class _Paced:
    """A file that a thread of its own writes, since writing may block."""

    waiting_for = None

    def __init__(self, name: str, rate: int) -> None:
        self.name, self.rate = name, rate
        self._stopped = threading.Event()

    async def play(self, playout: Playout) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[OSError | None] = loop.create_future()

        def end(error: OSError | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def run() -> None:
            error = None
            try:
                self._run(playout)
            except OSError as problem:
                error = problem
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, error)

        threading.Thread(target=run, name=f"{DEVICE_THREADS} write", daemon=True).start()
        try:
            error = await ended
        finally:
            self._stopped.set()
        if error is not None and not isinstance(error, BrokenPipeError):
            raise OutputLost(f"{self.name}: {error.strerror}")

    def _run(self, playout: Playout) -> None:
        started, done = boot_time(), 0
        while not self._stopped.is_set():
            at = started + done / self.rate
            late = boot_time() - at
            if late > _LATE_S:
                started += late
                continue
            frames = int(late * self.rate)
            if frames > 0:
                self._write(playout.pull(frames, at), frames)
                done += frames
            self._stopped.wait(_BLOCK_S)

    def _write(self, audio: bytes, frames: int) -> None:
        """Write the speech of a stretch of `frames` frames, which may have less of it."""
        raise NotImplementedError

    async def drop(self) -> None:
        """Do nothing: what is written is played."""

    def close(self) -> None:
        self._stopped.set()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


class StdoutOutput(_Paced):
    """Standard output: raw 16-bit little-endian audio of one channel, without interruption.

    Silence is written while nothing is said.
    """

    def __init__(self, descriptor: int, rate: int) -> None:
        super().__init__("standard output", rate)
        self._descriptor = descriptor
        with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux, and a pipe
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _write(self, audio: bytes, frames: int) -> None:
        _write_all(self._descriptor, audio.ljust(frames * FRAME_BYTES, b"\0"))


class WavOutput(_Paced):
    """A WAV file with what was played, without the silence between. It is valid at any moment, and
    is removed at the end if nothing was played, so that the same command can be run again."""

    def __init__(self, path: Path, rate: int) -> None:
        """Create the file. Raises: OutputError."""
        super().__init__(str(path), rate)
        self._path = path
        self._closed = False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise OutputError(f"{path} exists: remove it, or name another file") from None
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}") from None
        self._size = 0
        self._write_header()

    def close(self) -> None:
        super().close()
        if not (self._closed or self._size):
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._closed = True

    def _write_header(self) -> None:
        def number(value: int, size: int = 4) -> bytes:
            return min(value, _SIZES).to_bytes(size, "little")

        head = b"RIFF" + number(_HEADER_BYTES - 8 + self._size) + b"WAVEfmt " + number(16)
        head += number(1, 2) + number(1, 2) + number(self.rate) + number(self.rate * FRAME_BYTES)
        head += number(FRAME_BYTES, 2) + number(16, 2) + b"data" + number(self._size)
        os.lseek(self._file, 0, os.SEEK_SET)
        _write_all(self._file, head)

    def _write(self, audio: bytes, _frames: int) -> None:
        if audio:
            # The audio first: a header never announces what is not there.
            os.lseek(self._file, 0, os.SEEK_END)
            _write_all(self._file, audio)
            self._size += len(audio)
            self._write_header()
