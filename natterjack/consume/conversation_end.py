"""When a conversation has ended, as its status events tell it. Pure."""

from __future__ import annotations

from natterjack.decoding import UnknownEvent
from natterjack.events import Durable, StatusEvent

SUCCESSOR_S = 60.0
"""How long after a session has closed the one that continues it is waited for. The edge opens it
within seconds, unless it was lost."""


class OpenSessions:
    """The open sessions of a conversation, from its events in order. Times are in seconds of any
    clock, the same for all."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._closed: set[str] = set()
        self._awaited: dict[str, float] = {}
        """Sessions that are to continue closed ones, and until when they are waited for."""

    def read(self, event: Durable | UnknownEvent, at: float) -> None:
        """Take note of an event that was stored at `at`."""
        session = event.session_id
        if not event.closing:
            if session not in self._closed:
                self._open.add(session)
                self._awaited.pop(session, None)
            return
        self._open.discard(session)
        self._closed.add(session)
        self._awaited.pop(session, None)
        successor = event.continued_by if isinstance(event, StatusEvent) else None
        if successor and successor not in self._open | self._closed:
            self._awaited[successor] = at + SUCCESSOR_S

    def ended(self, now: float) -> bool:
        """Whether there has been a session, and all have closed that have begun or are due."""
        return bool(self._closed) and not self._open and not self._due(now)

    def wait(self, now: float) -> float | None:
        """Seconds after which `ended` may change without an event; None if it cannot."""
        due = self._due(now)
        return min(due) - now if due and not self._open else None

    def _due(self, now: float) -> list[float]:
        return [until for until in self._awaited.values() if until > now]
