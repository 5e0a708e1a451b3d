"""Server-sent events: messages, and how a stream is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.api.sse import BEGINNING, kinds_of, message, note, start_of
from natterjack.errors import UsageError
from natterjack.position import Position

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
PLACE = Position(7, 1_700_000_000_000_000_001)


def test_a_message_is_one_line_of_data_whatever_is_in_it() -> None:
    assert message(b'{"a": 1}', "here") == b'id: here\ndata: {"a": 1}\n\n'
    assert message(b'{"a":\n\r\n "x\\ny"}') == b'data: {"a":"x\\ny"}\n\n'
    assert note("caught_up") == b'data: {"type":"caught_up"}\n\n'


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("", BEGINNING),
        ("start", BEGINNING),
        ("now", None),
        ("30s", NOW - timedelta(seconds=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("999999999d", BEGINNING),
        ("2026-11-29T11:00Z", NOW - timedelta(hours=1)),
        ("2026-11-29T12:00 01:00", NOW - timedelta(hours=1)),  # a `+` that a query had
        (str(PLACE), PLACE),
    ],
)
def test_where_a_viewer_begins(since: str, expected: object) -> None:
    assert start_of({}, {"since": since}, NOW) == expected


def test_the_last_event_counts_more_than_where_the_page_began() -> None:
    assert start_of({"Last-Event-ID": str(PLACE)}, {"since": "start"}, NOW) == PLACE
    assert start_of({}, {}, NOW) == BEGINNING


@pytest.mark.parametrize("since", ["yesterday", "2026-11-29T12:00", "-5s", "AQAAAAAA", "5 s"])
def test_a_wrong_start_is_refused_with_its_cure(since: str) -> None:
    with pytest.raises(UsageError, match="since: "):
        start_of({}, {"since": since}, NOW)
    with pytest.raises(UsageError, match="position"):
        start_of({"Last-Event-ID": "AQAAAAAA"}, {}, NOW)


def test_kinds_are_those_that_are_wanted_and_allowed() -> None:
    assert kinds_of({}, None) is None
    assert kinds_of({}, ["final"]) == frozenset({"final"})
    assert kinds_of({"kinds": "final, interim"}, ["final", "status"]) == frozenset({"final"})
    with pytest.raises(UsageError, match="'finals' is not one of"):
        kinds_of({"kinds": "finals"}, None)
