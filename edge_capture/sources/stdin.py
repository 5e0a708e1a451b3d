"""Raw sound on standard input, from a pipe or a file."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator

import numpy as np

from natterjack.audio import AudioFormat

from ..chunks import Samples
from ..errors import SourceError, SourceLost
from ..settings import StdinSettings
from . import Block, Pace

log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024


class StdinSource:
    """Raw PCM, mulaw or alaw from a file descriptor that stays the caller's."""

    name = "standard input"

    def __init__(
        self, descriptor: int, settings: StdinSettings, speed: float | None, block_ms: int
    ) -> None:
        """`speed` is times real time, in blocks of `block_ms`; None: as it comes.

        Raises: SourceError for a terminal.
        """
        if os.isatty(descriptor):
            raise SourceError(
                "standard input is a terminal; pipe sound into it, such as: "
                "ffmpeg -i URL -f s16le -ar 16000 -ac 1 - | natterjack-edge stdin"
            )
        self.format = AudioFormat(settings.encoding, settings.sample_rate, settings.channels)
        self.waits = not settings.live
        self._descriptor = descriptor
        self._speed = speed
        self._read_bytes = _READ_BYTES
        if speed is not None:
            frames = max(1, self.format.sample_rate * block_ms // 1000)
            self._read_bytes = frames * self.format.frame_bytes
        self.wanted_frames = 1
        self._held = bytearray()
        """What was read and not yet given."""
        self._ended = False
        self._error: OSError | None = None
        """What ended it."""
        self._watched: asyncio.AbstractEventLoop | None = None
        """The loop that reads it when there is something to read."""
        self._came = asyncio.Event()
        self._pace: Pace
        self._first_ns = 0
        """Wall clock of the first sound."""
        self._pos = 0
        """Frames given as blocks."""

    async def open(self) -> None:
        """Wait for the first sound. Raises: SourceError when there is none. Cancel-safe."""
        await self._come()
        self._first_ns = time.time_ns()
        self._pace = Pace(self.format.sample_rate, self._speed, first_ns=self._first_ns)
        if self._error is not None:
            raise SourceError(_text(self._error))
        if len(self._held) < self.format.frame_bytes:
            cut = f": {len(self._held)} bytes are not a whole frame" if self._held else ""
            raise SourceError(f"standard input is empty{cut}")

    def _watch(self) -> bool:
        """Have the loop read. False for a regular file, which is always ready and never watched."""
        if self._watched is None:
            loop = asyncio.get_running_loop()
            blocking = os.get_blocking(self._descriptor)
            try:
                loop.add_reader(self._descriptor, self._read)
            except PermissionError:
                return False
            os.set_blocking(self._descriptor, blocking)  # uvloop changes it, for all who share it
            self._watched = loop
        return True

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._watched.remove_reader(self._descriptor)
            self._watched = None

    def _read(self) -> None:
        """Read once what has come. Of what nobody takes no more is read: the writer waits."""
        if self._enough:
            self._unwatch()
            return
        try:
            data = os.read(self._descriptor, self._read_bytes)
        except BlockingIOError:
            return  # whoever shares the pipe made it non-blocking, and was quicker
        except OSError as error:
            self._error, data = error, b""
        self._held += data
        self._ended = not data
        if self._enough:
            self._came.set()

    @property
    def _enough(self) -> bool:
        """Whether there is something to be given: as many frames as are wanted, or the end."""
        frames = self.wanted_frames if self._speed is None else 1  # a pace has blocks of its own
        return self._ended or len(self._held) >= frames * self.format.frame_bytes

    async def _come(self) -> None:
        """Return when there is enough. Cancel-safe."""
        while not self._enough:
            self._came.clear()
            if self._watch():
                await self._came.wait()
            else:
                self._read()

    def _take(self) -> Samples:
        """What is held, in whole frames."""
        whole = len(self._held) - len(self._held) % self.format.frame_bytes
        data = bytes(self._held[:whole])
        del self._held[:whole]
        dtype = "<i2" if self.format.encoding == "linear16" else np.uint8
        return np.frombuffer(data, dtype).reshape(-1, self.format.channels)

    async def blocks(self) -> AsyncGenerator[Block, None]:
        # The schedule begins when it is taken; the first sound came before.
        self._pace = Pace(self.format.sample_rate, self._speed, first_ns=self._first_ns)
        while len(samples := self._take()):
            await self._pace.captured(self._pos + len(samples))
            yield self._block(samples)
            await self._come()
        if self._error is not None:
            raise SourceLost(_text(self._error))
        if self._held:
            log.warning(
                "the last %d bytes of standard input are not a whole frame of %d and are left out",
                len(self._held),
                self.format.frame_bytes,
            )

    def _block(self, samples: Samples) -> Block:
        block = Block(samples, self._pace.time_ns(self._pos))
        self._pos += len(samples)
        return block

    def rest(self) -> list[Block]:
        if self._speed is not None:
            return []  # it would not have been captured yet
        samples = self._take()
        return [self._block(samples)] if len(samples) else []

    def close(self) -> None:
        self._unwatch()


def _text(error: OSError) -> str:
    return f"standard input: {error.strerror}"
