"""Received chunks that are not due yet, and the choice between chunks with the same number.

Pure: the caller passes how long it has waited.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

_MAX_CHUNKS, _MAX_BYTES = 128, 4 * 1024 * 1024
_MAX_OTHER_VERSIONS = 3
_CHECKED_AFTER = 8
"""How many chunks after an unconfirmed one may contradict it."""
_UNCONFIRMED_S, _IMPLAUSIBLE_S = 3.0, 12.0
"""How long to wait for another chunk with the same number when a chunk does not begin where the
last one ended and the chunk after it does not confirm it; and how long when it would also make a
gap that is longer than `LONGEST_LONE_GAP_S` and that no chunk follows."""
LONGEST_LONE_GAP_S = 60.0


class Chunk(NamedTuple):
    """A chunk, or the part of it that lies after the position where the feed was opened."""

    seq: int
    position: int
    frames: int
    payload: bytes
    time_ns: int
    arrived: float
    """time.monotonic() when it reached this process."""
    end: bool
    stream_sequence: int
    """Its sequence in STT_AUDIO; 0 if it was received live and has not been seen in the stream."""
    note: str = ""
    """Its Audio-Note. Empty for a live chunk that was next in order."""


class ReorderBuffer:
    """Received chunks by number, bounded in number and bytes.

    There may be several chunks with one number at different positions, forged or sent by a faulty
    edge; at most one of them is valid. Without this choice, a single forged chunk that arrives
    before the real one moves the session's clock, and all real chunks after it are refused.
    """

    def __init__(self, sample_rate: int) -> None:
        self._chunks: dict[int, Chunk] = {}
        self._other_versions: dict[int, list[Chunk]] = {}
        self._bytes = 0
        self._last: int | None = None
        """The greatest number, if known."""
        self._longest_lone_gap = LONGEST_LONE_GAP_S * sample_rate

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, seq: int) -> bool:
        return seq in self._chunks

    @property
    def by_seq(self) -> Mapping[int, Chunk]:
        """One chunk per number; always the same mapping."""
        return self._chunks

    @property
    def chunks(self) -> Collection[Chunk]:
        """One chunk per number."""
        return self._chunks.values()

    @property
    def first(self) -> int:
        """The least number. Raises ValueError if there are no chunks."""
        return min(self._chunks)

    @property
    def last(self) -> int:
        """The greatest number. Raises ValueError if there are no chunks."""
        if self._last is None:
            self._last = max(self._chunks)
        return self._last

    @property
    def full(self) -> bool:
        return len(self._chunks) >= _MAX_CHUNKS or self._bytes >= _MAX_BYTES

    def add(self, chunk: Chunk) -> None:
        """Add a chunk, or note the stream sequence of one that is here already.

        Of chunks with the same number and position, the one that was stored first is valid.
        """
        present = self._chunks.get(chunk.seq)
        if present is None:
            self._bytes += len(chunk.payload)
            self._chunks[chunk.seq] = chunk
            if self._last is not None and chunk.seq > self._last:
                self._last = chunk.seq
        elif present.position != chunk.position:
            self._add_version(chunk)
        elif (present.payload, present.end) != (chunk.payload, chunk.end):
            # The live one of the two may be a later, forged chunk: the stream knows the order.
            if 0 < chunk.stream_sequence < (present.stream_sequence or chunk.stream_sequence + 1):
                self._bytes += len(chunk.payload) - len(present.payload)
                self._chunks[chunk.seq] = chunk
        elif not present.stream_sequence:
            self._chunks[chunk.seq] = present._replace(stream_sequence=chunk.stream_sequence)

    def _add_version(self, chunk: Chunk) -> None:
        others = self._other_versions.setdefault(chunk.seq, [])
        known = any(other.position == chunk.position for other in others)
        if not known and len(others) < _MAX_OTHER_VERSIONS and self._bytes < _MAX_BYTES:
            others.append(chunk)
            self._bytes += len(chunk.payload)

    def versions(self, seq: int) -> list[Chunk]:
        """All chunks with this number."""
        present = self._chunks.get(seq)
        return [] if present is None else [present, *self._other_versions.get(seq, ())]

    def drop(self, seq: int) -> None:
        """Remove all chunks with this number."""
        if seq == self._last:
            self._last = None
        self._bytes -= len(self._chunks.pop(seq).payload)
        for other in self._other_versions.pop(seq, ()):
            self._bytes -= len(other.payload)

    def next_missing(self, chunk: Chunk) -> bool:
        """Whether the chunk with the next number is missing."""
        return chunk.seq + 1 not in self._chunks

    def choose(
        self, seq: int, position: int, waited: float | None, patience: float
    ) -> Chunk | None:
        """The chunk with number `seq`, given that the previous one ended at `position`.

        None if it is missing or unconfirmed. `waited` is how many seconds it has been unconfirmed
        (None: not before), `patience` the maximum.
        """
        present = self._chunks.get(seq)
        if present is None or present.position == position:
            return present  # the usual case
        versions = self.versions(seq)
        for chunk in versions:
            if chunk.position == position:
                return chunk
        likely = [chunk for chunk in versions if self.confirmed(chunk, position)]
        if likely or waited is None:
            return min(likely, default=None, key=_position)
        # Nothing better was received: accept the gap unless it is implausible.
        later = (chunk for chunk in versions if chunk.position > position)
        possible = (chunk for chunk in later if not self.contradicted(chunk, position))
        chunk = min(possible, default=present, key=_position)
        implausible = (
            self.next_missing(chunk) and chunk.position - position > self._longest_lone_gap
        )
        wait = min(patience, _IMPLAUSIBLE_S if implausible else _UNCONFIRMED_S)
        return chunk if waited >= wait else None

    def confirmed(self, chunk: Chunk, position: int) -> bool:
        """Whether the next chunk confirms one that lies ahead of `position`, by beginning where it
        ends or later."""
        end = chunk.position + chunk.frames
        follows = [version.position >= end for version in self.versions(chunk.seq + 1)]
        return chunk.position > position and any(follows)

    def contradicted(self, chunk: Chunk, position: int) -> bool:
        """Whether later chunks show that one that lies ahead of `position` cannot be there."""
        end, against, last = chunk.position + chunk.frames, 0, position
        for seq in range(chunk.seq + 1, chunk.seq + _CHECKED_AFTER + 1):
            positions = [version.position for version in self.versions(seq)]
            if any(position >= end for position in positions):
                return False
            if any(position > last for position in positions):
                against, last = against + 1, max(positions)
        return against >= 2


def _position(chunk: Chunk) -> int:
    return chunk.position
