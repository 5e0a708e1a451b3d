"""Log lines that would repeat: at once when they change, else less and less often."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_S = 2 * 3600.0


class Repeats:
    """Decides which of the lines about one thing are logged."""

    def __init__(
        self, first_s: float, max_s: float = MAX_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """An unchanged line is due again after `first_s`, then after twice as long each time, up
        to `max_s`."""
        self._first_s, self._max_s, self._clock = first_s, max_s, clock
        self._words: str | None = None
        self._interval_s = first_s
        self._due_at = 0.0

    def due(self, words: str) -> bool:
        """Return whether to log a line that says `words`, which is then taken as logged."""
        now = self._clock()
        if words != self._words:
            self._words, self._interval_s = words, self._first_s
        elif now < self._due_at:
            return False
        self._due_at = now + self._interval_s
        self._interval_s = min(2 * self._interval_s, self._max_s)
        return True
