"""Which messages of the stream and the live subject are events to yield, without a broker."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from natterjack.broker.client.fastpath import Client
from natterjack.broker.connection import Broker
from natterjack.consume.listener import Listener
from natterjack.consume.readahead import decode_message
from natterjack.decoding import AnyEvent
from natterjack.events import Event, InterimEvent, StatusEvent

from .events import KEY, final, interim

SECOND = 1_000_000_000


class Reading:
    """A listener whose consumer has just begun, and the stream's messages for it."""

    def __init__(self) -> None:
        client = Client()
        self.listener = Listener(Broker(client), (None, None, None), since="start")
        self.reader = self.listener._reader
        self.reader._current = True

    def durable(
        self, event: Event | bytes, sequence: int, consumer_sequence: int | None = None
    ) -> AnyEvent | None:
        """Read a message. It was stored in the second of its sequence."""
        number = self.reader._next_number if consumer_sequence is None else consumer_sequence
        reply = f"$JS.ACK.S.C.1.{sequence}.{number}.{sequence * SECOND}.0"
        data = event if isinstance(event, bytes) else event.encode()
        message = decode_message(b"stt.transcript.t.c.s.final", reply.encode(), data)
        return self.listener._decode(message) if self.reader.admit(message) else None

    def live(self, event: Event | bytes) -> InterimEvent | None:
        data = event if isinstance(event, bytes) else event.encode()
        self.listener._received(b"stt.transcript.t.c.s.interim", b"", None, data)
        assert self.listener._interims is not None
        return self.listener._interims.next()

    def renew(self) -> None:
        """Begin another consumer, at the last event that was read."""
        self.reader._current = self.reader._checking = True
        self.reader._next_number = 1


@pytest.fixture
def reading() -> Reading:
    return Reading()


def test_events_are_yielded_in_order(reading: Reading) -> None:
    for number in range(3):
        event = final(number)
        assert reading.durable(event, 10 + number) == event


def test_a_message_lost_on_the_way_is_read_again(reading: Reading) -> None:
    reading.durable(final(0), 10, 1)
    assert reading.durable(final(2), 12, 3) is None
    assert not reading.reader._current, "another consumer is needed"


def test_the_last_event_is_not_yielded_again(reading: Reading) -> None:
    reading.durable(final(0), 10)
    reading.renew()
    assert reading.durable(final(0), 10) is None
    later = final(1)
    assert reading.durable(later, 11) == later


def test_another_message_where_the_last_event_was(reading: Reading) -> None:
    reading.durable(final(0), 10)
    reading.renew()
    assert reading.durable(final(7), 3) is None
    assert not reading.reader._current, "it goes on by time"


@pytest.mark.parametrize("data", [b"", b"{}", b"no JSON"])
def test_an_invalid_event_is_skipped(reading: Reading, data: bytes) -> None:
    assert reading.durable(data, 10) is None
    assert reading.live(data) is None
    event = final(1)
    assert reading.durable(event, 11) == event


def test_interims_of_a_segment_end_with_its_final(reading: Reading) -> None:
    assert reading.live(interim(0, "to")) is not None
    reading.durable(final(0), 10)
    assert reading.live(interim(0, "toa")) is None
    assert reading.live(interim(1, "fr")) is not None


def test_interims_of_an_older_holder_are_dropped(reading: Reading) -> None:
    reading.durable(final(0, epoch=2), 10)
    assert reading.live(interim(1, "fr", epoch=1)) is None
    assert reading.live(interim(1, "fr", epoch=2)) is not None


def test_interims_of_a_closed_session_are_dropped(reading: Reading) -> None:
    closing = StatusEvent(
        session_id="session-1", **KEY._asdict(), epoch=1, sequence=1, state="closed", worker="w",
        published_at=datetime.now(UTC),
    )  # fmt: skip
    assert reading.durable(closing, 11) == closing
    assert reading.live(interim(3, "late")) is None


def test_only_interims_come_from_the_live_subject(reading: Reading) -> None:
    assert reading.live(final(0)) is None
    assert reading.durable(interim(0, "to"), 10) is None
