"""Reading ahead: where a message is, and how many are asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.pull import ConsumerGone
from natterjack.consume import readahead
from natterjack.consume.readahead import ReadAhead, decode_message
from natterjack.position import Position
from tests.waiting import until, within

from .events import final, publish


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.ACK.STT.listen_1.1.77.5.1796083025799242993.12",
        b"$JS.ACK.hub.ACCHASH.STT.listen_1.1.77.5.1796083025799242993.12.random",
        b"$JS.ACK._.ACCHASH.STT.listen_1.1.77.5.1796083025799242993.12",
    ],
)
def test_the_reply_subject_tells_where_a_message_is(reply: bytes) -> None:
    message = decode_message(b"stt.transcript.t.c.s.final", reply, b"x")
    assert message.position == Position(77, 1_796_083_025_799_242_993)
    assert (message.number, message.pending, message.kind) == (5, 12, "final")


class Requests:
    """The requests that a consumer receives."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def start(self, broker: Broker, subject: str) -> None:
        async def receive(message: Any) -> None:
            self.asked.append(json.loads(message.data))

        await broker.client.subscribe(subject, cb=receive)
        await broker.client.flush()


@pytest.fixture
async def ahead(ready_broker: Broker) -> AsyncIterator[ReadAhead]:
    """Reads what is published, from the beginning."""
    config = ConsumerConfig(name="C", ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
    await ready_broker.client.jetstream().add_consumer(streams.TRANSCRIPTS, config)
    ahead = ReadAhead(ready_broker, streams.TRANSCRIPTS, "C")
    yield ahead
    await ahead.stop()


async def take(ahead: ReadAhead, count: int) -> list[int]:
    numbers: list[int] = []
    async with within(15):
        while len(numbers) < count:
            message = await ahead.next(5)
            if message is not None:
                numbers.append(message.number)
    return numbers


async def test_the_next_messages_are_asked_for_when_half_are_left(
    ready_broker: Broker, ahead: ReadAhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "_MESSAGES", 10)
    server = Requests()
    await server.start(ready_broker, ahead.request_subject)
    await publish(ready_broker, *(final(n) for n in range(40)))
    await ahead.start()
    await until(lambda: ahead.waiting and server.asked, "it asks before it is read")
    assert await take(ahead, 5) == [1, 2, 3, 4, 5]
    await ready_broker.client.flush()
    assert [request["batch"] for request in server.asked] == [10], "more than half are left"
    assert await take(ahead, 1) == [6]
    await until(lambda: len(server.asked) == 2, "half are left")
    assert server.asked[1]["batch"] == 5
    assert await take(ahead, 34) == list(range(7, 41))


@pytest.mark.parametrize("size", [2_000, 1_000_000], ids=["many", "few"])
async def test_requests_end_after_so_many_bytes(
    ready_broker: Broker, ahead: ReadAhead, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """No more than two of them wait, and a message that is larger does not stop it."""
    monkeypatch.setattr(readahead, "_BYTES", 20_000)
    for number in range(10):
        event = final(number).model_copy(update={"text": "x" * size})
        await publish(ready_broker, event)
    server = Requests()
    await server.start(ready_broker, ahead.request_subject)
    await ahead.start()
    assert await take(ahead, 10) == list(range(1, 11))
    assert server.asked[0]["max_bytes"] >= ready_broker.client.max_payload


async def test_a_consumer_that_is_deleted_is_noticed(
    ready_broker: Broker, ahead: ReadAhead
) -> None:
    await ahead.start()
    await publish(ready_broker, final(0))
    assert await take(ahead, 1) == [1]
    await ready_broker.client.jetstream().delete_consumer(streams.TRANSCRIPTS, "C")
    with pytest.raises(ConsumerGone):
        await take(ahead, 1)


async def test_refused_requests_are_not_repeated_without_a_pause(ready_broker: Broker) -> None:
    config = {"name": "R", "ack_policy": "none", "deliver_policy": "all", "max_batch": 1}
    await ready_broker.client.request(
        f"$JS.API.CONSUMER.CREATE.{streams.TRANSCRIPTS}.R",
        json.dumps({"stream_name": streams.TRANSCRIPTS, "config": config}).encode(),
    )
    ahead, server = ReadAhead(ready_broker, streams.TRANSCRIPTS, "R"), Requests()
    await server.start(ready_broker, ahead.request_subject)
    await ahead.start()
    try:
        assert await ahead.next(1) is None
        assert 1 <= len(server.asked) <= 7
    finally:
        await ahead.stop()
