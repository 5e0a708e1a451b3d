"""A recording: what one device delivers from the moment it is opened until it is gone."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

from natterjack.audio import AudioFormat

from ...errors import SourceLost
from ..block_queue import BlockQueue, DecidedBlocks
from ..boot_clock import boot_time, boot_time_and_sleep
from ..capture_clock import CaptureClock

_QUEUE_S, _LEAST_QUEUE_S, _QUEUE_BYTES = 60.0, 10.0, 16 * 1024 * 1024
"""Audio held between the device and the reader: what a sound server has kept while this process was
stopped comes at once. Audio beyond it is lost."""
_MUTE_S, _MUTE_CHECK_S = 5.0, 1.0  # a working device delivers blocks even in silence


class Recording(ABC):
    """A device that is recorded from the moment this is created."""

    def __init__(
        self,
        name: str,
        audio_format: AudioFormat,
        block_s: float,
        loop: asyncio.AbstractEventLoop,
        earlier: CaptureClock | None = None,
    ) -> None:
        """Start to record blocks of about `block_s` each. With `earlier`, it goes on after the gap
        since that recording.

        Raises: SourceError.
        """
        self.format = audio_format
        """Format of its blocks."""
        self.clock = CaptureClock(audio_format.sample_rate, boot_time(), earlier)
        bytes_per_second = audio_format.sample_rate * audio_format.frame_bytes
        seconds = max(_LEAST_QUEUE_S, min(_QUEUE_S, _QUEUE_BYTES / bytes_per_second))
        self.queue = BlockQueue(audio_format, int(seconds / block_s))
        self.decided = DecidedBlocks(self.queue, self.clock)
        """The blocks that were recorded."""
        self._name = name
        self._loop = loop
        self._wanted_frames = 1
        self._ready = asyncio.Event()
        self._waking = False
        self._gone: str | None = None
        """In what way the device is gone."""

    @abstractmethod
    def _enough(self) -> bool:
        """Whether the queue has the frames that are waited for."""

    @abstractmethod
    def close(self) -> None:
        """Stop recording. A device that does not respond is abandoned after 2 s. Idempotent."""

    # The next three are called by the thread that delivers, and must not block.

    def _deliver(self, data: bytes, latency_s: float) -> None:
        """Queue audio whose first frame is `latency_s` old, or 0 if that is not known."""
        now, asleep = boot_time_and_sleep()
        self.queue.captured(
            data, latency_s=latency_s, now=now, asleep=asleep, now_ns=time.time_ns()
        )
        if self._enough():
            self._wake()

    def _end(self, how: str) -> None:
        """The device delivers nothing more."""
        self._gone = how
        self._waking = False
        self._wake()

    def _wake(self) -> None:
        if self._waking:
            return  # one wake-up is pending; a stalled loop should not collect more
        self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            return  # the loop was closed before the device

    async def wait(self, wanted_frames: int = 1) -> None:
        """Return when so many frames are queued.

        Cancel-safe. Raises: SourceLost, in which case fewer frames may be queued.
        """
        self._wanted_frames = wanted_frames
        quiet = 0
        while True:
            self._ready.clear()
            self._waking = False
            gone = self._gone  # read before the queue, because the last block comes before it
            if self._enough():
                return
            if gone:
                raise SourceLost(f"microphone {self._name!r} {gone}")
            try:
                async with asyncio.timeout(_MUTE_CHECK_S):
                    await self._ready.wait()
                quiet = 0
            except TimeoutError:
                quiet += 1  # one is not enough: it also comes after this process was stopped
                if quiet * _MUTE_CHECK_S >= _MUTE_S:
                    raise SourceLost(
                        f"microphone {self._name!r} has delivered no audio for {_MUTE_S:.0f} s"
                    ) from None
