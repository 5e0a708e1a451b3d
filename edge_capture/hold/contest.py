"""Decides whether an agent may use its keys, or another agent has one of them.

Pure: `exchange` sends and receives, and passes events and times to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from natterjack.hold import Hold
from natterjack.subjects import SessionKey

ANSWER_S = 2.0
"""How long an agent that is connected may take to answer. One that takes longer is frozen, or its
machine is gone and the broker has not noticed yet; others may capture its keys."""
RETURN_S = 5.0
"""How long an agent that has lost its connection may take to connect again."""


class Lost(NamedTuple):
    """Another agent has the key."""

    key: SessionKey
    other: Hold
    published: bool
    """Whether this agent used it before."""

    def describe(self, now: datetime, used: str = "captured") -> str:
        """Say who has the key, and what to do about it. Times are in the time zone of `now`; `used`
        is what agents do with it."""
        since = self.other.since.astimezone(now.tzinfo)
        form = "%H:%M:%S" if since.date() == now.date() else "%Y-%m-%d %H:%M:%S"
        took_over = ", which took over when this agent did not answer" if self.published else ""
        return (
            f"{self.key} is being {used} by agent {self.other.agent} since {since:{form}} "
            f"(session {self.other.session_id}){took_over}; stop it, or choose another speaker "
            "or conversation"
        )


class Contest:
    """One agent's contest for its keys. It gets all of them or none.

    Times are in seconds on a clock that runs forward.
    """

    def __init__(self, keys: Iterable[SessionKey]) -> None:
        self._keys = frozenset(keys)
        self._open = self._keys
        """Keys that another agent may have, as far as is known."""
        self._silent_at: float | None = None
        """When silence means that no agent has one of the open keys; None if it does not ask."""
        self._not_before = 0.0
        self.granted = False
        """Whether the agent may publish. Once granted, it stays so until the contest is lost."""
        self.lost: Lost | None = None

    def asked(self, now: float, *, outage: bool = False) -> None:
        """All keys are being asked for, on a new connection or again.

        `outage`: another agent may have the key and be about to connect again. The broker was
        unreachable, for others too, or a session on the key is open.
        """
        self._open = self._keys
        self._silent_at = now + ANSWER_S
        if outage and not self.granted:
            self._not_before = now + RETURN_S

    def disconnected(self) -> None:
        """Nothing can be received until `asked` is called again."""
        self._silent_at = None

    def nobody(self, key: SessionKey) -> None:
        """The broker says that nobody else listens for requests for the key."""
        self._open -= {key}

    def not_allowed(self) -> None:
        """The user may not ask, so nobody can answer."""
        self._open, self._not_before = frozenset(), 0.0

    def heard(self, key: SessionKey, mine: Hold, other: Hold) -> None:
        """Another agent asked for the key or answered, with `other`. This one would send `mine`."""
        if self.lost is None and other.outranks(mine):
            self.lost = Lost(key, other, published=self.granted)

    def due(self) -> float | None:
        """Return when to call `decide`; None while nothing is to be decided."""
        if self.lost or self._silent_at is None:
            return None
        return max(self._not_before, self._silent_at if self._open else 0.0)

    def decide(self, now: float) -> bool:
        """Grant the keys if nobody else has one. Returns whether that is so."""
        due = self.due()
        if due is None or now < due:
            return False
        self._silent_at = None
        self.granted = True
        return True
