"""A session's request, which is sent until the broker has stored it."""

from __future__ import annotations

import random

from natterjack.spec import SessionSpec
from natterjack.subjects import session_subject

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 5.0
_RESET_S = 10.0
"""A backoff starts afresh after this long without a failure."""


class Backoff:
    """Delays that double, with jitter, until there has been no failure for a while."""

    def __init__(self) -> None:
        self._delay = _FIRST_DELAY_S
        self._last = 0.0
        self.due = 0.0
        """Time of the next attempt on the monotonic clock; 0 means at once."""

    def failed(self, now: float) -> None:
        """Schedule the next attempt."""
        if now - self._last > _RESET_S:
            self._delay = _FIRST_DELAY_S
        self._last = now
        self.due = now + self._delay * random.uniform(0.5, 1)  # noqa: S311 - jitter
        self._delay = min(self._delay * 2, _LONGEST_DELAY_S)


class Request:
    """The request of one session. The stream drops repeats that come within two minutes."""

    def __init__(self, spec: SessionSpec, number: int, *, stored: bool = False) -> None:
        """`number` tells apart the requests of one publisher."""
        self.session_id = spec.session_id
        self.subject = session_subject(spec.key)
        self.payload = spec.model_dump_json(exclude_none=True).encode()
        self.reply = f"open{number}"
        """Last subject token of its acknowledgement."""
        self.backoff = Backoff()
        self.stored = stored
