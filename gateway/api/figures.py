"""Figures of the last hour, minute by minute: latency of finals, and open sessions. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

MINUTES = 60

_LEAST_S, _STEPS, _PER_TENFOLD = 0.01, 96, 24
"""Latencies from 10 ms to 100 s, in steps of 10 %."""


class Histogram:
    """Counts of latencies, precise to 5 %."""

    def __init__(self) -> None:
        self.count = 0
        self._steps = [0] * (_STEPS + 1)

    def add(self, seconds: float) -> None:
        step = 0
        if seconds > _LEAST_S:
            step = min(_STEPS, round(math.log10(seconds / _LEAST_S) * _PER_TENFOLD))
        self._steps[step] += 1
        self.count += 1

    def quantile(self, part: float) -> float | None:
        """The latency that a part of all do not exceed, in seconds; None without any."""
        if not self.count:
            return None
        passed, step = 0, 0
        for step, count in enumerate(self._steps):  # noqa: B007 - used below
            passed += count
            if passed >= part * self.count and count:
                break
        return float(f"{_LEAST_S * 10 ** (step / _PER_TENFOLD):.3g}")


class Latencies:
    """The latencies of the last hour. Minutes are counted since the epoch."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, Histogram]] = deque(maxlen=MINUTES + 1)

    def add(self, minute: int, seconds: float) -> None:
        """Add one. It counts for the newest minute if the clocks of workers disagree."""
        if not self._minutes or minute > self._minutes[-1][0]:
            self._minutes.append((minute, Histogram()))
        for known, histogram in reversed(self._minutes):
            if known <= minute:
                histogram.add(seconds)
                return

    def at(self, minute: int) -> Histogram | None:
        return next((found for known, found in self._minutes if known == minute), None)


class Span(NamedTuple):
    """From when to when a session was open, in seconds since the epoch."""

    start: float
    end: float | None


@dataclass
class Minute:
    """One minute of a chart."""

    at: datetime
    sessions: int = 0
    """The most sessions that were open at its start, in it or at its end."""
    started: int = 0
    failed: int = 0
    finals: int = 0
    latency_p50: float | None = None
    latency_p95: float | None = None


@dataclass
class _Changes:
    opened: int = 0
    failed: int = 0
    times: list[tuple[float, int]] = field(default_factory=list)


def minutes(
    now: float, spans: Iterable[tuple[Span, bool]], latencies: Latencies | None
) -> list[Minute]:
    """The last hour until `now`, oldest minute first. `spans`: all sessions, and whether they
    failed."""
    last = int(now // 60)
    first = last - MINUTES + 1
    before = 0
    changes = [_Changes() for _ in range(MINUTES)]
    for span, failed in spans:
        start = int(span.start // 60) - first
        end = None if span.end is None else int(span.end // 60) - first
        if end is not None and end < 0:
            continue
        if start < 0:
            before += 1
        elif start < MINUTES:
            changes[start].opened += 1
            changes[start].times.append((span.start, 1))
        else:
            continue
        if end is not None and span.end is not None and end < MINUTES:
            changes[end].failed += failed
            changes[end].times.append((max(span.start, span.end), -1))
    made = []
    open_now = before
    for number, change in enumerate(changes):
        most = open_now
        for _, step in sorted(change.times, key=lambda one: (one[0], -one[1])):
            open_now += step
            most = max(most, open_now)
        minute = Minute(
            datetime.fromtimestamp((first + number) * 60, UTC), most, change.opened, change.failed
        )
        found = latencies.at(first + number) if latencies is not None else None
        if found is not None:
            minute.finals = found.count
            minute.latency_p50, minute.latency_p95 = found.quantile(0.5), found.quantile(0.95)
        made.append(minute)
    return made
