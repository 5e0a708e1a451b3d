"""When what is sent to a call is heard, as marks tell it."""

from __future__ import annotations

import pytest

from gateway.doors.twilio.playback import Schedule


def test_audio_is_heard_one_after_another() -> None:
    schedule = Schedule()
    assert schedule.next_at(100.0) == pytest.approx(100.1)
    schedule.sent(100.0, 0.5)
    assert schedule.next_at(100.0) == pytest.approx(100.6)
    assert schedule.ahead(100.0) == pytest.approx(0.5)
    assert schedule.ahead(100.3) == pytest.approx(0.2)
    # After a pause, audio is heard as soon as it has come.
    assert schedule.ahead(102.0) == 0
    assert schedule.next_at(102.0) == pytest.approx(102.1)


def test_marks_are_sent_from_time_to_time_and_at_the_end() -> None:
    schedule = Schedule()
    assert schedule.mark(ended=True) is None, "nothing was sent"
    schedule.sent(100.0, 0.4)
    assert schedule.mark(ended=False) == "played-1", "the first one"
    schedule.sent(100.0, 0.4)
    assert schedule.mark(ended=False) is None
    assert schedule.mark(ended=True) == "played-2"
    assert schedule.mark(ended=True) is None


def test_the_delay_of_a_call_is_learned_from_its_marks() -> None:
    schedule, now = Schedule(), 100.0
    for _ in range(30):
        schedule.sent(now, 0.5)
        name = schedule.mark(ended=True)
        assert name is not None
        now += 0.8 + 0.5  # it is heard 0.8 s after it was sent
        schedule.played(name, now)
        now += 1.0
    assert schedule.latency == pytest.approx(0.8, abs=0.02)
    assert schedule.next_at(now) == pytest.approx(now + 0.8, abs=0.02)


def test_a_late_mark_delays_what_follows() -> None:
    schedule = Schedule()
    schedule.sent(100.0, 0.5)
    name = schedule.mark(ended=True)
    assert name is not None
    schedule.sent(100.0, 0.5)
    before = schedule.next_at(100.0)
    schedule.played(name, 101.1)  # expected at 100.6
    assert schedule.next_at(101.1) == pytest.approx(before + 0.5)


def test_marks_that_a_cut_brings_back_say_nothing() -> None:
    schedule = Schedule()
    schedule.sent(100.0, 5.0)
    name = schedule.mark(ended=True)
    assert name is not None
    schedule.cleared()
    latency = schedule.latency
    schedule.played(name, 100.1)
    schedule.played("unknown", 100.1)
    assert schedule.latency == latency
    assert schedule.ahead(100.2) == 0
    assert schedule.next_at(100.2) == pytest.approx(100.2 + latency)
