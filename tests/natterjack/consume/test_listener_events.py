"""Which messages of the stream and the live subject are events to yield, without a broker."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from nats.aio.msg import Msg

from natterjack.broker.connection import Broker
from natterjack.broker.fastpath import Client
from natterjack.consume.listener import _Listener
from natterjack.events import Event, StatusEvent
from natterjack.subjects import transcript_filter

from .test_listener import KEY, final, interim

SECOND = 1_000_000_000


class Reading:
    """A listener whose consumer has just begun, and the stream's messages for it."""

    def __init__(self) -> None:
        self._client = Client()
        self.listener = _Listener(Broker(self._client), transcript_filter(), True, True)
        self.reader = self.listener._reader
        self.reader._current = True

    def durable(
        self, event: Event | bytes, sequence: int, consumer_sequence: int | None = None
    ) -> Event | None:
        """Read a message. It was stored in the second of its sequence."""
        number = self.reader._consumer_next if consumer_sequence is None else consumer_sequence
        reply = f"$JS.ACK.S.C.1.{sequence}.{number}.{sequence * SECOND}.0"
        data = event if isinstance(event, bytes) else event.encode()
        message = Msg(self._client, "subject", reply, data)
        return self.listener._admit_durable(message) if self.reader.admit(message) else None

    def live(self, event: Event | bytes) -> Event | None:
        data = event if isinstance(event, bytes) else event.encode()
        return self.listener._admit_interim(Msg(self._client, "subject", "", data))

    def renew(self) -> None:
        """Begin another consumer, at the last event that was read."""
        self.reader._current = self.reader._checking = True
        self.reader._consumer_next = 1


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


def test_a_replaced_stream_continues_with_later_events(reading: Reading) -> None:
    reading.durable(final(0), 10)
    reading.renew()
    assert reading.durable(final(7), 3) is None, "another message is where the last event was"
    assert not reading.reader._current
    reading.reader._current, reading.reader._consumer_next = True, 1
    assert reading.durable(final(0), 10) is None, "stored before the last event"
    later = final(1)
    assert reading.durable(later, 11) == later


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


def test_another_session_of_the_key_starts_anew(reading: Reading) -> None:
    reading.durable(final(5), 10)
    reading.durable(final(0, session_id="session-2"), 11)
    assert reading.listener._progress[KEY].segment == 0


def test_a_closed_session_is_forgotten(reading: Reading) -> None:
    reading.durable(final(0), 10)
    closing = StatusEvent(
        session_id="session-1", **KEY._asdict(), epoch=1, sequence=1, state="closed", worker="w",
        published_at=datetime.now(UTC),
    )  # fmt: skip
    assert reading.durable(closing, 11) == closing
    assert not reading.listener._progress


def test_only_interims_come_from_the_live_subject(reading: Reading) -> None:
    assert reading.live(final(0)) is None
    assert reading.durable(interim(0, "to"), 10) is None
