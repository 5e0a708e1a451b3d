"""The limit on how fast a session publishes, so that audio is read before the stream drops it."""

from __future__ import annotations

import time


class TokenBucket:
    """A token bucket that holds seconds of audio.

    It is stored as one number: the time at which the bucket will be full again.
    """

    def __init__(
        self, burst_seconds: float, rate: float, *, spent_seconds: float = 0, ago_s: float = 0
    ) -> None:
        """Create a bucket of `burst_seconds` that refills at `rate` seconds of audio per second.

        A `rate` of 0 means no limit. `spent_seconds` of audio were already published by an earlier
        run, the last of them `ago_s` seconds ago.
        """
        self._second_s = 1 / rate if rate else 0.0
        self._capacity_s = burst_seconds * self._second_s
        spent_s = min(spent_seconds, burst_seconds) * self._second_s
        self._full_at = time.monotonic() - ago_s + spent_s

    def allows(self, now: float) -> bool:
        """Return whether a chunk may be published at `now`, on the monotonic clock."""
        return self._full_at - now <= self._capacity_s

    def spend(self, seconds: float, now: float) -> None:
        """Record that `seconds` of audio were published at `now`."""
        self._full_at = max(self._full_at, now) + seconds * self._second_s
