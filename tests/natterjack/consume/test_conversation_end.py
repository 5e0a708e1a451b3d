"""When a conversation has ended, without a broker."""

from __future__ import annotations

from natterjack.consume.conversation_end import SUCCESSOR_S, OpenSessions

from .events import final, status


def test_nothing_has_ended_before_a_session() -> None:
    sessions = OpenSessions()
    assert not sessions.ended(0)
    assert sessions.wait(0) is None
    sessions.read(status(0, "assigned"), 0)
    assert not sessions.ended(1e9)


def test_it_ends_when_all_sessions_have_closed() -> None:
    sessions = OpenSessions()
    for session in ("a", "b"):
        sessions.read(status(0, "assigned", session), 0)
    sessions.read(status(1, "closed", "a"), 1)
    assert not sessions.ended(2)
    sessions.read(status(1, "failed", "b"), 2)
    assert sessions.ended(2)


def test_a_session_may_be_seen_first_in_its_middle() -> None:
    sessions = OpenSessions()
    sessions.read(status(9, "closed", "a"), 0)
    sessions.read(final(3, session_id="b"), 0)
    assert not sessions.ended(0)
    sessions.read(status(4, "closed", "b"), 0)
    assert sessions.ended(0)


def test_events_may_be_read_again() -> None:
    sessions = OpenSessions()
    for _ in range(2):
        sessions.read(status(0, "assigned", "a"), 0)
        sessions.read(status(1, "closed", "a", continued_by="b"), 0)
        sessions.read(status(0, "assigned", "b"), 0)
        sessions.read(status(1, "closed", "b"), 0)
        assert sessions.ended(0)


def test_a_successor_is_waited_for_but_not_for_ever() -> None:
    sessions = OpenSessions()
    sessions.read(status(0, "closed", "a", continued_by="b"), 100)
    assert not sessions.ended(100)
    assert sessions.wait(100) == SUCCESSOR_S
    assert sessions.ended(100 + SUCCESSOR_S), "its edge is lost"
    sessions.read(status(0, "assigned", "b"), 100 + SUCCESSOR_S)
    assert not sessions.ended(1e9)
    assert sessions.wait(0) is None, "only an event can end it"
    sessions.read(status(1, "closed", "b"), 1e9)
    assert sessions.ended(1e9)


def test_a_successor_may_come_before_the_event_that_names_it() -> None:
    sessions = OpenSessions()
    sessions.read(status(0, "assigned", "b"), 0)
    sessions.read(status(1, "closed", "b"), 1)
    sessions.read(status(0, "closed", "a", continued_by="b"), 2)
    assert sessions.ended(2)
