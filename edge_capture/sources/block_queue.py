"""Blocks on their way from a device's thread to the event loop, and a count of what was lost."""

from __future__ import annotations

from collections import deque

import numpy as np

from natterjack.audio import AudioFormat

from . import Block

_MAX_LATENCY_S = 5.0
_REPORT_S = 5.0


class BlockQueue:
    """A bounded queue of one recording's blocks.

    It reads no clock and waits for nothing: callers pass the time. `captured` is called in the
    device's thread, everything else in the event loop.
    """

    def __init__(
        self, audio_format: AudioFormat, max_blocks: int, end: float, *, resumed: bool = False
    ) -> None:
        """Create a queue for audio that starts at `end`, on the monotonic clock.

        If `resumed`, an earlier recording ended at that time, and the time until the first block
        counts as lost.
        """
        self.blocks: deque[Block] = deque()
        self.end = end
        """Time at which the audio captured so far ends, on the monotonic clock."""
        self.overflows = 0
        """How often audio was lost before it could be queued."""
        self._format = audio_format
        self._max_blocks = max_blocks
        self._resumed = resumed
        self._lost_frames = 0
        self._reported_overflows = 0
        self._reported_at = 0.0

    def captured(
        self,
        data: bytes,
        *,
        captured_at: float,
        current: float,
        now: float,
        now_ns: int,
        overflow: bool,
    ) -> None:
        """Queue captured audio, or count it as lost if the queue is full.

        `captured_at` and `current` are times on the device's own clock: that of the first frame,
        and now. `overflow` says that the driver lost audio.
        """
        frames = self._format.frames(len(data))
        if overflow:
            self.overflows += 1
        if len(self.blocks) >= self._max_blocks:
            self.overflows += 1
            self._lost_frames += frames
            return
        seconds = self._format.seconds(frames)
        latency_s = current - captured_at
        if not (captured_at > 0 and 0 <= latency_s <= _MAX_LATENCY_S):
            latency_s = seconds  # some host APIs do not know these times
        lost, self._lost_frames = self._lost_frames, 0
        if self._resumed:
            lost = max(0, round((now - latency_s - self.end) * self._format.sample_rate))
            self._resumed = False
        self.end = now - latency_s + seconds
        samples = np.frombuffer(data, np.int16).reshape(-1, self._format.channels)
        self.blocks.append(Block(samples, now_ns - int(latency_s * 1e9), lost))

    def overflows_to_report(self, now: float) -> int | None:
        """Return the number of overflows if it has grown and 5 s have passed since the last time.

        Returns None otherwise.
        """
        if self.overflows <= self._reported_overflows or now - self._reported_at <= _REPORT_S:
            return None
        self._reported_overflows, self._reported_at = self.overflows, now
        return self.overflows
