"""Where a session ends before its audio does: at `max_seconds`, on a request, or over budget."""

from __future__ import annotations

from collections.abc import Sequence

from natterjack.control import stop_reason

BUDGET = "budget"
"""The closing reason of a session that has used up `max_seconds` or its tenant's budget."""
_MAX_SECONDS = "max_seconds"


class Cutoff:
    """The position, in frames, at which a session ends whatever audio follows, and why."""

    __slots__ = (
        "_max_seconds", "_rate", "_start", "_thresholds", "_warned", "detail", "position", "reason",
    )  # fmt: skip

    def __init__(
        self, sample_rate: int, max_seconds: float | None, thresholds: Sequence[float]
    ) -> None:
        """`thresholds` are the fractions of `max_seconds` at which subscribers are warned."""
        self._rate = sample_rate
        self._max_seconds = max_seconds
        self._thresholds = thresholds
        self._warned = self._start = 0
        self.position: int | None = None
        self.reason: str | None = None
        self.detail: str | None = None
        if max_seconds is not None:
            self.position = round(max_seconds * sample_rate)
            self.reason = BUDGET
            self.detail = f"{_MAX_SECONDS}: {max_seconds:g} s of audio"

    @property
    def seconds(self) -> float | None:
        """The cutoff in seconds since the session's first frame; None if there is none."""
        return None if self.position is None else (self.position - self._start) / self._rate

    def begin(self, start: int) -> None:
        """Count `max_seconds` from `start`, the position of the session's first frame."""
        self._start = start
        if self._max_seconds is not None:
            self.position = start + round(self._max_seconds * self._rate)

    def adopt(
        self, position: int | None, reason: str | None, detail: str | None, sent: int
    ) -> None:
        """Take over the cutoff that the former holder stored, if any. It has given the warnings
        for audio before `sent`."""
        if position is not None:
            self.position, self.reason, self.detail = position, reason, detail
        self._warned = self._passed(sent)

    def reached(self, position: int) -> bool:
        return self.position is not None and position >= self.position

    def cuts(self, position: int) -> bool:
        """Whether the session ends at `position` although its audio is wanted after it: not if a
        request ends it."""
        return self.reached(position) and self.reason == BUDGET

    def stop(self, reason: str, head: int) -> int:
        """End the session on a request, at `head` (the end of its audio so far) or where it ends
        anyway, whichever is earlier. Return that position."""
        self.position = head if self.position is None else min(self.position, head)
        self.reason, self.detail = stop_reason(reason), None
        return self.position

    def exhaust(self, detail: str, sent: int) -> None:
        """End the session at `sent`, where sent audio ends, because the tenant's budget is used
        up. Idempotent."""
        if not self.reached(sent):
            self.position, self.reason, self.detail = sent, BUDGET, detail

    @property
    def budget_scope(self) -> str:
        """The owner of the budget that ended the session, as a metric label: `session` or
        `tenant`."""
        return "session" if (self.detail or "").startswith(_MAX_SECONDS) else "tenant"

    def warning(self, sent: int) -> float | None:
        """The seconds of `max_seconds` that are left, once for each threshold passed at `sent`."""
        due, warned = self._passed(sent), self._warned
        self._warned = due
        if self._max_seconds is None or due <= warned:
            return None
        return max(0.0, self._max_seconds - round((sent - self._start) / self._rate, 6))

    def _passed(self, sent: int) -> int:
        """The number of thresholds that audio before `sent` has passed."""
        if self._max_seconds is None:
            return 0
        used = (sent - self._start) / self._rate / self._max_seconds
        return sum(used >= threshold for threshold in self._thresholds)
