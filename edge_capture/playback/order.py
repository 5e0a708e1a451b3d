"""The order of a session's chunks of speech: which one is played next.

Pure: it reads no clock and knows no broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from natterjack.voice.audio import FRAME_BYTES, SpeechHeader

MAX_WAITING_BYTES = 8 * 1024 * 1024
MAX_WAITING = 4096
"""How much waits behind missing chunks at most. What comes beyond that is asked for again."""

Verdict = Literal["taken", "duplicate", "stale", "overflow", "rate"]
"""The result of adding a chunk. `stale`: a newer lease of the session's worker publishes in its
place; `rate`: it has another sample rate than the session."""


class Chunk(NamedTuple):
    """A chunk of speech as it was published."""

    header: SpeechHeader
    payload: bytes


class Order:
    """The chunks of one session by their numbers, each of them once.

    The newest epoch counts from its first chunk on: from there, chunks of older ones are dropped,
    even if they came first. What was taken of them is not played twice, because positions decide
    which frames of a chunk are new.
    """

    def __init__(self, session_id: str, sample_rate: int) -> None:
        self.session_id = session_id
        self.sample_rate = sample_rate
        self.next: int | None = None
        """Number of the chunk that is taken next. None until `start`, or until chunk 0 has come."""
        self.position = 0
        """Position of the frame that is taken next."""
        self._started = False
        self._highest = -1
        self._epoch = 0
        """The newest epoch."""
        self._first = 0
        """Lowest number that a chunk of the newest epoch has."""
        self._taken_epoch = 0
        self._follows = False
        """True if the chunk before `next` was taken."""
        self._doubted: int | None = None
        """The chunk that did not begin where the one before it ended."""
        self._waiting: dict[int, Chunk] = {}
        self._waiting_bytes = 0

    @property
    def missing(self) -> int | None:
        """Number of the first chunk that has not come, if a later one has; 0 until `start`."""
        if self.next is None:
            return None if self._started else 0
        if self._highest < self.next or self.next in self._waiting:
            return None
        return self.next

    def start(self) -> None:
        """Begin with the first chunk that has come, or that comes: there is no earlier one."""
        self._started = True
        if self.next is None and self._waiting:
            self._begin_at(min(self._waiting))

    def begin(self, seq: int) -> None:
        """Begin with this chunk, unless it has begun: all before it were played."""
        if self.next is None:
            self._drop([number for number in self._waiting if number < seq])
            self._begin_at(seq)

    def skip(self) -> None:
        """Give up the missing chunks before the first that has come."""
        if self.missing is not None and self._waiting:
            self.next = min(self._waiting)
            self._follows = False

    def add(self, header: SpeechHeader, payload: bytes) -> Verdict:
        """Add a chunk of this session. A cut drops everything before it that was not taken."""
        seq = header.seq
        if header.sample_rate != self.sample_rate:
            return "rate"
        if header.epoch < self._epoch and seq >= self._first:
            return "stale"
        if header.epoch > self._epoch:
            self._epoch, self._first = header.epoch, seq
            self._drop_older_epochs()
        elif header.epoch == self._epoch and seq < self._first:
            self._first = seq
            self._drop_older_epochs()
        other = self._waiting.get(seq)
        if other is not None and other.header.epoch < header.epoch:
            self._drop([seq])
        elif other is not None or (self.next is not None and seq < self.next):
            return "duplicate"
        self._highest = max(self._highest, seq)
        if header.cut:
            self._drop([number for number in self._waiting if number < seq])
            self._begin_at(seq)
            self.position = header.pos
        elif self.next is None and (self._started or seq == 0):
            self._begin_at(seq)
        full = (
            len(self._waiting) >= MAX_WAITING
            or self._waiting_bytes + len(payload) > MAX_WAITING_BYTES
        )
        if full and seq != self.next:
            return "overflow"
        self._waiting[seq] = Chunk(header, payload)
        self._waiting_bytes += len(payload)
        return "taken"

    def take(self) -> Chunk | None:
        """Return the next chunk, without frames that an earlier one had; None if it is missing.

        Its position is beyond `position` if the frames between exist nowhere.
        """
        chunk = self._waiting.get(self.next) if self.next is not None else None
        if chunk is None or self.next is None:
            return None
        header, payload = chunk
        if header.pos > self.position and self._follows and self._doubted != self.next:
            # The chunk before was another one than that of the newest lease: ask for it, once.
            self._doubted = self.next
            self.next -= 1
            return None
        self._follows = True
        del self._waiting[self.next]
        self._waiting_bytes -= len(payload)
        self._taken_epoch = header.epoch
        self.next += 1
        known = self.position - header.pos
        if known > 0:
            payload = payload[known * FRAME_BYTES :]
            header = header._replace(pos=self.position)
        self.position = header.pos + len(payload) // FRAME_BYTES
        return Chunk(header, payload)

    def _begin_at(self, seq: int) -> None:
        self._started = True
        self.next = seq

    def _drop_older_epochs(self) -> None:
        """Drop what older epochs have published in place of the newest."""
        self._drop(
            [
                number
                for number, chunk in self._waiting.items()
                if number >= self._first and chunk.header.epoch < self._epoch
            ]
        )
        if self.next is not None and self._first < self.next and self._taken_epoch < self._epoch:
            self.next, self._follows = self._first, False

    def _drop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._waiting_bytes -= len(self._waiting.pop(number).payload)
