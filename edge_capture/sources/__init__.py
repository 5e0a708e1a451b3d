"""Where sound comes from: files, standard input, microphones. Each opens before any session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from natterjack.audio import AudioFormat

from ..chunks import Samples

DEVICE_THREADS = "device"
"""What the names of threads begin with that a dead device may keep for good."""
_LEAST_SLEEP_S = 0.001


class Block(NamedTuple):
    """Some sound as it was captured."""

    samples: Samples
    time_ns: int
    """Wall clock of the first frame, nanoseconds since the epoch."""
    lost_frames: int = 0
    """Frames that were captured just before and could not be taken."""


class Source(Protocol):
    """Sound that is open and ready to be read."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    @property
    def format(self) -> AudioFormat:
        """Encoding, rate and channels of its blocks."""

    @property
    def waits(self) -> bool:
        """True if it can be read later (a file), False if sound is lost then (a microphone)."""

    wanted_frames: int
    """Frames without which no chunk can be complete, as whoever feeds the blocks has set it: fewer
    are not worth a wake-up."""

    def blocks(self) -> AsyncGenerator[Block, None]:
        """The sound in order, until it ends. Cancel-safe. Raises: SourceLost."""

    def rest(self) -> list[Block]:
        """What has come and was not given, after `blocks` was cancelled."""

    def close(self) -> None:
        """Give the file or the device back. Idempotent."""


class Pace:
    """Plays stored sound at `speed` times real time; None is as fast as it is taken.

    Behind its schedule, after a wait for the broker, it goes on at full speed until it is level.
    """

    def __init__(
        self, sample_rate: int, speed: float | None, first: int = 0, first_ns: int | None = None
    ) -> None:
        """Frame `first` is the first to come; `first_ns` is its wall clock, if not now."""
        self._frames_per_second = None if speed is None else sample_rate * speed
        self._sample_rate = sample_rate
        self._first = first
        self._started = time.monotonic()
        self._first_ns = time.time_ns() if first_ns is None else first_ns

    def time_ns(self, pos: int) -> int:
        """Wall clock of frame `pos`: that of the first, and the position."""
        return self._first_ns + (pos - self._first) * 1_000_000_000 // self._sample_rate

    async def captured(self, pos: int) -> None:
        """Return when a microphone would have captured all before frame `pos`. Cancel-safe."""
        if self._frames_per_second is None:
            return
        due = self._started + (pos - self._first) / self._frames_per_second - time.monotonic()
        if due > _LEAST_SLEEP_S:
            await asyncio.sleep(due)
