"""Which interims are yielded, without a broker."""

from __future__ import annotations

from typing import Any

import pytest

from natterjack.consume import interims as module
from natterjack.consume.interims import InterimQueue

from .events import final, interim, status


def drain(queue: InterimQueue) -> list[str]:
    found = []
    while (event := queue.next()) is not None:
        found.append(event.text)
    return found


@pytest.mark.parametrize(("keep", "expected"), [("latest", "abc"), ("all", "a ab b abc bc")])
def test_the_latest_of_each_segment_or_all(keep: Any, expected: str) -> None:
    queue = InterimQueue(keep)
    for session, text in (("1", "a"), ("1", "ab"), ("2", "b"), ("1", "abc"), ("2", "bc")):
        queue.add(interim(0, text, session_id=session))
    assert drain(queue) == (expected.split() if keep == "all" else ["abc", "bc"])
    assert not queue


def test_one_segment_does_not_replace_another() -> None:
    queue = InterimQueue("latest")
    queue.add(interim(0, "first"))
    queue.add(interim(1, "second"))
    assert drain(queue) == ["first", "second"]


@pytest.mark.parametrize("keep", ["latest", "all"])
def test_a_final_makes_interims_stale_that_wait(keep: Any) -> None:
    queue = InterimQueue(keep)
    for segment in (0, 1, 1, 2):
        queue.add(interim(segment, str(segment)))
    queue.add(interim(0, "other", session_id="session-2"))
    queue.read(final(1))
    assert drain(queue) == ["2", "other"]


def test_a_session_that_closed_has_no_interims() -> None:
    queue = InterimQueue("latest")
    queue.add(interim(5, "waiting"))
    queue.read(status(6, "closed"))
    queue.add(interim(6, "late"))
    queue.add(interim(0, "another session of the key", session_id="session-2"))
    assert drain(queue) == ["another session of the key"]
    queue.read(status(7, "assigned"))  # a zombie's, out of order
    queue.add(interim(7, "later"))
    assert not drain(queue)


def test_an_older_holder_has_no_interims() -> None:
    queue = InterimQueue("latest")
    queue.read(final(0, epoch=2))
    queue.add(interim(1, "zombie", epoch=1))
    assert not drain(queue)
    queue.add(interim(1, "current", epoch=2))
    queue.add(interim(2, "next", epoch=3))
    assert drain(queue) == ["current", "next"]


def test_finals_may_be_read_again_and_out_of_order() -> None:
    queue = InterimQueue("latest")
    for n in (3, 1):
        queue.read(final(n))
    queue.add(interim(2, "stale"))
    queue.add(interim(4, "current"))
    assert drain(queue) == ["current"]


def test_a_replaced_stream_begins_anew() -> None:
    queue = InterimQueue("latest")
    queue.read(final(5))
    queue.forget()
    queue.add(interim(0, "again"))
    assert drain(queue) == ["again"]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_INTERIMS", 3)
    monkeypatch.setattr(module, "_MAX_SESSIONS", 3)
    queue = InterimQueue("all")
    for n in range(5):
        queue.add(interim(9, str(n)))
    assert drain(queue) == ["2", "3", "4"], "the oldest are dropped"
    for n in range(5):
        queue.read(final(0, session_id=f"session-{n}"))
    queue.read(final(1, session_id="session-2"))
    queue.read(final(0, session_id="session-5"))
    assert list(queue._sessions) == ["session-4", "session-2", "session-5"]
