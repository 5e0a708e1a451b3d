"""Events of the live subject, for users that may not read stored ones.

The stream guards against what a live subscription cannot: events that are published while there is
no connection are missed, and so are events that a slow program leaves no room for; an event of a
worker that has lost its lease arrives although the stream has refused it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import datetime
from typing import NamedTuple

from natterjack.decoding import AnyEvent, decode_event
from natterjack.errors import BadEvent
from natterjack.events import InterimEvent

from .interims import InterimQueue
from .markers import HistoryLost

log = logging.getLogger(__name__)

_MAX_EVENTS = 10_000
"""Durable events that wait. When there are more, the oldest are dropped, and said to be lost."""
_MAX_SESSIONS = 10_000


class _Last(NamedTuple):
    """The last event of a session that was received."""

    epoch: int
    sequence: int
    published_at: datetime


class LiveEvents:
    """Durable events that wait to be yielded, and where some are missing. Passes interims on. For
    one task."""

    def __init__(self, interims: InterimQueue | None) -> None:
        self._interims = interims
        self._waiting: deque[AnyEvent | HistoryLost] = deque()
        self._sessions: dict[str, _Last] = {}
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """True if durable events wait to be yielded."""
        return bool(self._waiting)

    def poke(self) -> None:
        """Make a waiting `next` return None at once."""
        self._wake.set()

    def received(self, subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        """Take a message of the live subject."""
        try:
            event = decode_event(data, subject=subject)
        except BadEvent as error:
            log.warning("%s: %s", subject.decode(), error)
            return
        if isinstance(event, InterimEvent) != subject.endswith(b".interim"):
            return
        if isinstance(event, InterimEvent):
            if self._interims is not None:
                self._interims.add(event)
        elif event.sequence is None or self._follows(event, event.sequence):
            if self._interims is not None:
                self._interims.read(event)
            if len(self._waiting) >= _MAX_EVENTS:
                self._make_room(event.published_at)
            self._waiting.append(event)
        self._wake.set()

    def _follows(self, event: AnyEvent, sequence: int) -> bool:
        """Whether an event comes after the last one of its session. The first one of a later epoch
        may have a sequence again that the broker refused of the earlier one."""
        last = self._sessions.pop(event.session_id, None)
        found = _Last(event.epoch, sequence, event.published_at)
        follows = (
            last is None
            or event.epoch > last.epoch
            or (event.epoch == last.epoch and sequence > last.sequence)
        )
        if last is not None and sequence > last.sequence + 1 and follows:
            self._waiting.append(HistoryLost(last.published_at, event.published_at))
        self._sessions[event.session_id] = found if follows or last is None else last
        if len(self._sessions) > _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return follows

    def _make_room(self, now: datetime) -> None:
        """Drop the oldest event, and say so in its place."""
        first = self._waiting.popleft()
        start = first.start if isinstance(first, HistoryLost) else first.published_at
        self._waiting.popleft()
        self._waiting.appendleft(HistoryLost(start, now))

    async def next(self) -> AnyEvent | HistoryLost | None:
        """Return what comes next, or None after a `poke` or an interim. Cancel-safe."""
        if not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft() if self._waiting else None
