"""Audio on its way from a device's thread to the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from natterjack.audio import AudioFormat

from . import Block
from .capture_clock import CaptureClock, Captured

_LONGEST_LATENCY_S = 60.0


class BlockQueue:
    """A bounded queue of what a recording has delivered.

    It reads no clock and waits for nothing: callers pass the times. `captured` is called in the
    device's thread, everything else in the event loop.
    """

    def __init__(self, audio_format: AudioFormat, max_blocks: int) -> None:
        self.blocks: deque[Captured] = deque()
        self._format = audio_format
        self._max_blocks = max_blocks
        self._lost_frames = 0

    def captured(
        self, data: bytes, *, latency_s: float, now: float, asleep: float, now_ns: int
    ) -> None:
        """Queue audio that is delivered now, or count it as lost if the queue is full.

        `latency_s` is how old its first frame is by the device's own clock. Some host APIs do not
        know it and give an absurd value. The other times are those of `Captured`.
        """
        frames = self._format.frames(len(data))
        if len(self.blocks) >= self._max_blocks:
            self._lost_frames += frames
            return
        if not 0 < latency_s <= _LONGEST_LATENCY_S:
            latency_s = self._format.seconds(frames)
        lost, self._lost_frames = self._lost_frames, 0
        samples = np.frombuffer(data, np.int16).reshape(-1, self._format.channels)
        self.blocks.append(Captured(samples, now, asleep, now_ns, latency_s, lost))


class DecidedBlocks:
    """The blocks of a queue that a clock has decided. What the reader does not take stays here."""

    def __init__(self, queue: BlockQueue, clock: CaptureClock) -> None:
        self._queue = queue
        self._clock = clock
        self._decided: deque[Block] = deque()

    def take(self) -> Iterator[Block]:
        """Take the blocks that are decided by now, in order. May be given up after any of them."""
        while True:
            while self._decided:
                yield self._decided.popleft()
            if not self._queue.blocks:
                return
            self._decided += self._clock.add(self._queue.blocks.popleft())

    def take_all(self) -> Iterator[Block]:
        """Like `take`, and then those that the clock holds back, because no more will come."""
        yield from self.take()
        self._decided += self._clock.flush()
        yield from self.take()
