"""The events that a process has read for its shares, and which of them are due, delivered and
settled.

Pure: it knows no clock, broker or task. Each key has a lane, in which events wait in the order of
the stream. The next event of a lane is due once all before it are settled, so that the order within
a session is kept whatever happens to one of its events.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from natterjack.position import Position

from .record import Cursor, Record, covers

T = TypeVar("T")

_MOST_BEHIND = 256
"""Keys in a share's stored progress. If there are more, less counts as read."""


@dataclass(slots=True, eq=False)
class Item(Generic[T]):
    """An event that is not settled."""

    lane: Lane[T]
    number: int
    """The order in which this process has read."""
    position: Position
    before: Position | None
    """The message of the stream that was read before it; None if it was the first."""
    content: T
    attempts: int = 0
    """How often it was delivered."""
    delivery: int = 0
    """Changes whenever it is delivered or taken back: tells an older delivery."""
    late: int = 0
    """The delivery that was taken back because it took too long; 0 for none."""
    deadline: float = 0.0
    settled: bool = False


@dataclass(slots=True, eq=False)
class Lane(Generic[T]):
    """The unsettled events of one key."""

    share: Share[T]
    key: str
    waiting: deque[Item[T]] = field(default_factory=deque)
    out: deque[Item[T]] = field(default_factory=deque)
    """Delivered events. They all come before those that wait."""
    due: float = 0.0
    """Nothing of it is delivered before, in seconds since the epoch."""
    listed: bool = False
    """Whether it is among the backlog's lanes that may be ready, or are delayed."""

    @property
    def first(self) -> Item[T]:
        return (self.out or self.waiting)[0]


@dataclass(slots=True, eq=False)
class Share(Generic[T]):
    """A share that this process holds."""

    number: int
    revision: int
    """The revision of its stored progress."""
    stored: Record
    """Its progress when it was taken over."""
    resume: dict[str, Cursor]
    """The keys that were behind then; empty once everything up to `stored.read` was read again."""
    behind: bool
    """Whether something up to `stored.read` is still to be read again."""
    lanes: dict[str, Lane[T]] = field(default_factory=dict)
    seen: Position | None = None
    """Everything up to it is in the lanes already, if it was not settled."""
    fresh: bool = True
    """Whether reading has not yet begun for it."""
    confirmed: bool = True
    """Whether this process knows that it still holds the share. If not, nothing is delivered."""
    leaving: bool = False
    """Whether it is about to be given to another process."""
    dirty: bool = False
    """Whether its progress is to be stored."""
    saved: Position | None = None
    """`read` of the progress that was stored last."""
    doubts: int = 0
    """How often it was doubted that this process holds it."""

    def delivered(self) -> int:
        """The number of events that are delivered and not settled."""
        return sum(len(lane.out) for lane in self.lanes.values())


