"""Speech that is about to be played, and the account of what was played.

Pure: callers pass the times, in seconds on a clock that runs forward. The device's thread pulls;
everything else happens in the event loop.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from natterjack.voice.audio import FRAME_BYTES
from natterjack.voice.spec import PlayState

from .convert import Block


class Heard(NamedTuple):
    """How far a session was played."""

    position: int
    """Every frame before it was played, or dropped."""
    utterance: int
    """The utterance that was played last."""
    state: PlayState


class PlayQueue:
    """The speech of one session. It begins to play when `buffer_seconds` of it are queued, or the
    end of its utterance, and so again after it has run out."""

    def __init__(self, rate: int, buffer_seconds: float, max_late_seconds: float) -> None:
        """`rate` is that of the output, in hertz. Speech that could have been played more than
        `max_late_seconds` earlier is dropped."""
        self._rate = rate
        self._least = max(1, round(buffer_seconds * rate))
        self._max_late = max_late_seconds
        self._lock = threading.Lock()
        self._queued: deque[tuple[Block, float]] = deque()
        """Each block with the time at which it could have been played."""
        self._frames = 0
        self._ends = 0
        """Ends of utterances in the queue."""
        self._due = 0.0
        """When all that is queued would have been played, if nothing had delayed it."""
        self._flowing = False
        self._open = False
        """True if the utterance of the last block that was pulled goes on."""
        self._pulled: deque[tuple[Block, float]] = deque()
        """Blocks that are not audible to their end, each with the time at which it begins to be."""
        self._heard: Heard | None = None
        self.underruns = 0
        """How often the speech of an open utterance ran out."""
        self.played_seconds = 0.0
        """How much was pulled, without what a cut or a lost device has dropped of it."""
        self.late_seconds = 0.0
        """How much was dropped because it was too late."""

    @property
    def seconds(self) -> float:
        """Length of what is queued."""
        return self._frames / self._rate

    def put(self, block: Block, now: float) -> None:
        """Queue the block that follows those before it."""
        with self._lock:
            if self._heard is None:
                self._heard = Heard(int(block.start), block.utterance, "starved")
            due = max(self._due, now)
            self._due = due + self._seconds(block)
            self._append(block, due)

    def cut(self, now: float, utterance: int, position: int) -> None:
        """Drop everything that is not audible yet.

        The number of the utterance and the position count if nothing was played before.
        """
        with self._lock:
            self._settle(now)
            self._queued.clear()
            self._unpull(now)
            self._frames = self._ends = 0
            self._due = 0.0
            self._flowing = self._open = False
            heard = self._heard or Heard(position, utterance, "interrupted")
            self._heard = heard._replace(state="interrupted")

    def take_back(self, now: float) -> None:
        """Queue again what was pulled and is not audible yet: the device is gone."""
        with self._lock:
            self._settle(now)
            for block, at in reversed(self._unpull(now)):
                self._queued.appendleft((block, at))
                self._count(block, 1)
            self._flowing = False

    def pull(self, frames: int, at: float) -> bytes:
        """Return up to `frames` frames, of which the first will be audible at the time `at`."""
        parts: list[bytes] = []
        with self._lock:
            if not (self._flowing or self._ready):
                return b""
            self._flowing = True
            while self._queued and frames:
                block, due = self._queued.popleft()
                self._count(block, -1)
                if block.audio and at - due > self._max_late:
                    self.late_seconds += self._seconds(block)
                    block = block._replace(audio=b"")
                elif len(block.audio) > frames * FRAME_BYTES:
                    block, rest = self._split(block, frames)
                    self._queued.appendleft((rest, due + self._seconds(block)))
                    self._count(rest, 1)
                parts.append(block.audio)
                frames -= len(block.audio) // FRAME_BYTES
                self._pulled.append((block, at))
                self._open = not block.last
                at += self._seconds(block)
                self.played_seconds += self._seconds(block)
            if frames:
                self._flowing = False
                self.underruns += self._open
        return b"".join(parts)

    def heard(self, now: float) -> Heard | None:
        """Return how far the session is audible now; None if nothing of it has come yet."""
        with self._lock:
            self._settle(now)
            return self._heard

    @property
    def _ready(self) -> bool:
        return self._ends > 0 or self._frames >= self._least

    def _append(self, block: Block, due: float) -> None:
        self._queued.append((block, due))
        self._count(block, 1)

    def _count(self, block: Block, sign: int) -> None:
        self._frames += sign * (len(block.audio) // FRAME_BYTES)
        self._ends += sign * block.last

    def _seconds(self, block: Block) -> float:
        return len(block.audio) / (FRAME_BYTES * self._rate)

    @staticmethod
    def _split(block: Block, frames: int) -> tuple[Block, Block]:
        size = frames * FRAME_BYTES
        position = block.start + (block.end - block.start) * size / len(block.audio)
        return (
            block._replace(audio=block.audio[:size], end=position, last=False),
            block._replace(audio=block.audio[size:], start=position),
        )

    def _unpull(self, now: float) -> list[tuple[Block, float]]:
        """Take out what was pulled and is not audible yet: blocks, and when each would be."""
        found = []
        for block, at in self._pulled:
            frames = int((now - at) * self._rate)
            if frames > 0:
                block, at = self._split(block, frames)[1], at + frames / self._rate
            self.played_seconds -= self._seconds(block)
            found.append((block, at))
        self._pulled.clear()
        return found

    def _settle(self, now: float) -> None:
        """Account for what is audible by now."""
        if self._heard is None:
            return
        position, utterance, state = self._heard
        begun = state == "playing"
        while self._pulled and self._pulled[0][1] <= now:
            block, at = self._pulled[0]
            begun, utterance, seconds = True, block.utterance, self._seconds(block)
            if now < at + seconds:
                position = int(block.start + (block.end - block.start) * (now - at) / seconds)
                break
            position = int(block.end)
            self._pulled.popleft()
        if begun and (self._pulled or self._flowing):
            state = "playing"
        elif begun:
            state = "starved" if self._open else "idle"
        self._heard = Heard(position, utterance, state)
