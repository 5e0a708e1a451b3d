"""Raw audio on standard input, from a pipe or a file."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator

import numpy as np

from natterjack.audio import AudioFormat

from ..errors import SourceError, SourceLost
from ..input.samples import Samples
from ..settings import StdinSettings
from . import Block, Pace, always

log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024


class StdinSource:
    """Raw PCM, mulaw or alaw from a file descriptor, which the caller closes."""

    name = "standard input"
    waiting_for = None

    def __init__(
        self, descriptor: int, settings: StdinSettings, speed: float | None, block_ms: int
    ) -> None:
        """Read audio to be played at `speed` times real time in blocks of `block_ms`.

        With a `speed` of None it is passed on as it arrives. Raises: SourceError for a terminal.
        """
        if os.isatty(descriptor):
            raise SourceError(
                "standard input is a terminal; pipe audio into it, for example: "
                "ffmpeg -i URL -f s16le -ar 16000 -ac 1 - | natterjack-edge stdin"
            )
        self.format = AudioFormat(settings.encoding, settings.sample_rate, settings.channels)
        self.can_wait = not settings.live
        self._descriptor = descriptor
        self._speed = speed
        self._read_bytes = _READ_BYTES
        if speed is not None:
            frames = max(1, self.format.sample_rate * block_ms // 1000)
            self._read_bytes = frames * self.format.frame_bytes
        self.wanted_frames = 1
        self.can_finish = always
        self._pending = bytearray()
        """Bytes read and not yet yielded."""
        self._ended = False
        self._error: OSError | None = None
        """The error that ended the input."""
        self._watching: asyncio.AbstractEventLoop | None = None
        """The loop that watches the descriptor."""
        self._ready = asyncio.Event()
        self._pace: Pace
        self._first_ns = 0
        """Wall clock of the first frame."""
        self._pos = 0
        """Number of frames yielded."""

    async def open(self) -> None:
        """Wait for the first audio. Cancel-safe. Raises: SourceError if there is none."""
        await self._wait_ready()
        self._first_ns = time.time_ns()
        self._pace = Pace(self.format.sample_rate, self._speed, first_ns=self._first_ns)
        if self._error is not None:
            raise SourceError(_text(self._error))
        if len(self._pending) < self.format.frame_bytes:
            cut = f": {len(self._pending)} bytes are not a whole frame" if self._pending else ""
            raise SourceError(f"standard input is empty{cut}")

    def _watch(self) -> bool:
        """Have the loop read the descriptor.

        Returns False for a regular file, which is always ready and cannot be watched.
        """
        if self._watching is None:
            loop = asyncio.get_running_loop()
            try:
                blocking = os.get_blocking(self._descriptor)
                loop.add_reader(self._descriptor, self._read)
            except PermissionError:
                return False
            except (AttributeError, NotImplementedError):  # on Windows
                raise SourceError(
                    "standard input cannot be read on this system: its event loop does not watch "
                    "pipes. Write the audio to a file: natterjack-edge file PATH"
                ) from None
            # uvloop makes the descriptor non-blocking, for every process that shares it.
            os.set_blocking(self._descriptor, blocking)
            self._watching = loop
        return True

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.remove_reader(self._descriptor)
            self._watching = None

    def _read(self) -> None:
        """Read once. While enough is pending it stops reading, so that the writer waits."""
        if self._enough_pending:
            self._unwatch()
            return
        try:
            data = os.read(self._descriptor, self._read_bytes)
        except BlockingIOError:
            return  # another process that shares the pipe was quicker, and made it non-blocking
        except OSError as error:
            self._error, data = error, b""
        self._pending += data
        self._ended = not data
        if self._enough_pending:
            self._ready.set()

    @property
    def _enough_pending(self) -> bool:
        """Whether the wanted number of frames is pending, or the input has ended."""
        frames = self.wanted_frames if self._speed is None else 1  # a pace sets its own block size
        return self._ended or len(self._pending) >= frames * self.format.frame_bytes

    async def _wait_ready(self) -> None:
        """Return when enough is pending. Cancel-safe."""
        while not self._enough_pending:
            self._ready.clear()
            if self._watch():
                await self._ready.wait()
            else:
                self._read()

    def _take(self) -> Samples:
        """Remove the pending whole frames and return them."""
        whole = len(self._pending) - len(self._pending) % self.format.frame_bytes
        data = bytes(self._pending[:whole])
        del self._pending[:whole]
        dtype = "<i2" if self.format.encoding == "linear16" else np.uint8
        return np.frombuffer(data, dtype).reshape(-1, self.format.channels)

    async def blocks(self) -> AsyncGenerator[Block, None]:
        # The first audio arrived earlier, but its playback starts now.
        self._pace = Pace(self.format.sample_rate, self._speed, first_ns=self._first_ns)
        while len(samples := self._take()):
            await self._pace.wait_captured(self._pos + len(samples))
            yield self._block(samples)
            await self._wait_ready()
        if self._error is not None:
            raise SourceLost(_text(self._error))
        if self._pending:
            log.warning(
                "ignoring the last %d bytes of standard input, which are not a whole frame of %d",
                len(self._pending),
                self.format.frame_bytes,
            )

    def _block(self, samples: Samples) -> Block:
        block = Block(samples, self._pace.time_ns(self._pos))
        self._pos += len(samples)
        return block

    def remaining(self) -> list[Block]:
        if self._speed is not None:
            return []  # at this speed it would not have been captured yet
        samples = self._take()
        return [self._block(samples)] if len(samples) else []

    def close(self) -> None:
        self._unwatch()


def _text(error: OSError) -> str:
    return f"standard input: {error.strerror}"