class Backlog(Generic[T]):
    """The shares of one process."""

    def __init__(self) -> None:
        self.shares: dict[int, Share[T]] = {}
        self.position: Position | None = None
        """The last message that was read, of any share."""
        self.out = 0
        """The number of events that are delivered and not settled."""
        self.size = 0
        """The number of events that are not settled, delivered ones included."""
        self._count = 0
        self._ready: deque[Lane[T]] = deque()
        self._delayed: list[tuple[float, int, Lane[T]]] = []

    # ---- shares ----------------------------------------------------------------------------------

    def hold(self, number: int, record: Record, revision: int) -> None:
        """Add a share that this process has taken over. Reading must begin again: see `begin`."""
        self.shares[number] = Share(
            number, revision, record, dict(record.behind), record.read is not None
        )

    def drop(self, number: int) -> None:
        """Forget a share that another process has or takes."""
        share = self.shares.pop(number)
        for lane in share.lanes.values():
            self.size -= len(lane.out) + len(lane.waiting)
            self.out -= len(lane.out)
            for item in (*lane.out, *lane.waiting):
                item.delivery += 1
            lane.out.clear()
            lane.waiting.clear()

    def begin(self) -> bool:
        """Return whether reading has to begin again for new shares: after `position`, or at the
        origin if that is None."""
        fresh = [share for share in self.shares.values() if share.fresh]
        if not fresh:
            return False
        floors = [share.stored.floor for share in fresh]
        for share in self.shares.values():
            if not share.fresh:
                share.seen = self.position
                floors.append(self.position)
            share.fresh = False
        known = [floor for floor in floors if floor is not None]
        first = min(known, default=None)
        if first is None or len(known) < len(floors):
            self.position = None
        else:
            # If not, some are of an older incarnation of the stream, or its clock was set back.
            self.position = first if all(covers(floor, first) for floor in known) else None
        return True

    def doubt(self) -> None:
        """Deliver nothing until the broker has confirmed that the shares are this process's."""
        for share in self.shares.values():
            share.confirmed, share.dirty = False, True
            share.doubts += 1

    def saved(
        self, share: Share[T], revision: int, read: Position | None, *, certain: bool
    ) -> None:
        """Progress of a share was stored; `certain` unless it was doubted meanwhile that this
        process holds it."""
        share.revision, share.saved = revision, read
        if certain and not share.confirmed:
            share.confirmed = True
            self._list(share.lanes.values())

    def record(self, share: Share[T], holder: str) -> Record:
        """The progress to store."""
        if share.fresh:
            return replace(share.stored, holder=holder)
        lanes = sorted(share.lanes.values(), key=lambda lane: lane.first.number)
        if share.behind:
            read, floor = share.stored.read, share.stored.floor
        else:
            read = self.position
            if read is None or covers(share.seen, read):
                read = share.seen  # reading has begun again before it, for another share
            floor = lanes[0].first.before if lanes else read
            if len(lanes) > _MOST_BEHIND:
                read = lanes[_MOST_BEHIND].first.before
        behind = dict(share.resume)
        for lane in lanes:
            first = lane.first
            if covers(read, first.position):  # what follows `read` is unsettled anyway
                behind[lane.key] = Cursor(first.position, first.attempts, lane.due)
        return Record(holder, read, floor, behind)

    # ---- reading ---------------------------------------------------------------------------------

    def add(self, position: Position, number: int, key: str, content: T | None) -> bool:
        """Add the next message of the stream; without content if it is not wanted. Return whether
        it waits to be delivered now."""
        before, self.position = self.position, position
        share = self.shares.get(number)
        added = False
        if share is not None and content is not None and not share.fresh:
            added = not covers(share.seen, position) and self._is_unsettled(share, key, position)
            if added:
                self._append(share, key, position, before, content)
        for each in self.shares.values():
            if each.behind and not each.fresh:
                self._catch_up(each, position)
        return added

    def _is_unsettled(self, share: Share[T], key: str, position: Position) -> bool:
        if not share.behind or not covers(share.stored.read, position):
            return True
        cursor = share.resume.get(key)
        return cursor is not None and not cursor.passed(position)

    def _append(
        self, share: Share[T], key: str, position: Position, before: Position | None, content: T
    ) -> None:
        lane = share.lanes.get(key)
        if lane is None:
            lane = share.lanes[key] = Lane(share, key)
        self._count += 1
        item = Item(lane, self._count, position, before, content)
        cursor = share.resume.get(key)
        if cursor is not None and cursor.position == position:
            item.attempts, lane.due = cursor.attempts, cursor.due
        lane.waiting.append(item)
        self.size += 1
        self._list([lane])

    def _catch_up(self, share: Share[T], position: Position) -> None:
        """Note whether everything that the former holder had read was read again."""
        read = share.stored.read
        assert read is not None
        # If only one of the two says so, the stream is another one, or the clock was set back:
        # what follows is then delivered whether or not it was settled.
        if position.sequence >= read.sequence or position.stored_ns > read.stored_ns:
            share.behind = False
            share.resume.clear()

    # ---- delivering ------------------------------------------------------------------------------

    def _list(self, lanes: Iterable[Lane[T]]) -> None:
        """Consider lanes when the next event is taken."""
        for lane in lanes:
            if not lane.listed:
                lane.listed = True
                self._ready.append(lane)

    @property
    def stuck(self) -> bool:
        """Whether all events wait for others that are not due."""
        return bool(self._delayed) and not self._ready and not self.out

    def next_due(self) -> float | None:
        """When the first event that waits for a time is due, in seconds since the epoch."""
        return self._delayed[0][0] if self._delayed else None

    def take(self, now: float, batch: dict[Lane[T], None] | None = None) -> Item[T] | None:
        """Take an event that is due, or None. `now`: seconds since the epoch.

        `batch` has the lanes of events that were taken for the same batch, and gets this one's:
        later events of these lanes are due, too.
        """
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        while self._ready:
            lane = self._ready.popleft()
            if self._may_deliver(lane) and not lane.out:
                if lane.due > now:
                    self._count += 1
                    heapq.heappush(self._delayed, (lane.due, self._count, lane))
                    continue
                lane.listed = False
                return self._deliver(lane, batch)
            lane.listed = False
        for lane in batch or ():
            if self._may_deliver(lane) and lane.out and lane.due <= now:
                return self._deliver(lane, batch)
        return None

    def _may_deliver(self, lane: Lane[T]) -> bool:
        share = lane.share
        return bool(lane.waiting) and share.confirmed and not share.leaving

    def _deliver(self, lane: Lane[T], batch: dict[Lane[T], None] | None) -> Item[T]:
        item = lane.waiting.popleft()
        lane.out.append(item)
        item.attempts += 1
        item.delivery += 1
        item.settled = False
        self.out += 1
        lane.share.dirty = True
        if batch is not None:
            batch.pop(lane, None)  # the lanes take turns
            batch[lane] = None
        return item

    # ---- settling --------------------------------------------------------------------------------

    def settle(self, item: Item[T]) -> None:
        """A delivered event, or one that was taken back and waits, is done. Within a key, it counts
        once those before it are settled."""
        lane, share = item.lane, item.lane.share
        item.settled = True
        while (lane.out or lane.waiting) and lane.first.settled:
            if lane.out:
                done = lane.out.popleft()
                self.out -= 1
            else:
                done = lane.waiting.popleft()  # settled late
            self.size -= 1
            if done.lane.key in share.resume:
                at = Position(done.position.sequence + 1, done.position.stored_ns)
                share.resume[lane.key] = Cursor(at)
        share.dirty = True
        if lane.waiting:
            self._list([lane])
        elif not lane.out:
            del share.lanes[lane.key]

    def take_back(self, item: Item[T], due: float, *, overdue: bool = False) -> None:
        """Deliver an event again, not before `due`, and after it those of its key that were
        delivered after it. `overdue`: because it took too long."""
        lane = item.lane
        while True:
            last = lane.out.pop()
            last.late = last.delivery if overdue else 0
            last.delivery += 1
            last.settled = False
            lane.waiting.appendleft(last)
            self.out -= 1
            if last is item:
                break
        lane.due = due
        lane.share.dirty = True
        self._list([lane])

    def overdue(self, now: float) -> list[Item[T]]:
        """The first delivered event of each key whose deadline has passed."""
        return [
            lane.out[0]
            for share in self.shares.values()
            for lane in share.lanes.values()
            if lane.out and lane.out[0].deadline <= now
        ]
