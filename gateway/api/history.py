"""The newest events of a conversation, as messages that every viewer receives alike. Pure.

A viewer has no queue of its own: it has a number, the place of its next message. So a slow viewer
costs nothing but its socket's buffer, and one that falls out of the history has to begin again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from natterjack.position import Position, nanoseconds

from .sse import Start


class Entry(NamedTuple):
    """One message."""

    kind: str
    """The kind of its event; `marker` for one that is no event."""
    message: bytes
    position: Position | None = None


class History:
    """Messages in the order in which they were stored, at most about `max_bytes` of them. Each has
    a number; the numbers of two neighbors differ by one."""

    def __init__(self, since_ns: int, max_bytes: int) -> None:
        """`since_ns`: from when on it will have everything, in nanoseconds since the epoch."""
        self.since_ns = since_ns
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: list[Entry] = []
        self._numbers: dict[Position, int] = {}
        self.first = 0
        """The number of the first message that is kept."""

    @property
    def end(self) -> int:
        """The number of the message that comes next."""
        return self.first + len(self._entries)

    def append(self, entry: Entry) -> None:
        """Add the newest message. Drops the oldest ones if there are too many bytes."""
        if entry.position is not None:
            self._numbers[entry.position] = self.end
        self._entries.append(entry)
        self._bytes += len(entry.message)
        if self._bytes > self._max_bytes:
            self._drop()

    def _drop(self) -> None:
        """Drop a quarter at once: that moves the rest of the list once."""
        count = 0
        while self._bytes > self._max_bytes * 3 // 4 and count < len(self._entries) - 1:
            entry = self._entries[count]
            count += 1
            self._bytes -= len(entry.message)
            if entry.position is not None:
                self.since_ns = max(self.since_ns, entry.position.stored_ns + 1)
                self._numbers.pop(entry.position, None)
        del self._entries[:count]
        self.first += count

    def prepend(self, entries: Sequence[Entry], since_ns: int) -> None:
        """Add the messages before the first one, from a time on, if there is room for them."""
        size = sum(len(entry.message) for entry in entries)
        if self._bytes + size > self._max_bytes * 3 // 4:
            return
        self._entries[:0] = entries
        self._bytes += size
        self.first -= len(entries)
        self.since_ns = since_ns
        for number, entry in enumerate(entries, self.first):
            if entry.position is not None:
                self._numbers[entry.position] = number

    def after(self, start: Start) -> int | None:
        """The number of a viewer's first message; None if messages before those that are kept may
        be wanted.

        An event that is not in the stream any more is looked for by its time.
        """
        if start is None:
            return self.end
        if isinstance(start, Position):
            number = self._numbers.get(start)
            if number is not None:
                return number + 1
            wanted_ns = start.stored_ns + 1
        else:
            wanted_ns = nanoseconds(start)
        if wanted_ns < self.since_ns:
            return None
        for number, entry in enumerate(self._entries, self.first):
            if entry.position is not None and entry.position.stored_ns >= wanted_ns:
                return number
        return self.end

    def read(self, number: int, max_bytes: int) -> Sequence[Entry]:
        """The messages from a number on, up to `max_bytes` or one message. Raises: LookupError if
        the first of them was dropped."""
        index = number - self.first
        if index < 0:
            raise LookupError(f"message {number} is not kept")
        size, end = 0, index
        while end < len(self._entries) and (size < max_bytes or end == index):
            size += len(self._entries[end].message)
            end += 1
        return self._entries[index:end]
