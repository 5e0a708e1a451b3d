"""Passages of the bundled recording, which are read to an edge as to a microphone."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
import wave
from pathlib import Path
from typing import NamedTuple

SAMPLE_RATE = 48_000
_FRAME_BYTES = 2
_BLOCK_S = 0.02
_LATE_S = 0.5
"""Time that is not caught up."""


class Passage(NamedTuple):
    """Words that a person reads in the recording."""

    text: str
    stretches: tuple[tuple[float, float], ...]
    """Where they are, in seconds. Most of a pause is left out, so that the passage is one turn."""


FIRST = Passage(
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness",
    ((1.10, 2.76), (2.88, 4.40), (4.94, 6.30), (6.62, 8.00)),
)
SECOND = Passage(
    "it was the spring of hope, it was the winter of despair, we had everything before us, we had "
    "nothing before us",
    ((17.46, 18.72), (18.86, 20.50), (21.14, 23.84)),
)
LEAD_S = 0.12
"""How long it is silent at the beginning of each passage."""


def audio_of(passage: Passage, recording: Path) -> bytes:
    """The audio of a passage, 16-bit samples of one channel. Raises OSError."""
    with wave.open(str(recording)) as source:
        parts = []
        for start, end in passage.stretches:
            source.setpos(round(start * SAMPLE_RATE))
            parts.append(source.readframes(round((end - start) * SAMPLE_RATE)))
    return b"".join(parts)


class Person:
    """Writes audio in real time, as a microphone does: what the person says, and silence."""

    def __init__(self, sink: io.RawIOBase) -> None:
        """`sink` is the writable end of a pipe, which `run` closes."""
        self._sink = sink
        self._audio = b""
        self._left = asyncio.Event()

    def say(self, audio: bytes) -> None:
        """Say this after what is still to be said."""
        self._audio += audio

    def leave(self) -> None:
        """End the audio."""
        self._left.set()

    async def run(self) -> None:
        """Write until `leave`, or until nobody reads it any more."""
        os.set_blocking(self._sink.fileno(), False)
        began, written, waiting = time.monotonic(), 0, b""
        with contextlib.suppress(BrokenPipeError), self._sink:
            while not self._left.is_set():
                due = int((time.monotonic() - began) * SAMPLE_RATE) - written
                if due > _LATE_S * SAMPLE_RATE:  # nobody read, or this process stood still
                    began += due / SAMPLE_RATE
                elif not waiting and due > 0:
                    waiting = self._take(due * _FRAME_BYTES)
                    written += due
                waiting = waiting[self._sink.write(waiting) or 0 :]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BLOCK_S):
                        await self._left.wait()

    def _take(self, size: int) -> bytes:
        taken, self._audio = self._audio[:size], self._audio[size:]
        return taken.ljust(size, b"\0")
