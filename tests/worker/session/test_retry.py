"""Backoff: how long a session waits between attempts, and when it gives up."""

from __future__ import annotations

import pytest

from worker.session.retry import Retry

FIRST, LONGEST, PATIENCE = 0.5, 4.0, 60.0


@pytest.fixture
def retry() -> Retry:
    return Retry(FIRST, LONGEST, PATIENCE)


def test_delays_double_up_to_the_longest(retry: Retry) -> None:
    assert [retry.next_delay(1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]


def test_jitter_takes_away_half_at_most(retry: Retry) -> None:
    assert retry.next_delay(0.0) == FIRST / 2
    assert retry.next_delay(0.5) == 2 * FIRST * 0.75


def test_an_attempt_at_once_counts_for_the_next_delay(retry: Retry) -> None:
    assert retry.next_delay(1.0, at_once=True) == 0.0
    assert retry.next_delay(1.0) == 2 * FIRST


def test_progress_resets_delay_and_patience(retry: Retry) -> None:
    retry.outage_too_long(0.0)
    retry.next_delay(1.0)
    retry.reset()
    assert retry.next_delay(1.0) == FIRST
    assert not retry.outage_too_long(PATIENCE + 1)


def test_it_gives_up_after_its_patience_without_progress(retry: Retry) -> None:
    assert not retry.outage_too_long(100.0)
    assert not retry.outage_too_long(100.0 + PATIENCE)
    assert retry.outage_too_long(100.1 + PATIENCE)


def test_time_spent_waiting_for_a_permit_is_not_failure(retry: Retry) -> None:
    retry.outage_too_long(100.0)
    retry.exclude(30.0)
    assert not retry.outage_too_long(129.0 + PATIENCE)
    assert retry.outage_too_long(131.0 + PATIENCE)


def test_waiting_before_the_first_fault_is_no_credit(retry: Retry) -> None:
    retry.exclude(1000.0)
    retry.outage_too_long(0.0)
    assert retry.outage_too_long(PATIENCE + 1)


@pytest.mark.parametrize(
    ("finals_moved", "answered_seconds", "progress"),
    [
        (True, None, True),
        (False, None, False),
        (False, LONGEST, False),
        (False, LONGEST + 0.1, True),
    ],
)
def test_finals_or_a_long_stream_that_answered_are_progress(
    retry: Retry, finals_moved: bool, answered_seconds: float | None, progress: bool
) -> None:
    retry.answered_seconds = answered_seconds
    assert retry.made_progress(finals_moved=finals_moved) is progress


def test_a_recovery_is_measured_once_from_the_last_fault(retry: Retry) -> None:
    assert retry.recovered(1.0) is None
    retry.recovering("dropped", 10.0)
    retry.recovering("connect", 12.0)
    assert retry.recovered(15.0) == ("connect", 3.0)
    assert retry.recovered(16.0) is None


def test_a_successor_goes_on_counting(retry: Retry) -> None:
    assert retry.failing_seconds(5.0) == 0
    retry.adopt(50.0, 100.0)
    assert retry.failing_seconds(105.0) == 55
    assert not retry.outage_too_long(110.0)
    assert retry.outage_too_long(110.1)
