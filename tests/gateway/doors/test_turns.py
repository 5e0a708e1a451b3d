"""When a client's turn starts and ends, with backends that report turns and with others."""

from __future__ import annotations

from gateway.doors.turns import Turns
from natterjack.events import Event

from .samples import final, interim, status, turn

Bounds = list[tuple[str, float]]


def bounds(*events: Event) -> Bounds:
    turns, found = Turns(), []
    for event in events:
        started = turns.starts(event)
        ended = turns.ends(event)
        found += [("start", started)] if started is not None else []
        found += [("end", ended)] if ended is not None else []
    return found


def test_an_announced_turn_starts_with_its_first_text() -> None:
    assert bounds(turn("started", 0.9)) == []
    assert bounds(
        turn("started", 0.9), interim("hi", 1.0, 1.4), interim("hi there", 1.0, 2.0),
        final("hi there", 1.0, 2.0), turn("ended", 2.2),
    ) == [("start", 0.9), ("end", 2.2)]  # fmt: skip


def test_finals_inside_an_announced_turn_do_not_end_it() -> None:
    assert bounds(
        turn("started", 0.0), final("one", 0, 1), final("two", 1, 2, 1), interim("three", 2, 3, 2),
        final("three", 2, 3, 2), turn("ended", 3.5), final("four", 4, 5, 3),
    ) == [("start", 0.0), ("end", 3.5), ("start", 4.0), ("end", 5.0)]  # fmt: skip


def test_without_announcements_each_final_is_a_turn() -> None:
    assert bounds(interim("one", 0, 1), final("one", 0, 1), final("two", 2, 3, 1)) == [
        ("start", 0.0), ("end", 1.0), ("start", 2.0), ("end", 3.0),
    ]  # fmt: skip


def test_an_announced_turn_without_text_never_starts() -> None:
    assert bounds(turn("started", 0.0), turn("ended", 1.0)) == []


def test_the_end_of_the_session_ends_the_turn() -> None:
    events = (turn("started", 0.0), final("one", 0, 1), status("recovering"), status("failed"))
    assert bounds(*events) == [("start", 0.0), ("end", 1.0)]
