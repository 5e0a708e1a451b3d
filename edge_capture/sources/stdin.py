"""Raw sound on standard input, from a pipe or a file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
        self._rest = b""
        """Bytes of a frame that has not come whole."""
        self._first: Samples | None = None

    async def open(self) -> None:
        """Wait for the first sound. Raises: SourceError when there is none. Cancel-safe."""
        try:
            self._first = await self._frames()
        except SourceLost as error:
            raise SourceError(str(error)) from None
        if self._first is None:
            cut = f": {len(self._rest)} bytes are not a whole frame" if self._rest else ""
            raise SourceError(f"standard input is empty{cut}")

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        # Regular files cannot be watched; they are always ready.
        with contextlib.suppress(PermissionError):
            loop.add_reader(self._descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._descriptor)

    async def _frames(self) -> Samples | None:
        """What has come, in whole frames, or None at the end."""
        frame_bytes = self.format.frame_bytes
        while True:
            await self._readable()
            try:
                data = os.read(self._descriptor, self._read_bytes)
            except BlockingIOError:
                continue  # whoever shares the pipe made it non-blocking, and was quicker
            except OSError as error:
                raise SourceLost(f"standard input: {error.strerror}") from None
            if not data:
                return None
            data = self._rest + data
            whole = len(data) - len(data) % frame_bytes
            self._rest = data[whole:]
            if whole:
                dtype = "<i2" if self.format.encoding == "linear16" else np.uint8
                samples = np.frombuffer(data, dtype, whole // np.dtype(dtype).itemsize)
                return samples.reshape(-1, self.format.channels)

    async def blocks(self) -> AsyncGenerator[Block, None]:
        pace = Pace(self.format.sample_rate, self._speed)
        pos, samples = 0, self._first
        while samples is not None:
            await pace.captured(pos + len(samples))
            yield Block(samples, pace.time_ns(pos))
            pos += len(samples)
            samples = await self._frames()
        if self._rest:
            log.warning(
                "the last %d bytes of standard input are not a whole frame of %d and are left out",
                len(self._rest),
                self.format.frame_bytes,
            )

    def close(self) -> None:
        """Nothing is held."""
