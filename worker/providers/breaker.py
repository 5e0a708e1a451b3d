"""A circuit breaker per provider, so that not every session dials a provider that is down.

CLOSED --failures in a row--> OPEN --after a cooldown--> HALF_OPEN --the probe succeeds--> CLOSED
                               ^--------------------------'  the probe fails: a longer cooldown
"""

from __future__ import annotations

import enum
from typing import Final

from natterjack.plugin.errors import ProviderError, RequestRefused

SHARED_CAUSES: Final = ("rate_limit", "credit")
"""Causes that concern the whole provider account, and so every session of every worker. A single
failure with one of them opens the breaker."""
_RATE_LIMIT_SECONDS: Final = 1.0
_MAX_RATE_LIMIT_SECONDS: Final = 10.0
"""First and longest cooldown after a `rate_limit`: the account may have a free place soon."""


class BreakerState(enum.Enum):
    CLOSED = "closed"  # sessions dial
    OPEN = "open"  # no session dials
    HALF_OPEN = "half open"  # one session dials, the probe; the others wait for its outcome


def _concerns_others(fault: ProviderError) -> bool:
    """Whether a fault concerns other sessions too, unlike a wrong parameter of one request."""
    return not (isinstance(fault, RequestRefused) and fault.cause == "request")


class Breaker:
    """The breaker of one provider in one worker. Its methods take the time from a monotonic clock,
    in seconds."""

    def __init__(self, failures: int, cooldown_seconds: float, max_cooldown_seconds: float) -> None:
        """`failures` in a row open the breaker for `cooldown_seconds`, and each failed probe for
        twice the time before, up to `max_cooldown_seconds`."""
        self._max_failures = failures
        self._first_cooldown = self._cooldown = cooldown_seconds
        self._max_cooldown = max_cooldown_seconds
        self._failures = 0
        self._open_until = 0.0
        self._probe_ends = 0.0
        self.state = BreakerState.CLOSED
        self.fault: ProviderError | None = None
        """The last failure."""
        self._permanent = False
        """No failure of the current run is worth a retry."""
        self._shared = False
        """The breaker is open because of one of SHARED_CAUSES."""

    def try_acquire(self, now: float) -> float:
        """Return 0 if the caller may dial now, and else the seconds to wait before the next call.

        In the state HALF_OPEN the caller that may dial is the probe.
        """
        if self.state is BreakerState.CLOSED:
            return 0.0
        if self.state is BreakerState.OPEN and now >= self._open_until:
            self.state = BreakerState.HALF_OPEN
            self._probe_ends = 0.0
        if self.state is BreakerState.HALF_OPEN and now >= self._probe_ends:
            # A probe whose session ends reports no outcome; another one follows.
            self._probe_ends = now + self._first_cooldown
            return 0.0
        until = self._open_until if self.state is BreakerState.OPEN else self._probe_ends
        return max(0.01, until - now)

    @property
    def refusal(self) -> ProviderError | None:
        """The refusal, if the breaker is open because the provider refuses every request (a wrong
        key, no credit)."""
        return self.fault if self.state is BreakerState.OPEN and self._permanent else None

    def record_success(self, *, fresh: bool = True) -> None:
        """Record an answer of the provider. `fresh` marks the first one on its stream: later ones
        do not show that the account may open new streams."""
        if not fresh and self._shared:
            return
        self._shared = False
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._cooldown = self._first_cooldown

    def record_failure(self, fault: ProviderError, now: float) -> None:
        """Record a stream that failed before the provider answered on it."""
        if not _concerns_others(fault):
            return
        self._permanent = not fault.retryable and (self._permanent or self._failures == 0)
        self.fault = fault
        self._failures += 1
        again, shared = self._shared, fault.cause in SHARED_CAUSES
        if fault.cause == "rate_limit":
            longest = min(_MAX_RATE_LIMIT_SECONDS, self._max_cooldown)
            first = min(_RATE_LIMIT_SECONDS, self._first_cooldown)
            self._cooldown = min(self._cooldown * 2, longest) if again else first
        elif self.state is BreakerState.HALF_OPEN:
            self._cooldown = min(self._cooldown * 2, self._max_cooldown)
        elif self._failures < self._max_failures and not shared:
            return
        self._shared = shared
        self._open(now, self._cooldown)

    def _open(self, now: float, seconds: float) -> None:
        self.state = BreakerState.OPEN
        self._open_until = max(self._open_until, now + seconds)

    def refused_elsewhere(self, fault: ProviderError, now: float, seconds: float) -> None:
        """Open for `seconds`: the provider refused the account of another worker."""
        self._permanent = not fault.retryable
        self._shared = True
        self.fault = fault
        self._open(now, min(seconds, self._max_cooldown))

    def seconds_left(self, now: float) -> float:
        """Return how long the breaker stays open."""
        return max(0.0, self._open_until - now) if self.state is BreakerState.OPEN else 0.0
