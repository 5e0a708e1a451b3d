from __future__ import annotations

from natterjack.plugin.errors import RequestRefused, Unavailable
from worker.providers.breaker import Breaker, BreakerState

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


def test_it_refuses_only_if_every_failure_was_permanent() -> None:
    breaker = Breaker(2, 10, 60)
    breaker.record_failure(FAULT, 0)
    breaker.record_failure(RequestRefused("p", "credit", "no money"), 0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.refusal is None
    breaker = Breaker(2, 10, 60)
    for _ in range(2):
        breaker.record_failure(RequestRefused("p", "credit", "no money"), 0)
    assert breaker.refusal is not None
    assert breaker.try_acquire(10) == 0
    assert breaker.refusal is None, "the others wait for the probe"


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
    assert breaker.refusal is NO_CREDIT


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
    breaker.record_success(fresh=False)
    assert breaker.try_acquire(0.5) > 0
    assert breaker.try_acquire(1) == 0
    breaker.record_success(fresh=True)
    assert breaker.try_acquire(1) == breaker.try_acquire(1) == 0


def test_a_refusal_of_another_worker_lasts_for_a_limited_time() -> None:
    breaker = Breaker(3, 10, 60)
    breaker.refused_elsewhere(NO_CREDIT, 0, 10**9)
    assert breaker.try_acquire(0) == 60
    assert breaker.refusal is NO_CREDIT
    assert breaker.seconds_left(20) == 40
