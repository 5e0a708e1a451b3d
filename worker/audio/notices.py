"""The notices of a session's audio: counted once, and kept until they are published. Pure.

Chunks are met in order, and those after the last final again by the next worker. From
its position, and its place among those of the chunk, it is known whether a notice was counted, and
whether it was published.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from natterjack.notices import Note, changes, label, parse_notes

MAX_PUBLISHED = 500
"""How many notices of a session are published. Further ones are only counted: a faulty or hostile
edge must not fill the stream."""


class Notice(NamedTuple):
    """A notice that is to be published."""

    position: int
    note: Note
    time_ns: int
    """Wall clock of the position, or 0 if it is unknown."""


class Published(NamedTuple):
    """The last notice of the audio that was published."""

    position: int
    note: Note


class Notices:
    """The notices of one session."""

    __slots__ = ("_last", "_met_until", "_pending", "_published", "counted_until", "counts")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """All notices by code, which is OTHER if it is not known."""
        self.counted_until = -1
        """The position up to which notices are counted."""
        self._met_until = -1
        """The position up to which this worker has met notices."""
        self._pending: deque[Notice] = deque()
        self._last: Published | None = None
        """The last one that is known to be published."""
        self._published: int | None = None
        """How many were published; None until that was read."""

    @property
    def pending(self) -> bool:
        """Whether there are notices that are not known to be published."""
        return bool(self._pending)

    @property
    def suppressed(self) -> int:
        """How many notices are counted and will never be published."""
        return max(0, self.counts.total() - MAX_PUBLISHED)

    def adopt(self, counts: Mapping[str, int], counted_until: int) -> None:
        """Continue the counts of another worker."""
        self.counts, self.counted_until = Counter(counts), counted_until

    def meet(self, position: int, note: str, time_ns: int) -> list[str]:
        """Take the notices of the chunk at `position`. Return the labels of those that were not
        counted before."""
        if position <= self._met_until:
            return []
        self._met_until = position
        found = changes(parse_notes(note))
        # Those that no worker will publish are not kept.
        room = max(0, MAX_PUBLISHED - (self._published or 0) - len(self._pending))
        self._pending += (
            Notice(position, each, time_ns) for each in self._later(position, found)[:room]
        )
        if position <= self.counted_until:
            return []
        self.counted_until = position
        labels = [label(each.code) for each in found]
        self.counts.update(labels)
        return labels

    def resume(self, published: int, last: Published | None) -> None:
        """Note that the session has published so many, and which is the last one of its audio.
        What is not later than that one is not to be published, whenever it is met."""
        self._published = published
        if last is None or last == self._last:
            return
        self._last = last
        same = [each.note for each in self._pending if each.position == last.position]
        later = self._later(last.position, same)
        same = same[: len(same) - len(later)]
        kept = [each for each in self._pending if each.position >= last.position]
        self._pending = deque(kept[len(same) :])

    def _later(self, position: int, notes: list[Note]) -> list[Note]:
        """The notices at a position that come after the last one that was published."""
        last = self._last
        if last is None or position > last.position:
            return notes
        if position < last.position or last.note not in notes:
            return []
        return notes[notes.index(last.note) + 1 :]

    def next(self) -> tuple[int, Notice] | None:
        """The next notice to publish, with its number in the session; None if there is none, or
        the session has too many. Call it after `resume`."""
        assert self._published is not None
        if self._published >= MAX_PUBLISHED:
            self._pending.clear()
        return (self._published, self._pending[0]) if self._pending else None

    def published(self) -> None:
        """Note that the next notice is stored."""
        assert self._published is not None
        self._published += 1
        position, note, _ = self._pending.popleft()
        self._last = Published(position, note)

    def drop(self) -> None:
        """Give up all that are pending: the stream does not take them."""
        self._pending.clear()
