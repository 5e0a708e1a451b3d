"""A breaker for each provider: one that is dead is not dialled for every session.

CLOSED --failures in a row--> OPEN --after a while--> HALF_OPEN --the probe works--> CLOSED
                               ^------------------------'  the probe fails: wait twice as long
"""

from __future__ import annotations

import enum

from natterjack.plugin.errors import ProviderError, RequestRefused

SHARED_CAUSES = ("rate_limit", "credit")
"""An account that is over its limit or out of credit is so for every session of every worker: one
such answer opens the breaker."""
_RATE_LIMIT_S = 1.0
_RATE_LIMIT_MOST_S = 10.0
"""First pause after a 429, and the longest: then one session tries."""


class BreakerState(enum.Enum):
    CLOSED = "closed"  # dial at will
    OPEN = "open"  # do not dial
    HALF_OPEN = "half open"  # one session dials; the others wait for what becomes of it


def _blames_provider(fault: ProviderError) -> bool:
    """Whether a fault says something of other sessions too. A bad request is its session's own."""
    return not (isinstance(fault, RequestRefused) and fault.cause == "request")


class Breaker:
    """State of one provider in one worker. Takes `now` (monotonic seconds), keeps no clock."""

    def __init__(self, failures: int, cooldown_seconds: float, max_cooldown_seconds: float) -> None:
        self._limit = failures
        self._first_cooldown = self._cooldown = cooldown_seconds
        self._max_cooldown = max_cooldown_seconds
        self._failures = 0
        self._open_until = 0.0
        self._probe_ends = 0.0
        self.state = BreakerState.CLOSED
        self.fault: ProviderError | None = None
        """What was wrong last."""
        self._permanent = False
        """All failures of the run were refusals for good."""
        self._shared = False
        """It is open because the account is refused to all."""

    def ask(self, now: float) -> float:
        """0 if the asker may dial (and, when half open, is the probe), else seconds to wait."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        if self.state is BreakerState.OPEN and now >= self._open_until:
            self.state = BreakerState.HALF_OPEN
            self._probe_ends = 0.0
        if self.state is BreakerState.HALF_OPEN and now >= self._probe_ends:
            # A probe that never says what became of it (its session ended) is not waited for.
            self._probe_ends = now + self._first_cooldown
            return 0.0
        until = self._open_until if self.state is BreakerState.OPEN else self._probe_ends
        return max(0.01, until - now)

    @property
    def refuses(self) -> ProviderError | None:
        """The refusal, when it is open because it refuses for good (a wrong key, no credit)."""
        return self.fault if self.state is BreakerState.OPEN and self._permanent else None

    def works(self, *, fresh: bool = True) -> None:
        """The provider answered; `fresh`: for the first time on a stream. That an older stream goes
        on does not say that new ones are let in."""
        if not fresh and self._shared:
            return
        self._shared = False
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._cooldown = self._first_cooldown

    def fails(self, fault: ProviderError, now: float) -> None:
        """A stream failed before the provider said anything on it."""
        if not _blames_provider(fault):
            return
        self._permanent = not fault.retryable and (self._permanent or self._failures == 0)
        self.fault = fault
        self._failures += 1
        again, shared = self._shared, fault.cause in SHARED_CAUSES
        if fault.cause == "rate_limit":
            longest = min(_RATE_LIMIT_MOST_S, self._max_cooldown)
            first = min(_RATE_LIMIT_S, self._first_cooldown)
            self._cooldown = min(self._cooldown * 2, longest) if again else first
        elif self.state is BreakerState.HALF_OPEN:
            self._cooldown = min(self._cooldown * 2, self._max_cooldown)
        elif self._failures < self._limit and not shared:
            return
        self._shared = shared
        self._open(now, self._cooldown)

    def _open(self, now: float, seconds: float) -> None:
        """Let nobody dial for so long."""
        self.state = BreakerState.OPEN
        self._open_until = max(self._open_until, now + seconds)

    def hear(self, fault: ProviderError, now: float, seconds: float) -> None:
        """Another worker was refused: the account is to be left alone for so long."""
        self._permanent = not fault.retryable
        self._shared = True
        self.fault = fault
        self._open(now, min(seconds, self._max_cooldown))

    def seconds_left(self, now: float) -> float:
        """For which it stays open."""
        return max(0.0, self._open_until - now) if self.state is BreakerState.OPEN else 0.0
