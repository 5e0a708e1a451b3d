"""When a session tries again after its provider failed, and when it gives up."""

from __future__ import annotations


class Retry:
    """When one session tries again, and when it gives up. Times are monotonic seconds, which the
    caller passes."""

    __slots__ = (
        "_delay", "_failing_since", "_fault", "_first", "_longest", "_patience", "answered_seconds",
    )  # fmt: skip

    def __init__(self, first: float, longest: float, patience: float) -> None:
        """The pause between attempts grows from `first` to `longest` seconds; a session gives up
        after `patience` seconds without progress."""
        self._first = self._delay = first
        self._longest = longest
        self._patience = patience
        self._failing_since: float | None = None
        self._fault: tuple[str, float] | None = None
        self.answered_seconds: float | None = None
        """How long the last stream was open; None if the provider never answered on it."""

    def made_progress(self, *, finals_moved: bool) -> bool:
        """Whether the last stream made progress: finals moved on, or the provider answered and the
        stream was open for longer than the longest pause."""
        return finals_moved or (self.answered_seconds or 0.0) > self._longest

    def reset(self) -> None:
        """Forget earlier failures: there was progress."""
        self._delay, self._failing_since = self._first, None

    def outage_too_long(self, now: float) -> bool:
        """Note that no provider can be used now. True when it is time to give up."""
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since > self._patience

    def failing_seconds(self, now: float) -> float:
        """How long no provider could be used; 0 if one can."""
        return 0.0 if self._failing_since is None else max(0.0, now - self._failing_since)

    def adopt(self, failing_seconds: float, now: float) -> None:
        """Go on counting where the former holder stopped."""
        self._failing_since = now - max(0.0, failing_seconds)

    def exclude(self, seconds: float) -> None:
        """Do not count `seconds` in which the session waited and nothing failed."""
        if self._failing_since is not None:
            self._failing_since += seconds

    def next_delay(self, jitter: float, *, at_once: bool = False) -> float:
        """The pause before the next attempt, and a longer one the next time. `jitter`, from 0 to
        1, spreads the pauses of many sessions over the upper half of the delay."""
        delay = 0.0 if at_once else self._delay * (0.5 + jitter / 2)
        self._delay = min(self._delay * 2, self._longest)
        return delay

    def recovering(self, cause: str, now: float) -> None:
        """Note the fault that the session recovers from."""
        self._fault = cause, now

    def recovered(self, now: float) -> tuple[str, float] | None:
        """The cause of the last fault and the seconds since, once; None if there was none."""
        fault, self._fault = self._fault, None
        return None if fault is None else (fault[0], now - fault[1])
