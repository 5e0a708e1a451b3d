"""When a session tries again after its provider failed, and when it gives up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

_UNREADABLE = ("protocol", "plugin")
"""Causes that the content of the audio or of a message may have, so that they come again."""
_SHORTEST_SECONDS = 0.5
"""A provider that fails before it has this much audio does not fail because of the audio."""


class Retry:
    """When one session tries again, and when it gives up. Times are monotonic seconds, which the
    caller passes."""

    __slots__ = (
        "_delay", "_failing_since", "_fault", "_first", "_longest", "_patience", "answered_seconds",
        "pending",
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
        self.pending = False
        """Whether the last stream had text that did not become final."""

    def made_progress(self, cause: str, *, finals_moved: bool) -> bool:
        """Whether the last stream, which ended with `cause`, made progress: finals moved on. In
        silence, where there are none, the provider has answered for longer than the longest
        pause."""
        if finals_moved:
            return True
        silence = not self.pending and cause not in _UNREADABLE
        return silence and (self.answered_seconds or 0.0) > self._longest

    def reset(self) -> None:
        """Forget earlier failures: there was progress."""
        self._delay, self._failing_since = self._first, None

    def note_outage(self, now: float) -> bool:
        """Note that no provider can be used now. Returns whether that has lasted too long."""
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


class RepeatedFailures:
    """Equal failures at one position, where the session may be stuck: a provider answers with a
    message that cannot be read, or a plugin fails, each time that the audio is transcribed."""

    __slots__ = ("_counts", "_limit", "_position", "_rate", "_skipped", "reached")

    def __init__(self, sample_rate: int, limit: int) -> None:
        """After `limit` equal failures of a provider, the session no longer waits for it there."""
        self._rate = sample_rate
        self._limit = limit
        self._position = -1
        self._counts: Counter[tuple[str, str]] = Counter()
        self._skipped = False
        """Audio was left out since finals last moved."""
        self.reached = 0
        """The end of the audio that was sent before a failure, in frames; the least of all failures
        at the position."""

    def failed(self, provider: str, cause: str, position: int, reached: int) -> None:
        """Note a failure of a stream. All audio before `position` is final, and all before
        `reached` was sent."""
        if position != self._position:
            self._position, self.reached = position, reached
            self._counts.clear()
            self._skipped = False
        if cause in _UNREADABLE and reached - position > _SHORTEST_SECONDS * self._rate:
            self.reached = min(self.reached, reached) if self._counts else reached
            self._counts[provider, cause] += 1

    def repeated(self, provider: str) -> bool:
        """Whether a provider has failed `limit` times in the same way."""
        return any(self._counts[key] >= self._limit for key in self._counts if key[0] == provider)

    def stuck(self, providers: Collection[str], *, give_up: bool) -> bool:
        """Whether all of these providers have failed `limit` times in the same way. With
        `give_up`, the session would otherwise end: then two equal failures of one provider are
        enough, but only once between two finals."""
        if give_up:
            return not self._skipped and max(self._counts.values(), default=0) > 1
        return all(self.repeated(name) for name in providers)

    def leave_out(self, position: int) -> bool:
        """Note that the audio up to `position` is left out. True if it is the first since finals
        last moved."""
        first, self._skipped = not self._skipped, True
        self._position = position
        self._counts.clear()
        return first
