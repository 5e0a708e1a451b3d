"""The newest events of a conversation, for viewers that begin anywhere."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.api.history import Entry, History
from gateway.api.sse import BEGINNING
from natterjack.position import Position, nanoseconds

ORIGIN = datetime(2026, 11, 29, tzinfo=UTC)
START_NS = nanoseconds(ORIGIN)


def entry(number: int, size: int = 10) -> Entry:
    """An event that was stored `number` seconds after the origin."""
    text = f"{number:>{size}}".encode()
    return Entry("final", text, Position(100 + number, START_NS + number * 1_000_000_000))


def filled(*numbers: int, since_ns: int = START_NS, max_bytes: int = 1000) -> History:
    history = History(since_ns, max_bytes)
    for number in numbers:
        history.append(entry(number))
    return history


def shown(history: History, number: int) -> list[int]:
    return [int(one.message) for one in history.read(number, 10_000)]


def after(history: History, start: object) -> list[int] | None:
    number = history.after(start)  # type: ignore[arg-type]
    return None if number is None else shown(history, number)


def test_a_viewer_continues_after_its_event() -> None:
    history = filled(1, 2, 3)
    assert after(history, entry(2).position) == [3]
    assert after(history, entry(3).position) == []
    assert after(history, None) == []


def test_a_viewer_begins_at_a_time() -> None:
    history = filled(1, 2, 3)
    assert after(history, ORIGIN) == [1, 2, 3]
    assert after(history, datetime(2026, 11, 29, 0, 0, 2, tzinfo=UTC)) == [2, 3]
    assert after(history, datetime(2026, 11, 30, tzinfo=UTC)) == []


def test_an_event_that_is_not_in_the_stream_is_looked_for_by_its_time() -> None:
    history = filled(1, 3)
    assert after(history, entry(2).position) == [3]
    restored = Position(5_000, START_NS + 1_500_000_000)  # of a stream that was replaced
    assert after(history, restored) == [3]


def test_what_is_before_the_history_is_not_known() -> None:
    history = filled(1, 2)
    assert after(history, BEGINNING) is None
    assert after(history, Position(3, START_NS - 2)) is None
    assert after(filled(1, since_ns=0), BEGINNING) == [1]


def test_the_oldest_messages_are_dropped_and_then_not_known() -> None:
    history = filled(*range(20), max_bytes=100)
    assert history.first > 0
    kept = shown(history, history.first)
    assert kept[-1] == 19
    assert kept == list(range(kept[0], 20))
    assert len(kept) * 10 <= 100
    assert after(history, entry(0).position) is None
    assert after(history, entry(kept[0]).position) == kept[1:]
    with pytest.raises(LookupError):
        history.read(history.first - 1, 100)


def test_a_message_larger_than_all_is_kept_until_the_next() -> None:
    history = filled(1, max_bytes=50)
    history.append(entry(2, size=500))
    assert shown(history, history.first) == [2]


def test_earlier_messages_are_put_in_front_without_moving_anyone() -> None:
    history = filled(5, 6)
    number = history.after(entry(5).position)
    assert number is not None
    history.prepend([entry(1), entry(2)], START_NS - 10)
    assert shown(history, number) == [6]
    assert after(history, entry(1).position) == [2, 5, 6]
    assert after(history, Position(1, START_NS - 10)) == [1, 2, 5, 6]


def test_too_many_earlier_messages_are_not_kept() -> None:
    history = filled(5, 6, max_bytes=60)
    history.prepend([entry(n) for n in range(4)], 0)
    assert shown(history, history.first) == [5, 6]
    assert after(history, BEGINNING) is None


def test_a_batch_ends_after_so_many_bytes_and_has_one_message_at_least() -> None:
    history = filled(1, 2, 3)
    assert len(history.read(0, 1)) == 1
    assert len(history.read(0, 20)) == 2
    assert history.read(history.end, 20) == []
