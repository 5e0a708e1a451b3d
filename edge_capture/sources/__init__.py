"""Sources of audio: files, standard input, microphones. A source opens before any session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple, Protocol

from natterjack.audio import AudioFormat
from natterjack.notices import BUSY, Note

from ..input.samples import Samples

DEVICE_THREADS = "device"
"""Prefix of the names of threads that a dead device may block forever."""
_MIN_SLEEP_S = 0.001


class Block(NamedTuple):
    """A stretch of audio as it was captured."""

    samples: Samples
    time_ns: int
    """Wall clock of the first frame, in nanoseconds since the epoch."""
    lost_frames: int = 0
    """Number of frames lost just before this block."""
    cause: str = BUSY
    """Why they were lost: one of GAP_CAUSES."""
    invalid: int = 0
    """Number of samples that were not numbers, or huge, and were replaced."""
    notes: tuple[Note, ...] = ()
    """Conditions of the source that begin or end with this block, which may have no samples. The
    end of one of GAP_CAUSES is known by the `cause` of lost frames."""
    settle: Callable[[], float] | None = None
    """To be called if a session ends before this block, and another one begins with its time, or if
    it is the last one. Returns how many seconds are missing so far that are in no gap because they
    are too few for one, or 0; they are no part of later gaps then."""


class Source(Protocol):
    """Audio that is open and ready to be read."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def format(self) -> AudioFormat:
        """Encoding, rate and channels of the blocks."""

    @property
    def can_wait(self) -> bool:
        """Whether audio can be read later (a file), or is lost if not read (a microphone)."""

    @property
    def waiting_for(self) -> str | None:
        """The reason that the source has no audio, e.g. a device that is gone; None while it has
        audio."""

    wanted_frames: int
    """Number of frames below which a wake-up is not worthwhile. Set by the reader."""
    can_finish: Callable[[], bool]
    """Whether the broker has stored all that was yielded and is connected. Set by the reader. Until
    then a device that has disappeared is waited for, because the session could not end anyway."""

    def blocks(self) -> AsyncGenerator[Block, None]:
        """Yield the audio in order, until it ends. Cancel-safe. Raises: SourceLost."""

    def remaining(self) -> list[Block]:
        """Return audio that has arrived and was not yielded, after `blocks` was cancelled."""

    def close(self) -> None:
        """Release the file or the device. Idempotent."""


def always() -> bool:
    """Return True, as `Source.can_finish` does before there is a reader."""
    return True


class Pace:
    """Plays stored audio at `speed` times real time, or without delay if None.

    After falling behind, for example to wait for the broker, it runs at full speed until it has
    caught up.
    """

    def __init__(
        self, sample_rate: int, speed: float | None, first: int = 0, first_ns: int | None = None
    ) -> None:
        """Start now at frame `first`, whose wall clock is `first_ns` or, if None, now."""
        self._frames_per_second = None if speed is None else sample_rate * speed
        self._sample_rate = sample_rate
        self._first = first
        self._started = time.monotonic()
        self._first_ns = time.time_ns() if first_ns is None else first_ns

    def time_ns(self, pos: int) -> int:
        """Return the wall clock of frame `pos`, which follows from that of the first frame."""
        return self._first_ns + (pos - self._first) * 1_000_000_000 // self._sample_rate

    async def wait_captured(self, pos: int) -> None:
        """Return when a live source would have captured every frame before `pos`. Cancel-safe."""
        if self._frames_per_second is None:
            return
        due = self._started + (pos - self._first) / self._frames_per_second - time.monotonic()
        if due > _MIN_SLEEP_S:
            await asyncio.sleep(due)
