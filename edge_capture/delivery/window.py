"""The chunks that are published and not yet acknowledged."""

from __future__ import annotations

from collections import deque

from ..chunks import Chunk


class Window:
    """A session's chunks in flight, in order of their sequence numbers.

    It decides what is sent again, and does no I/O. Times are on the monotonic clock.
    """

    def __init__(self, max_chunks: int) -> None:
        self._max_chunks = max_chunks
        self._chunks: dict[int, tuple[Chunk, float]] = {}
        """Each chunk with the time when it was last sent, by sequence number."""
        self._to_resend: deque[int] = deque()
        self._next_seq = 0
        """The number after the last that was sent."""

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def full(self) -> bool:
        """Whether no new chunk may be sent."""
        return len(self._chunks) >= self._max_chunks

    @property
    def resending(self) -> bool:
        """Whether chunks wait to be sent again."""
        return bool(self._to_resend)

    def add(self, seq: int, chunk: Chunk, now: float) -> None:
        """Record that a new chunk is sent."""
        self._next_seq = seq + 1
        self._chunks[seq] = (chunk, now)

    def resend_all(self) -> None:
        """Queue every chunk to be sent again."""
        self._to_resend = deque(self._chunks)

    def next_to_resend(self, now: float) -> tuple[int, Chunk] | None:
        """Return the next queued chunk that is still unacknowledged, which is sent `now`."""
        while self._to_resend:
            seq = self._to_resend.popleft()
            if seq in self._chunks:
                return self._sent_again(seq, now)
        return None

    def oldest(self, now: float) -> tuple[int, Chunk] | None:
        """Return the oldest chunk, which is sent again `now`, or None."""
        seq = next(iter(self._chunks), None)
        return None if seq is None else self._sent_again(seq, now)

    def overdue(self, now: float, timeout_s: float) -> bool:
        """Return whether the oldest chunk has been unacknowledged for longer than `timeout_s`."""
        if not self._chunks or self._to_resend:
            return False
        _, sent = next(iter(self._chunks.values()))
        return now - sent > timeout_s

    def acknowledge(self, seq: int) -> tuple[bool, int | None]:
        """Remove a stored chunk.

        Returns whether it was in the window and, if it was the oldest, the number before which all
        chunks are stored.
        """
        oldest = next(iter(self._chunks), None)
        removed = self._chunks.pop(seq, None) is not None
        if seq != oldest:
            return removed, None
        return removed, next(iter(self._chunks), self._next_seq)

    def __contains__(self, seq: int) -> bool:
        return seq in self._chunks

    def clear(self) -> None:
        """Forget all chunks."""
        self._chunks.clear()
        self._to_resend.clear()

    def _sent_again(self, seq: int, now: float) -> tuple[int, Chunk]:
        chunk, _ = self._chunks[seq]
        self._chunks[seq] = (chunk, now)
        return seq, chunk
