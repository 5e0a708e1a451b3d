"""A circuit breaker per provider, so that not every session dials a provider that is down.

CLOSED --failures in a row--> OPEN --after a cooldown--> HALF_OPEN --the probe succeeds--> CLOSED
                               ^--------------------------'  the probe fails: a longer cooldown
"""

from __future__ import annotations

import enum
from typing import Final

from natterjack.plugin.errors import ProviderError

SHARED_CAUSES: Final = ("rate_limit", "credit")
"""Causes that concern the whole provider account, and so every session of every worker. A single
failure with one of them opens the breaker."""
_ACCOUNT_CAUSES: Final = ("auth", "credit")
_FORBIDDEN: Final = "403"
"""The account is known, and may not do this: everything, or what this request asks for."""
_RATE_LIMIT_SECONDS: Final = 1.0
_MAX_RATE_LIMIT_SECONDS: Final = 10.0
"""First and longest cooldown after a `rate_limit`: the account may have a free place soon."""


class BreakerState(enum.Enum):
    CLOSED = "closed"  # sessions dial
    OPEN = "open"  # no session dials
    HALF_OPEN = "half open"  # one session dials, the probe; the others wait for its outcome


class Verdict(enum.Enum):
    """The consequence of a fault for the session that met it."""

    RETRY = "retry"  # the connection or the provider failed: the next dial may succeed
    HOLD = "hold"  # the account refuses everybody until it is paid or its key is corrected
    REFUSED = "refused"  # the provider will never serve this request


def judge(fault: ProviderError, *, serves_others: bool = False) -> Verdict:
    """Decide what a fault means.

    `serves_others`: the provider has served another session since it first refused this one. Then
    a 403 concerns what the request asks for, such as a model that the account has no right to.
    """
    if fault.retryable:
        return Verdict.RETRY
    if fault.cause not in _ACCOUNT_CAUSES or (serves_others and fault.code == _FORBIDDEN):
        return Verdict.REFUSED
    return Verdict.HOLD


def _concerns_everybody(fault: ProviderError) -> bool:
    """Whether one failure shows that the account refuses all sessions. A single 403 does not."""
    if fault.cause in SHARED_CAUSES:
        return True
    return judge(fault) is Verdict.HOLD and fault.code != _FORBIDDEN


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
        self._shared = False
        """The breaker is open because the account refuses all sessions."""
        self.served = 0
        """How many streams the provider has answered on."""

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
    def refuses_account(self) -> bool:
        """Whether the breaker is open because the account refuses all sessions."""
        fault = self.fault
        if self.state is BreakerState.CLOSED or fault is None:
            return False
        return judge(fault) is Verdict.HOLD

    def record_success(self, *, first_answer: bool = True) -> None:
        """Record an answer of the provider. `first_answer` marks the first one on its stream: later
        ones do not show that the account may open new streams."""
        self.served += first_answer
        if not first_answer and self._shared:
            return
        self._shared = False
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._cooldown = self._first_cooldown

    def record_failure(self, fault: ProviderError, now: float, *, again: bool = False) -> None:
        """Record a stream that failed before the provider answered on it, or an account that
        refuses. `again`: the account has refused the same session before. One session that asks
        for what it may not have must not keep the others from dialing, so its 403 counts once."""
        if judge(fault) is Verdict.REFUSED or (again and fault.code == _FORBIDDEN):
            return
        self.fault = fault
        self._failures += 1
        limited, shared = self._shared, _concerns_everybody(fault)
        if fault.cause == "rate_limit":
            longest = min(_MAX_RATE_LIMIT_SECONDS, self._max_cooldown)
            first = min(_RATE_LIMIT_SECONDS, self._first_cooldown)
            self._cooldown = min(self._cooldown * 2, longest) if limited else first
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
        self._shared = True
        self.fault = fault
        self._open(now, min(seconds, self._max_cooldown))

    def seconds_left(self, now: float) -> float:
        """Return how long the breaker stays open."""
        return max(0.0, self._open_until - now) if self.state is BreakerState.OPEN else 0.0
