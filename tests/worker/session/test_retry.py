"""Backoff: how long a session waits between attempts, and when it gives up."""

from __future__ import annotations

import pytest

from worker.session.retry import RepeatedFailures, Retry

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
    retry.note_outage(0.0)
    retry.next_delay(1.0)
    retry.reset()
    assert retry.next_delay(1.0) == FIRST
    assert not retry.note_outage(PATIENCE + 1)


def test_it_gives_up_after_its_patience_without_progress(retry: Retry) -> None:
    assert not retry.note_outage(100.0)
    assert not retry.note_outage(100.0 + PATIENCE)
    assert retry.note_outage(100.1 + PATIENCE)


def test_time_spent_waiting_for_a_permit_is_not_failure(retry: Retry) -> None:
    retry.note_outage(100.0)
    retry.exclude(30.0)
    assert not retry.note_outage(129.0 + PATIENCE)
    assert retry.note_outage(131.0 + PATIENCE)


def test_waiting_before_the_first_fault_is_no_credit(retry: Retry) -> None:
    retry.exclude(1000.0)
    retry.note_outage(0.0)
    assert retry.note_outage(PATIENCE + 1)


@pytest.mark.parametrize(
    ("finals_moved", "answered_seconds", "progress"),
    [
        (True, None, True),
        (False, None, False),
        (False, LONGEST, False),
        (False, LONGEST + 0.1, True),
    ],
)
def test_finals_are_progress_and_a_long_stream_that_answered_in_silence(
    retry: Retry, finals_moved: bool, answered_seconds: float | None, progress: bool
) -> None:
    retry.answered_seconds = answered_seconds
    assert retry.made_progress("dropped", finals_moved=finals_moved) is progress


@pytest.mark.parametrize(
    ("cause", "pending"), [("dropped", True), ("protocol", False), ("plugin", False)]
)
def test_a_long_stream_with_text_that_is_not_final_is_no_progress(
    retry: Retry, cause: str, pending: bool
) -> None:
    retry.answered_seconds, retry.pending = LONGEST + 100, pending
    assert not retry.made_progress(cause, finals_moved=False)
    assert retry.made_progress(cause, finals_moved=True)


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
    assert not retry.note_outage(110.0)
    assert retry.note_outage(110.1)


# ---- equal failures at one position ---------------------------------------------------------

RATE, HERE, SENT = 8000, 10 * 8000, 14 * 8000


@pytest.fixture
def failures() -> RepeatedFailures:
    return RepeatedFailures(RATE, 3)


@pytest.mark.parametrize("cause", ["protocol", "plugin"])
def test_a_session_is_stuck_after_equal_failures_at_one_position(
    failures: RepeatedFailures, cause: str
) -> None:
    for _ in range(2):
        failures.failed("one", cause, HERE, SENT)
        assert not failures.stuck(["one"], give_up=False)
    failures.failed("one", cause, HERE, SENT)
    assert failures.stuck(["one"], give_up=False)
    assert failures.repeated("one")


def test_every_provider_has_to_fail(failures: RepeatedFailures) -> None:
    for provider in ("one", "two"):
        for _ in range(3):
            assert not failures.stuck(["one", "two"], give_up=False)
            failures.failed(provider, "protocol", HERE, SENT)
    assert failures.stuck(["one", "two"], give_up=False)


def test_other_failures_are_not_equal(failures: RepeatedFailures) -> None:
    for _ in range(9):
        failures.failed("one", "dropped", HERE, SENT)
    for cause in ("protocol", "plugin"):
        for _ in range(2):
            failures.failed("one", cause, HERE, SENT)
    assert not failures.repeated("one")


def test_only_finals_that_move_are_progress(failures: RepeatedFailures) -> None:
    for position in (HERE, HERE, HERE + 1, HERE + 1):
        failures.failed("one", "protocol", position, SENT)
    assert not failures.repeated("one")


def test_a_failure_without_audio_is_not_because_of_the_audio(failures: RepeatedFailures) -> None:
    for _ in range(9):
        failures.failed("one", "plugin", HERE, HERE + RATE // 2)
    assert not failures.repeated("one")


def test_as_little_audio_as_possible_is_left_out(failures: RepeatedFailures) -> None:
    for reached in (SENT, SENT - 9, SENT + 9):
        failures.failed("one", "protocol", HERE, reached)
    assert failures.reached == SENT - 9
    failures.failed("one", "protocol", SENT, SENT + RATE)
    assert failures.reached == SENT + RATE


def test_before_a_session_fails_it_leaves_audio_out_once(failures: RepeatedFailures) -> None:
    failures.failed("one", "protocol", HERE, SENT)
    assert not failures.stuck(["one", "two"], give_up=True), "it may be another the next time"
    failures.failed("one", "protocol", HERE, SENT)
    assert failures.stuck(["one", "two"], give_up=True)
    assert failures.leave_out(SENT)
    for _ in range(2):
        failures.failed("one", "protocol", SENT, SENT + RATE)
    assert not failures.stuck(["one", "two"], give_up=True)
    failures.failed("one", "protocol", SENT, SENT + RATE)
    assert failures.stuck(["one"], give_up=False)
    assert not failures.leave_out(SENT + RATE)
    # Finals have moved.
    for _ in range(2):
        failures.failed("one", "protocol", SENT + 2 * RATE, SENT + 4 * RATE)
    assert failures.stuck(["one"], give_up=True)
