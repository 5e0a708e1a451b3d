"""Which interims are still worth yielding, and which final or closing event has made them stale.

Pure: nothing here knows the broker.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from natterjack.decoding import UnknownEvent
from natterjack.events import Durable, FinalEvent, InterimEvent

Interims = Literal["latest", "all"]

_MAX_SESSIONS = 10_000
"""Sessions that are remembered, open and closed ones together: the last that had an event."""
_MAX_INTERIMS = 1024
"""Interims that wait. When there are more, the oldest are dropped: newer ones replace them."""


class _Progress(NamedTuple):
    """How far a session has been read."""

    epoch: int
    segment: int
    """Segment of the last final; -1 before the first final."""
    closed: bool


class InterimQueue:
    """Interims that wait to be yielded, and the durable events that make them stale."""

    def __init__(self, keep: Interims) -> None:
        """`keep`: of each segment the latest interim, or all of them."""
        self._all = keep == "all"
        self._waiting: dict[object, InterimEvent] = {}
        self._number = 0
        self._sessions: dict[str, _Progress] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, event: InterimEvent) -> None:
        """Add an interim that was received. It takes the place of an earlier one of its segment."""
        self._number += 1
        key: object = self._number if self._all else (event.session_id, event.segment)
        self._waiting[key] = event
        if len(self._waiting) > _MAX_INTERIMS:
            del self._waiting[next(iter(self._waiting))]

    def read(self, event: Durable | UnknownEvent) -> None:
        """Take note of a durable event that was read."""
        before = self._sessions.pop(event.session_id, None)
        segment = before.segment if before is not None else -1
        if isinstance(event, FinalEvent):
            segment = max(segment, event.segment)
        closed = event.closing or (before is not None and before.closed)
        self._sessions[event.session_id] = _Progress(event.epoch, segment, closed)
        if len(self._sessions) > _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def forget(self) -> None:
        """Forget what was read: the stream is another one, and sequences begin again."""
        self._sessions.clear()

    def next(self) -> InterimEvent | None:
        """Take the interim that has waited longest and is not stale."""
        while self._waiting:
            event = self._waiting.pop(next(iter(self._waiting)))
            progress = self._sessions.get(event.session_id)
            if progress is None or not (
                progress.closed or event.epoch < progress.epoch or event.segment <= progress.segment
            ):
                return event
        return None
