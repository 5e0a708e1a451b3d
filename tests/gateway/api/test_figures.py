"""Figures of the last hour."""

from __future__ import annotations

import pytest

from gateway.api.figures import MINUTES, Histogram, Latencies, Span, minutes

NOW = 10_000 * 60 + 30.0
"""In the middle of minute 10,000 since the epoch."""


def at(minute: int, second: float = 0) -> float:
    return (10_000 + minute) * 60 + second


def series(*spans: tuple[float, float | None]) -> dict[int, int]:
    """The sessions of the minutes that have some, the present minute being 0."""
    found = minutes(NOW, [(Span(*span), False) for span in spans], None)
    assert len(found) == MINUTES
    return {n - MINUTES + 1: each.sessions for n, each in enumerate(found) if each.sessions}


def test_a_session_counts_in_each_minute_that_it_touches() -> None:
    assert series((at(-3, 50), at(-1, 5))) == {-3: 1, -2: 1, -1: 1}


def test_sessions_from_before_the_hour_and_open_ones_count() -> None:
    assert series((at(-500), None)) == dict.fromkeys(range(-MINUTES + 1, 1), 1)
    assert series((at(-500), at(-100))) == {}
    assert series((at(5), None)) == {}  # a clock that is ahead


def test_sessions_one_after_the_other_are_not_open_at_once() -> None:
    assert series((at(-1, 0), at(-1, 10)), (at(-1, 20), at(-1, 30))) == {-1: 1}
    assert series((at(-1, 0), at(-1, 25)), (at(-1, 20), at(-1, 30))) == {-1: 2}


def test_starts_and_failures_count_in_their_minutes() -> None:
    found = minutes(NOW, [(Span(at(-2), at(-1)), True), (Span(at(-2), None), False)], None)
    assert [each.started for each in found[-3:]] == [2, 0, 0]
    assert [each.failed for each in found[-3:]] == [0, 1, 0]


def test_quantiles_are_right_to_five_percent() -> None:
    histogram = Histogram()
    for hundredths in range(1, 101):
        histogram.add(hundredths / 100)
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.06)
    assert histogram.quantile(0.95) == pytest.approx(0.95, rel=0.06)
    assert Histogram().quantile(0.5) is None


def test_a_latency_beyond_the_scale_is_at_its_end() -> None:
    histogram = Histogram()
    histogram.add(-3.0)
    assert histogram.quantile(0.5) == 0.01
    histogram.add(1e6)
    assert histogram.quantile(1.0) == 100


def test_latencies_are_kept_for_an_hour_by_minute() -> None:
    latencies = Latencies()
    for minute in range(9_900, 10_001):
        latencies.add(minute, 0.2)
    latencies.add(9_999, 0.8)  # of a worker whose clock is behind
    found = minutes(NOW, [], latencies)
    assert [each.finals for each in found[-3:]] == [1, 2, 1]
    assert found[0].finals == 1
    assert latencies.at(9_900) is None
