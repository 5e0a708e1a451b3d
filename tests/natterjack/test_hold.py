"""Messages in which edges report their hold on a key, and the choice between two holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.hold import MAX_BYTES, Hold, parse_hold
from natterjack.subjects import SessionKey, hold_subject
from tests.searching import examples

SINCE = datetime(2026, 3, 1, 12, 31, 5, tzinfo=UTC)
WIRE: dict[str, Any] = {
    "session_id": "6b0f7d1c-5f0b-4a53",
    "agent": "pi-7",
    "pid": 4711,
    "since": "2026-03-01T12:31:05Z",
    "version": "0.1.0",
    "publishing": True,
    "request_sequence": 17,
}

holds = st.builds(
    Hold,
    session_id=st.sampled_from(["session-a", "session-b", "session-c"]),
    agent=st.sampled_from(["pi-1", "pi-2"]),
    pid=st.none() | st.integers(1, 2),
    since=st.integers(0, 2).map(lambda seconds: SINCE + timedelta(seconds=seconds)),
    publishing=st.booleans(),
    request_sequence=st.none() | st.integers(1, 3),
)


def test_subject() -> None:
    assert hold_subject(SessionKey("acme", "room", "s")) == "stt.hold.acme.room.s"


def test_what_is_encoded_is_parsed() -> None:
    parsed = parse_hold(json.dumps(WIRE).encode())
    assert parsed == Hold(**{**WIRE, "since": SINCE})
    assert parsed is not None
    assert parse_hold(parsed.encode()) == parsed
    assert json.loads(parsed.encode()) == WIRE


def test_what_is_optional_may_be_absent_and_what_is_unknown_is_ignored() -> None:
    least = {name: WIRE[name] for name in ("session_id", "agent", "since", "publishing")}
    parsed = parse_hold(json.dumps({**least, "later": {"field": 1}}).encode())
    assert parsed is not None
    assert parsed.request_sequence is None
    assert parsed.pid is None


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": "short"},
        {"session_id": "a.b.c.d.e.f"},
        {"agent": ""},
        {"agent": "x" * 256},
        {"agent": "pi\x1b[2J"},
        {"agent": "pi\n"},
        {"agent": "\u202eip"},
        {"agent": 7},
        {"pid": -1},
        {"pid": 2**40},
        {"pid": "4711"},
        {"since": 1772368265},
        {"since": "2026-03-01T12:31:05"},
        {"since": "0001-01-01T00:00:00Z"},
        {"since": "9999-12-31T23:59:59Z"},
        {"since": "yesterday"},
        {"version": "0\x07"},
        {"publishing": "true"},
        {"publishing": 1},
        {"publishing": None},
        {"request_sequence": 0},
        {"request_sequence": 2**63},
        {"request_sequence": 1.5},
        {"padding": "x" * MAX_BYTES},
    ],
)
def test_an_invalid_message_is_none(change: dict[str, Any]) -> None:
    assert parse_hold(json.dumps({**WIRE, **change}).encode()) is None


@pytest.mark.parametrize("name", ["session_id", "agent", "since", "publishing"])
def test_a_message_that_lacks_a_field_is_none(name: str) -> None:
    assert parse_hold(json.dumps({k: v for k, v in WIRE.items() if k != name}).encode()) is None


@examples(100)
@given(st.binary(max_size=200))
def test_garbage_is_none(payload: bytes) -> None:
    assert parse_hold(payload) is None


@pytest.mark.parametrize("payload", [b"[" * MAX_BYTES, b"null", b"[]", b"{}", b'{"agent":' * 300])
def test_other_json_is_none(payload: bytes) -> None:
    assert parse_hold(payload) is None


@examples(100)
@given(holds, holds, holds)
def test_it_is_a_total_order(one: Hold, other: Hold, third: Hold) -> None:
    assert not one.outranks(one)
    for a, b, c in permutations((one, other, third)):
        assert not (a.outranks(b) and b.outranks(a))
        if a.outranks(b) and b.outranks(c):
            assert a.outranks(c)


@examples(100)
@given(holds, holds)
def test_two_different_agents_are_never_equal(one: Hold, other: Hold) -> None:
    if one.session_id != other.session_id:
        assert one.outranks(other) or other.outranks(one)


def make(agent: str, since: int, publishing: bool, request_sequence: int | None = None) -> Hold:
    return Hold(
        session_id=f"session-of-{agent}",
        agent=agent,
        since=SINCE + timedelta(seconds=since),
        publishing=publishing,
        request_sequence=request_sequence,
    )


@pytest.mark.parametrize(
    ("keeps", "gives_up"),
    [
        # Whoever publishes keeps the key, whatever the clocks say.
        (make("a", 60, True, 5), make("b", 0, False)),
        (make("a", 60, True), make("b", 0, False)),
        # The earlier one of two that ask keeps it.
        (make("a", 0, False), make("b", 1, False)),
        # The one that took over keeps it, if both publish, whatever the clocks say.
        (make("a", 0, True, 9), make("b", 60, True, 5)),
        (make("a", 60, True, 9), make("b", 0, True, 5)),
        (make("a", 60, True, 9), make("b", 0, True)),
        (make("a", 0, True), make("b", 60, True)),
        # A request of an earlier run does not count before this one publishes.
        (make("a", 0, False), make("b", 1, False, 5)),
        # At the same time.
        (make("a", 0, False), make("b", 0, False)),
    ],
)
def test_who_keeps_the_key(keeps: Hold, gives_up: Hold) -> None:
    assert keeps.outranks(gives_up)
    assert not gives_up.outranks(keeps)
