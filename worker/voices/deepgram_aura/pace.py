"""The limits on what a stream sends in a minute. Pure: callers pass the time."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 61.0
"""Length of the vendor's window, one minute, and one second more: messages that wait in the network
may arrive closer together than they were sent."""


class Window:
    """A limit on an amount in any `seconds`. All times are of one clock, in seconds."""

    def __init__(self, limit: int, seconds: float = WINDOW_SECONDS) -> None:
        self._limit = limit
        self._seconds = seconds
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0

    def room(self, now: float) -> int:
        """Return the amount that may be taken."""
        while self._taken and self._taken[0][0] <= now - self._seconds:
            self._sum -= self._taken.popleft()[1]
        return max(0, self._limit - self._sum)

    def take(self, now: float, amount: int = 1) -> None:
        """Count an amount that is taken."""
        self._taken.append((now, amount))
        self._sum += amount

    def when(self, now: float, amount: int = 1) -> float:
        """Return the time at which `amount`, or the whole limit if that is less, may be taken."""
        amount = min(amount, self._limit)
        room = self.room(now)
        for at, taken in self._taken:
            if room >= amount:
                break
            now, room = at + self._seconds, room + taken
        return now
