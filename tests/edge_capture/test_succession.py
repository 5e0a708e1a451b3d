"""The step after the end of a session is decided without a broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from edge_capture.succession import (
    AT_ONCE,
    Step,
    Stopped,
    Succession,
    Successor,
    Transcribed,
    Untranscribed,
    clock_text,
)
from natterjack.control import stop_reason
from natterjack.events import StatusEvent
from natterjack.spec import SessionSpec

RATE = 16_000
SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=RATE)


def ended(
    state: str, position: float | None, reason: str | None = "idle", detail: str | None = None
) -> StatusEvent:
    """Return a closing event. `position` is in seconds."""
    fields: dict[str, Any] = {
        "session_id": SPEC.session_id, "tenant": "t", "conversation": "c", "speaker": "s",
        "epoch": 1, "published_at": datetime.now(UTC), "sequence": 1, "state": state,
        "worker": "worker-1", "reason": reason, "detail": detail,
        "position": None if position is None else round(position * RATE),
    }  # fmt: skip
    return StatusEvent(**fields)


def succession(*, live: bool = True, start: float = 0, jitter: float = 0) -> Succession:
    return Succession(round(start * RATE), RATE, live=live, jitter=lambda: jitter)


def after(subject: Succession, event: StatusEvent | None, end: float | None = None) -> Step:
    """Return what follows `event`. `end` is in seconds."""
    return subject.after(event, None if end is None else round(end * RATE))


@pytest.mark.parametrize("state", ["closed", "failed"])
def test_live_audio_has_a_successor_at_once_where_the_session_ended(state: str) -> None:
    assert after(succession(), ended(state, 12.5)) == Successor(round(12.5 * RATE), 0)


@pytest.mark.parametrize("live", [True, False])
def test_nothing_follows_a_session_that_has_transcribed_everything(live: bool) -> None:
    assert after(succession(live=live), ended("closed", 9.9, "end of audio"), 10) == Transcribed()
    assert after(succession(live=live), ended("closed", 10, "idle"), 10) == Transcribed()
    assert after(succession(live=live), ended("failed", 10, "no credit"), 10) == Transcribed()


def test_the_rest_of_audio_that_has_ended_has_a_successor() -> None:
    assert after(succession(), ended("failed", 4), 10) == Successor(4 * RATE, 0)


def test_a_source_that_can_wait_has_none() -> None:
    assert after(succession(live=False), ended("failed", 4), 10) == Untranscribed(4 * RATE)
    assert after(succession(live=False), ended("closed", 4)) == Untranscribed(4 * RATE)


@pytest.mark.parametrize("end", [None, 10.0])
def test_nothing_follows_a_stop_request(end: float | None) -> None:
    assert after(succession(), ended("closed", 4, stop_reason("erased")), end) == Stopped()


def test_a_worker_of_the_previous_release_does_not_say_where_it_ended() -> None:
    assert after(succession(), ended("failed", None)) == Untranscribed(None)
    assert after(succession(), ended("closed", None, "end of audio"), 10) == Transcribed()
    assert after(succession(), ended("closed", None, "idle"), 10) == Untranscribed(None)


@pytest.mark.parametrize("end", [None, 110.0])
def test_an_end_that_cannot_be_read_has_a_successor_from_where_its_session_started(
    end: float | None,
) -> None:
    subject = succession(start=100)
    assert after(subject, None, end) == Successor(100 * RATE, 0)
    assert after(subject, ended("failed", 104), end) == Successor(104 * RATE, 0)
    assert after(subject, None, end) == Successor(104 * RATE, 0)


def test_a_source_that_can_wait_has_none_after_an_end_that_cannot_be_read() -> None:
    assert after(succession(live=False), None) == Untranscribed(None)


def test_ends_that_cannot_be_read_are_no_progress() -> None:
    """Two agents that end each other's sessions do so less and less often."""
    subject = succession()
    steps = [after(subject, None) for _ in range(AT_ONCE + 3)]
    assert steps == [Successor(0, wait) for wait in [0.0] * AT_ONCE + [5, 10, 20]]
    assert after(subject, None, 10) == Untranscribed(0)


def waits(subject: Succession, count: int, position: float = 0) -> list[float]:
    found = []
    for _ in range(count):
        step = after(subject, ended("failed", position, "no such provider"))
        assert isinstance(step, Successor)
        found.append(step.wait_s)
    return found


def test_successors_without_progress_wait_longer_and_longer() -> None:
    subject = succession()
    assert waits(subject, AT_ONCE) == [0] * AT_ONCE
    assert waits(subject, 9) == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert waits(subject, 1000)[-1] == 300


def test_waits_are_spread() -> None:
    subject = succession(jitter=1)
    waits(subject, AT_ONCE)
    assert waits(subject, 2) == [6.25, 12.5]


def test_progress_begins_anew() -> None:
    subject = succession()
    waits(subject, AT_ONCE + 2)
    assert after(subject, ended("failed", 8)) == Successor(8 * RATE, 0)
    assert waits(subject, AT_ONCE + 1, 8) == [0] * AT_ONCE + [5]


def test_a_fraction_of_a_second_is_no_progress() -> None:
    subject = succession()
    for number in range(1, AT_ONCE + 1):
        assert after(subject, ended("failed", number * 0.1)) == Successor(number * RATE // 10, 0)
    step = after(subject, ended("failed", 0.5))
    assert step == Successor(RATE // 2, 5)


def test_a_session_starts_where_the_one_before_ended() -> None:
    subject = succession(start=100)
    assert waits(subject, AT_ONCE + 1, 100.5)[-1] == 5
    assert after(subject, ended("failed", 90)) == Successor(round(100.5 * RATE), 10)


def test_the_tenants_budget_is_no_progress_but_max_seconds_is() -> None:
    subject = succession()
    for number in range(1, AT_ONCE + 1):
        step = after(subject, ended("closed", number * 10, "budget", "tenant acme: 6 s"))
        assert step == Successor(number * 10 * RATE, 0)
    step = after(subject, ended("closed", 100, "budget", "tenant acme: 6 s"))
    assert step == Successor(100 * RATE, 5)
    step = after(subject, ended("closed", 120, "budget", "max_seconds: 20 s of audio"))
    assert step == Successor(120 * RATE, 0)


def test_audio_that_has_ended_is_given_up_after_as_many_attempts() -> None:
    subject = succession()
    steps = [after(subject, ended("failed", 4), 10) for _ in range(AT_ONCE + 2)]
    assert steps == [Successor(4 * RATE, 0)] * (AT_ONCE + 1) + [Untranscribed(4 * RATE)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (61.25, "1:01.2"), (751, "12:31.0"), (3600, "1:00:00.0")]
)
def test_positions_are_written_as_clock_times(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
