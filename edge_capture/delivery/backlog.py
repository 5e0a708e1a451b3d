"""The audio that a session has captured and not yet sent, held in memory."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path

from natterjack.notices import (
    DROPPED,
    UNNAMED_GAP,
    Note,
    gap_cause,
    join_notes,
    merge_notes,
    parse_notes,
    spread_notes,
)
from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from ..chunks import Chunk

log = logging.getLogger(__name__)

AHEAD_CHUNKS = 16
"""How many chunks of a file may wait. A file can be read later, so there is no need for more."""


def with_earlier_notes(chunk: Chunk, note: str) -> Chunk:
    """Return a chunk that also has the notes of one before it, which is dropped."""
    merged = merge_notes(parse_notes(note), parse_notes(chunk.note))
    return chunk._replace(note=join_notes(merged))


class Backlog:
    """A queue of a session's chunks.

    A chunk gets its sequence number when it is taken, so dropped chunks leave no holes.
    """

    name = "buffer"
    """Name in log lines."""

    def __init__(
        self, spec: SessionSpec, *, max_seconds: float, ahead_chunks: int | None = None
    ) -> None:
        """Create a backlog for a source that can wait, or for live audio.

        A source that can wait pauses when `ahead_chunks` are queued, and none of its chunks are
        dropped. With None, the audio is live: only the newest `max_seconds` are kept.
        """
        self.spec = spec
        self._current = spec
        self._end_position: int | None = None
        self.ended = False
        """Whether the last chunk of the session has been put."""
        self.requested = False
        """Whether the request of the session is known to be stored."""
        self.dropped_frames = 0
        self.sent_seconds = 0.0
        """Upper bound of the audio that an earlier run has sent."""
        self.sent_ago_s = 0.0
        """Seconds since that audio was sent; up to 10 s of it may have been sent later."""
        self._format = spec.audio_format
        self._max_bytes = int(max_seconds * spec.sample_rate) * self._format.frame_bytes
        self._ahead_chunks = ahead_chunks
        self._waiting: deque[Chunk] = deque()
        self._waiting_bytes = 0
        self._next_seq = 0
        self._taken_pos = 0
        """Position after the chunk that was taken last."""
        self._overflowing = False
        self._notes_left: list[Note] = []
        """Notes of dropped chunks for which the next one had no room."""

    def __len__(self) -> int:
        """Return the number of chunks that wait to be taken."""
        return len(self._waiting)

    @property
    def current(self) -> SessionSpec:
        """The request of the session that transcribes the audio now: the first one or a successor.
        `spec` is that of the first, whose ID the chunks have."""
        return self._current

    async def succeed(self, spec: SessionSpec) -> None:
        """Return when it is recorded that `spec` is the current session from now on, so that its
        request may be sent."""
        self._current = spec

    @property
    def end_position(self) -> int | None:
        """The position after the last frame, or None until the last chunk has been put."""
        return self._end_position

    @property
    def durable(self) -> bool:
        """Whether waiting chunks survive the end of this process."""
        return False

    @property
    def damaged_directory(self) -> Path | None:
        """Directory that keeps files which could not be read completely, or None."""
        return None

    @property
    def full(self) -> bool:
        """Whether a source that can wait should pause."""
        return self._ahead_chunks is not None and len(self) >= self._ahead_chunks

    def put(self, chunk: Chunk) -> None:
        """Add a chunk. No chunk may follow one with `end`."""
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk.payload)
        self.ended = chunk.end
        if chunk.end:
            self._end_position = chunk.pos + self.spec.frames(chunk.payload)
        while (
            self._ahead_chunks is None
            and self._waiting_bytes > self._max_bytes
            and len(self._waiting) > 1
        ):
            dropped = self._waiting.popleft()
            self._waiting_bytes -= len(dropped.payload)
            self._count_dropped(self.spec.frames(dropped.payload))
            if dropped.note:
                self._waiting[0] = with_earlier_notes(self._waiting[0], dropped.note)

    def take(self) -> tuple[int, Chunk] | None:
        """Remove the oldest chunk and return it with its `Audio-Seq`.

        Returns None if there is none, or none is available yet.
        """
        if not self._waiting:
            return None
        chunk = self._waiting.popleft()
        self._waiting_bytes -= len(chunk.payload)
        return self._numbered(self._next_seq, chunk)

    def acknowledge(self, before_seq: int) -> None:
        """Record that the broker has stored every chunk before number `before_seq`."""

    def discard(self) -> None:
        """Record that the session's chunks are no longer needed."""

    def _numbered(self, seq: int, chunk: Chunk) -> tuple[int, Chunk]:
        gap = chunk.pos != self._taken_pos and seq == self._next_seq
        if gap or chunk.note or self._notes_left:
            chunk = self._noted(chunk, gap=gap)
        self._taken_pos = chunk.pos + self.spec.frames(chunk.payload)
        self._next_seq = seq + 1
        if self._overflowing and not len(self):
            self._overflowing = False
            log.warning(
                "the %s is empty again; %.1f s of audio were dropped in total",
                self.name,
                self._format.seconds(self.dropped_frames),
                extra=fields(session=str(self.spec.key)),
            )
        return seq, chunk

    def _noted(self, chunk: Chunk, *, gap: bool) -> Chunk:
        """Return the chunk with the notes that it has room for. There is a `gap` before it."""
        own = parse_notes(chunk.note)
        if gap and gap_cause(chunk.note) == UNNAMED_GAP:
            own = (Note(DROPPED, ended=True), *own)  # whatever else was lost is named
        taken, self._notes_left = spread_notes(self._notes_left, own)
        return chunk._replace(note=join_notes(taken))

    def _count_dropped(self, frames: int) -> None:
        self.dropped_frames += frames
        if not self._overflowing:
            self._overflowing = True
            log.warning(
                "the %s is full: the oldest audio is dropped until the broker accepts chunks",
                self.name,
                extra=fields(session=str(self.spec.key)),
            )
