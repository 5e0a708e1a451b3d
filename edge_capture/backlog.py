"""What a session has captured and not yet sent, in memory."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path

from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from .chunks import Chunk

log = logging.getLogger(__name__)

AHEAD_CHUNKS = 16
"""Chunks that a file may be ahead of what is being sent: it can be read later."""


class Backlog:
    """A session's chunks in order. They get their numbers when they are taken, so that those that
    follow dropped sound leave no hole in them."""

    place = "buffer"

    def __init__(
        self, spec: SessionSpec, *, most_seconds: float, ahead_chunks: int | None = None
    ) -> None:
        """`ahead_chunks`: when a source that can wait is to do so; nothing of it is dropped then.

        None is for a source that cannot: of its sound the newest `most_seconds` are kept.
        """
        self.spec = spec
        self.ended = False
        """Whether nothing more will be put."""
        self.lost_frames = 0
        self.sent_seconds = 0.0
        """Sound that a former run has sent of it, at most."""
        self.sent_ago_s = 0.0
        """How long ago that was, for the last 10 s of sound at most not so long."""
        self._format = spec.audio_format
        self._most_bytes = int(most_seconds * spec.sample_rate) * self._format.frame_bytes
        self._ahead_chunks = ahead_chunks
        self._waiting: deque[Chunk] = deque()
        self._waiting_bytes = 0
        self._next_seq = 0
        self._overflowing = False

    def __len__(self) -> int:
        """Chunks that wait to be taken."""
        return len(self._waiting)

    @property
    def safe(self) -> bool:
        """Whether what waits outlives this process."""
        return False

    @property
    def kept_aside(self) -> Path | None:
        """Where files stay of which something could not be read, or None."""
        return None

    @property
    def full(self) -> bool:
        """Whether a source that can wait should."""
        return self._ahead_chunks is not None and len(self) >= self._ahead_chunks

    def put(self, chunk: Chunk) -> None:
        """Keep a chunk; none may follow one with `end`."""
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk.payload)
        self.ended = chunk.end
        while (
            self._ahead_chunks is None
            and self._waiting_bytes > self._most_bytes
            and len(self._waiting) > 1
        ):
            dropped = self._waiting.popleft()
            self._waiting_bytes -= len(dropped.payload)
            self._count_dropped(self._format.frames(len(dropped.payload)))

    def take(self) -> tuple[int, Chunk] | None:
        """The oldest chunk and its `Audio-Seq`; None if there is none, or none can be had now."""
        if not self._waiting:
            return None
        chunk = self._waiting.popleft()
        self._waiting_bytes -= len(chunk.payload)
        return self._numbered(self._next_seq, chunk)

    def settled(self, seq: int) -> None:
        """Note that of the chunks taken all before number `seq` are stored."""

    def discard(self) -> None:
        """Note that the session has ended, and that all of it is stored or none of it needed."""

    def _numbered(self, seq: int, chunk: Chunk) -> tuple[int, Chunk]:
        self._next_seq = seq + 1
        if self._overflowing and not len(self):
            self._overflowing = False
            log.warning(
                "the %s is empty again; %.1f s of sound were dropped in all",
                self.place,
                self._format.seconds(self.lost_frames),
                extra=fields(session=str(self.spec.key)),
            )
        return seq, chunk

    def _count_dropped(self, frames: int) -> None:
        self.lost_frames += frames
        if not self._overflowing:
            self._overflowing = True
            log.warning(
                "the %s is full: the oldest sound is dropped until the broker takes chunks",
                self.place,
                extra=fields(session=str(self.spec.key)),
            )
