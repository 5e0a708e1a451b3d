"""Counts of connections, and clients that are refused again and again."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from gateway.access import Admission, Grant, Reason, Refusals, Refused


def nothing() -> None:
    pass


def full(admission: Admission, grant: Grant | None) -> Refused:
    with pytest.raises(Refused) as caught, contextlib.ExitStack() as stack:
        stack.enter_context(admission.connection(grant) if grant else admission.waiting(nothing))
    assert caught.value.reason is Reason.FULL
    assert caught.value.retry_after
    return caught.value


def test_a_key_has_no_more_connections_than_its_limit() -> None:
    admission = Admission(10)
    one, other = Grant("one", "t", max_connections=2), Grant("other", "t")
    with admission.connection(one):
        with admission.connection(one), admission.connection(other):
            assert "its limit" in str(full(admission, one))
            assert (admission.total, admission.of_key("one")) == (3, 2)
        with admission.connection(one):
            pass
    assert (admission.total, admission.of_key("one")) == (0, 0)


def test_the_gateway_has_no_more_connections_than_its_limit() -> None:
    admission = Admission(2)
    grants = [Grant(str(n), "t") for n in range(3)]
    with admission.connection(grants[0]), admission.connection(grants[1]):
        assert "the gateway is full" in str(full(admission, grants[2]))
        full(admission, None)
    with admission.connection(grants[2]):
        pass


def test_clients_that_say_nothing_do_not_keep_the_others_out() -> None:
    admission = Admission(8)
    ended: list[str] = []
    with contextlib.ExitStack() as stack:
        for name in ("one", "two", "three"):
            stack.enter_context(admission.waiting(partial(ended.append, name)))
        assert ended == ["one"]
        with admission.connection(Grant("one", "t")):
            assert admission.total == 1
    for _ in range(4):
        with admission.waiting(nothing):
            pass
    assert ended == ["one"]


def test_a_full_gateway_lets_nobody_wait() -> None:
    admission = Admission(8)
    ended: list[str] = []
    with admission.waiting(partial(ended.append, "one")), contextlib.ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(admission.connection(Grant("one", "t")))
        with admission.waiting(nothing):
            assert ended == ["one"]
            stack.enter_context(admission.connection(Grant("one", "t")))
            full(admission, None)


def test_a_connection_that_fails_is_counted_no_longer() -> None:
    admission = Admission(1)
    grant = Grant("one", "t", max_connections=1)
    with contextlib.suppress(RuntimeError), admission.connection(grant):
        raise RuntimeError
    with admission.connection(grant):
        pass


WRONG = Refused(Reason.WRONG, "the key is not known here")


def test_a_client_that_is_refused_again_and_again_is_told_to_wait() -> None:
    refusals = Refusals(limit=3, window_seconds=60)
    for n in range(3):
        assert refusals.note(WRONG, n, "10.0.0.1", "secret") is WRONG
    told = refusals.note(WRONG, 10, "10.0.0.1", "other secret")
    assert (told.reason, told.status, told.retry_after) == (Reason.RATE, 429, 50)
    assert "the key is not known here" in str(told)
    assert refusals.note(WRONG, 10, "10.0.0.2", "secret").reason is Reason.RATE, "by secret, too"
    assert refusals.note(WRONG, 10, "10.0.0.2", None) is WRONG
    assert refusals.note(WRONG, 60, "10.0.0.1", "secret") is WRONG, "a new window"


def test_the_memory_for_refusals_is_bounded() -> None:
    refusals = Refusals(max_entries=100)
    for n in range(1000):
        refusals.note(WRONG, n / 1000, f"10.0.{n // 256}.{n % 256}", f"secret {n}")
    assert len(refusals) == 100
