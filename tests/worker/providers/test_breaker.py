from __future__ import annotations

import pytest

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RequestRefused,
    Stalled,
    Unavailable,
    http_error,
)
from worker.providers.breaker import Breaker, BreakerState, Verdict, judge

FAULT = Unavailable("p", "connect", "refused")


def _open() -> Breaker:
    breaker = Breaker(3, 10, 60)
    for _ in range(3):
        assert breaker.try_acquire(0) == 0
        breaker.record_failure(FAULT, 0)
    return breaker


def test_only_consecutive_failures_open_it() -> None:
    breaker = Breaker(3, 10, 60)
    for _ in range(5):
        breaker.record_failure(FAULT, 0)
        breaker.record_failure(FAULT, 0)
        breaker.record_success()
    assert breaker.state is BreakerState.CLOSED
    assert _open().state is BreakerState.OPEN


def test_an_open_breaker_gives_the_time_to_wait() -> None:
    breaker = _open()
    assert breaker.try_acquire(4) == 6
    assert breaker.fault is FAULT


def test_one_caller_probes_while_the_others_wait() -> None:
    breaker = _open()
    assert breaker.try_acquire(10) == 0
    assert breaker.try_acquire(10) > 0
    breaker.record_success()
    assert breaker.try_acquire(10) == 0
    assert breaker.try_acquire(10) == 0


def test_each_failed_probe_doubles_the_wait_up_to_a_limit() -> None:
    breaker, now = _open(), 10.0
    waits = []
    for _ in range(5):
        assert breaker.try_acquire(now) == 0
        breaker.record_failure(FAULT, now)
        waits.append(breaker.try_acquire(now))
        now += waits[-1]
    assert waits == [20, 40, 60, 60, 60]


def test_a_probe_without_a_result_is_followed_by_another() -> None:
    breaker = _open()
    assert breaker.try_acquire(10) == 0
    assert breaker.try_acquire(19) > 0
    assert breaker.try_acquire(20) == 0


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (http_error("p", 400, "no such model"), Verdict.REFUSED),
        (http_error("p", 404, "no such path"), Verdict.REFUSED),
        (RequestRefused("p", "request", "no such language"), Verdict.REFUSED),
        (http_error("p", 401, "wrong key"), Verdict.HOLD),
        (http_error("p", 402, "no money"), Verdict.HOLD),
        (http_error("p", 403, "suspended"), Verdict.HOLD),
        (RequestRefused("p", "credit", "used up"), Verdict.HOLD),
        (http_error("p", 429, "too many"), Verdict.RETRY),
        (http_error("p", 503, "down"), Verdict.RETRY),
        (Dropped("p", "gone"), Verdict.RETRY),
        (Stalled("p", "mute", "says nothing"), Verdict.RETRY),
    ],
)
def test_what_a_fault_means(fault: ProviderError, verdict: Verdict) -> None:
    assert judge(fault) is verdict


@pytest.mark.parametrize("status", [401, 402, 403])
def test_only_a_403_concerns_the_request_while_others_are_served(status: int) -> None:
    served = judge(http_error("p", status, "no"), serves_others=True)
    assert served is (Verdict.REFUSED if status == 403 else Verdict.HOLD)


@pytest.mark.parametrize("status", [401, 402])
def test_one_refusal_of_the_account_opens_it_and_a_probe_closes_it(status: int) -> None:
    breaker = Breaker(5, 10, 60)
    breaker.record_failure(http_error("p", status, "no"), 0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.refuses_account
    breaker.record_success(first_answer=False)
    assert breaker.state is BreakerState.OPEN, "open streams go on; no new one is opened"
    assert breaker.try_acquire(10) == 0
    breaker.record_success()
    assert breaker.try_acquire(10) == breaker.try_acquire(10) == 0
    assert not breaker.refuses_account


def test_a_403_opens_it_when_several_sessions_are_refused_in_a_row() -> None:
    breaker, forbidden = Breaker(2, 10, 60), http_error("p", 403, "no")
    breaker.record_failure(forbidden, 0)
    for _ in range(9):
        breaker.record_failure(forbidden, 0, again=True)
    assert breaker.try_acquire(0) == 0, "one session that asks for too much"
    breaker.record_failure(forbidden, 0)
    assert breaker.state is BreakerState.OPEN


def test_a_bad_request_does_not_count() -> None:
    breaker = Breaker(1, 10, 60)
    breaker.record_failure(RequestRefused("p", "request", "no such language"), 0)
    assert breaker.try_acquire(0) == 0
    breaker.record_failure(RequestRefused("p", "auth", "wrong key"), 0)
    assert breaker.state is BreakerState.OPEN


LIMITED = Unavailable("p", "rate_limit", "429")
NO_CREDIT = RequestRefused("p", "credit", "402")


def test_one_error_of_the_whole_account_opens_it() -> None:
    for fault in (LIMITED, NO_CREDIT):
        breaker = Breaker(3, 10, 60)
        breaker.record_failure(fault, 0)
        assert breaker.state is BreakerState.OPEN
        assert breaker.fault is fault


def test_a_rate_limit_is_retried_soon() -> None:
    breaker, now, waits = Breaker(3, 10, 60), 0.0, []
    for _ in range(6):
        assert breaker.try_acquire(now) == 0
        breaker.record_failure(LIMITED, now)
        waits.append(breaker.try_acquire(now))
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 10, 10]


def test_running_streams_do_not_end_a_rate_limit() -> None:
    breaker = Breaker(3, 10, 60)
    breaker.record_failure(LIMITED, 0)
    breaker.record_success(first_answer=False)
    assert breaker.try_acquire(0.5) > 0
    assert breaker.try_acquire(1) == 0
    breaker.record_success(first_answer=True)
    assert breaker.try_acquire(1) == breaker.try_acquire(1) == 0


def test_a_refusal_of_another_worker_lasts_for_a_limited_time() -> None:
    breaker = Breaker(3, 10, 60)
    breaker.refused_elsewhere(NO_CREDIT, 0, 10**9)
    assert breaker.try_acquire(0) == 60
    assert breaker.fault is NO_CREDIT
    assert breaker.refuses_account
    assert breaker.seconds_left(20) == 40
