"""Chunks that have come and are not given out yet, and which of several of one number is true.

Pure: it is told how long was waited.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

_MAX_CHUNKS, _MAX_BYTES = 128, 4 * 1024 * 1024
_MAX_RIVALS = 3
_WITNESSES = 8
"""Chunks behind a doubtful one that are asked about it."""
_DOUBT_S, _ABSURD_DOUBT_S = 3.0, 12.0
"""How long another chunk of the same number is awaited when one is not where the last one ended and
the chunk behind it does not bear it out; and when it would make a gap that nothing follows and that
is longer than any that is likely."""
LONGEST_LONE_GAP_S = 60.0


class Chunk(NamedTuple):
    """A chunk, or the part of it from where the feed was opened."""

    seq: int
    position: int
    frames: int
    payload: bytes
    time_ns: int
    arrived: float
    """time.monotonic() when it reached this process."""
    end: bool
    stream_sequence: int
    """0 when it came live and has not been seen in the stream."""


class Held:
    """The chunks at hand, by number. Of one number there may be some at several positions (forged,
    or by a fault of the edge): at most one of them is true."""

    def __init__(self, sample_rate: int) -> None:
        self._chunks: dict[int, Chunk] = {}
        self._rivals: dict[int, list[Chunk]] = {}
        self._bytes = 0
        self._last: int | None = None
        """Greatest number, if it is known."""
        self._longest_lone_gap = LONGEST_LONE_GAP_S * sample_rate

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, seq: int) -> bool:
        return seq in self._chunks

    @property
    def by_seq(self) -> Mapping[int, Chunk]:
        """One of each number; the same mapping always."""
        return self._chunks

    @property
    def chunks(self) -> Collection[Chunk]:
        """One of each number."""
        return self._chunks.values()

    @property
    def first(self) -> int:
        """Least number. Raises ValueError when nothing is held."""
        return min(self._chunks)

    @property
    def last(self) -> int:
        """Greatest number. Raises ValueError when nothing is held."""
        if self._last is None:
            self._last = max(self._chunks)
        return self._last

    @property
    def full(self) -> bool:
        return len(self._chunks) >= _MAX_CHUNKS or self._bytes >= _MAX_BYTES

    def add(self, chunk: Chunk) -> None:
        """Hold a chunk, or learn where one that is held is stored."""
        held = self._chunks.get(chunk.seq)
        if held is None:
            self._bytes += len(chunk.payload)
            self._chunks[chunk.seq] = chunk
            if self._last is not None and chunk.seq > self._last:
                self._last = chunk.seq
        elif held.position != chunk.position:
            self._add_rival(chunk)
        elif not held.stream_sequence:
            self._chunks[chunk.seq] = held._replace(stream_sequence=chunk.stream_sequence)

    def _add_rival(self, chunk: Chunk) -> None:
        rivals = self._rivals.setdefault(chunk.seq, [])
        known = any(rival.position == chunk.position for rival in rivals)
        if not known and len(rivals) < _MAX_RIVALS and self._bytes < _MAX_BYTES:
            rivals.append(chunk)
            self._bytes += len(chunk.payload)

    def versions(self, seq: int) -> list[Chunk]:
        """All of this number."""
        held = self._chunks.get(seq)
        return [] if held is None else [held, *self._rivals.get(seq, ())]

    def drop(self, seq: int) -> None:
        """Let go of all of this number."""
        if seq == self._last:
            self._last = None
        self._bytes -= len(self._chunks.pop(seq).payload)
        for rival in self._rivals.pop(seq, ()):
            self._bytes -= len(rival.payload)

    def lone(self, chunk: Chunk) -> bool:
        """Whether nothing is held that follows it."""
        return chunk.seq + 1 not in self._chunks

    def choose(
        self, seq: int, position: int, waited: float | None, patience: float
    ) -> Chunk | None:
        """The chunk numbered `seq`, where the one before it ended at `position`; None if it is not
        there, or in doubt. `waited`: for how many seconds it has been; None: not yet. `patience`:
        how many it may be, at most."""
        held = self._chunks.get(seq)
        if held is None or held.position == position:
            return held  # nearly always
        versions = self.versions(seq)
        for chunk in versions:
            if chunk.position == position:
                return chunk
        likely = [chunk for chunk in versions if self.borne_out(chunk, position)]
        if likely or waited is None:
            return min(likely, default=None, key=_position)
        # Nothing better has come: what may be a gap is one, unless it is absurd.
        later = (chunk for chunk in versions if chunk.position > position)
        able = (chunk for chunk in later if not self.contradicted(chunk, position))
        chunk = min(able, default=held, key=_position)
        absurd = self.lone(chunk) and chunk.position - position > self._longest_lone_gap
        wait = min(patience, _ABSURD_DOUBT_S if absurd else _DOUBT_S)
        return chunk if waited >= wait else None

    def borne_out(self, chunk: Chunk, position: int) -> bool:
        """Whether the chunk behind one that lies ahead of `position` begins where it ends, or
        later."""
        end = chunk.position + chunk.frames
        behind = [version.position >= end for version in self.versions(chunk.seq + 1)]
        return chunk.position > position and any(behind)

    def contradicted(self, chunk: Chunk, position: int) -> bool:
        """Whether chunks behind one that lies ahead of `position` agree that it is not there."""
        end, against, last = chunk.position + chunk.frames, 0, position
        for seq in range(chunk.seq + 1, chunk.seq + _WITNESSES + 1):
            positions = [version.position for version in self.versions(seq)]
            if any(position >= end for position in positions):
                return False
            if any(position > last for position in positions):
                against, last = against + 1, max(positions)
        return against >= 2


def _position(chunk: Chunk) -> int:
    return chunk.position
