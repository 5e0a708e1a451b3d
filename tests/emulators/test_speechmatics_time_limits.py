"""The time limits of the Speechmatics emulator: each warning once, then the limit itself."""

from __future__ import annotations

from natterjack.emulators.session import Elapsed
from natterjack.emulators.speechmatics.time_limits import Due, TimeLimits

HOUR = 3600.0


def idle(seconds: float) -> Elapsed:
    return Elapsed(seconds, seconds, 0)


def test_each_warning_is_due_once() -> None:
    limits = TimeLimits()
    assert limits.due(idle(45 * 60 - 1)) is None
    assert limits.due(idle(45 * 60)) == Due("idle_timeout", 15)
    assert limits.due(idle(45 * 60)) is None
    assert limits.due(Elapsed(HOUR, 0, 0)) is None
    assert limits.due(idle(46 * 60)) is None
    assert limits.due(idle(50 * 60)) == Due("idle_timeout", 10)


def test_warnings_that_were_passed_over_follow_in_their_order() -> None:
    limits = TimeLimits()
    late = Elapsed(48 * HOUR - 1, 0, 0)
    assert [limits.due(late) for _ in range(4)] == [
        Due("session_timeout", 45),
        Due("session_timeout", 30),
        Due("session_timeout", 15),
        None,
    ]


def test_a_limit_that_is_reached_needs_no_warning_before() -> None:
    assert TimeLimits().due(idle(HOUR)) == Due("idle_timeout", 0)
    assert TimeLimits().due(Elapsed(48 * HOUR, 0, 0)) == Due("session_timeout", 0)


def test_time_without_audio_comes_before_time_in_total() -> None:
    limits = TimeLimits()
    assert limits.due(Elapsed(48 * HOUR, HOUR, 0)) == Due("idle_timeout", 0)
    nearly = Elapsed(48 * HOUR - 60, HOUR - 600, 0)
    assert [limits.due(nearly) for _ in range(3)] == [
        Due("idle_timeout", 15),
        Due("idle_timeout", 10),
        Due("session_timeout", 45),
    ]
