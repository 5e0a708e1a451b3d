"""How much new sound a session may publish, so that it is read before its stream forgets it."""

from __future__ import annotations

import time


class Allowance:
    """So many seconds of sound at once; what is spent of them comes back at a rate.

    It is kept as the moment at which all of them would be there again.
    """

    def __init__(
        self, burst_seconds: float, rate: float, *, spent_seconds: float = 0, ago_s: float = 0
    ) -> None:
        """`rate`: seconds of sound in a second; 0: there is no limit. `spent_seconds` of sound were
        published `ago_s` seconds ago, or earlier."""
        self._second_s = 1 / rate if rate else 0.0
        self._most_s = burst_seconds * self._second_s
        spent_s = min(spent_seconds, burst_seconds) * self._second_s
        self._whole_at = time.monotonic() - ago_s + spent_s

    def allows(self, now: float) -> bool:
        """Whether a chunk may be published `now`, on the monotonic clock."""
        return self._whole_at - now <= self._most_s

    def spend(self, seconds: float, now: float) -> None:
        """Note that so much sound is published."""
        self._whole_at = max(self._whole_at, now) + seconds * self._second_s
