"""The short ways in and out of the client, against a real server."""

from __future__ import annotations

import asyncio
import random

import pytest
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError, OutboundBufferLimitError
from nats.js.errors import APIError, NoStreamResponseError

from natterjack import streams
from natterjack.audio import parse_headers
from natterjack.connection import Broker, connected
from natterjack.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings

from ..waiting import until


class Heard:
    """What a plain function was given."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes | None, bytes]] = []

    def __call__(self, subject: bytes, headers: bytes | None, data: bytes) -> None:
        self.messages.append((subject, headers, data))


async def test_messages_of_all_sizes_come_whole_and_in_order(nats_server: EmbeddedServer) -> None:
    """Beside those that go nats-py's way, on one connection, in pieces of any size."""
    settings = BrokerSettings(url=nats_server.url)
    rng, heard, others = random.Random(7), Heard(), []

    async def other(message: Msg) -> None:
        others.append(message.data)

    async with connected(settings, name="in") as near, connected(settings, name="out") as far:
        await near.client.listen("direct.*", heard)
        await near.client.subscribe("other", cb=other)
        await near.client.flush()
        sent, sent_others = [], []
        for number in range(3000):
            size = rng.choice([0, 1, 30, 3000, 3000, 3000, 40_000, 5, 200_000 * (number % 10 == 0)])
            data = number.to_bytes(4, "big") + bytes(size)
            if rng.random() < 0.1:
                await far.client.publish("other", data)
                sent_others.append(data)
                continue
            headers = {"A": "b", "Number": str(number)} if rng.random() < 0.7 else None
            far.client.post(f"direct.{number}", data, headers=headers)
            sent.append((number, headers, data))
            if number % 100 == 0:
                await far.client.flush()
        await until(lambda: len(heard.messages) == len(sent), "all direct ones come", 30)
        await until(lambda: len(others) == len(sent_others), "all others come", 30)
    assert others == sent_others
    for (number, headers, data), (subject, raw, came) in zip(sent, heard.messages, strict=True):
        assert subject == b"direct.%d" % number
        assert (None if raw is None else parse_headers(raw)) == headers
        assert came == data


async def test_who_fails_ends_nobodys_reading(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def failing(*_: object) -> None:
        raise ValueError("a fault of ours")

    await broker.client.listen("bad", failing)
    await broker.client.listen("good", heard)
    for _ in range(3):
        broker.client.post("bad", b"")
        broker.client.post("good", b"x")
    await until(lambda: len(heard.messages) == 3, "the neighbour hears")
    assert "was not taken" in caplog.text


async def test_it_hears_on_after_a_reconnect_and_no_more_after_its_end(
    nats_server: EmbeddedServer, broker: Broker
) -> None:
    heard = Heard()
    arrivals = await broker.client.listen("direct", heard)
    broker.client.post("direct", b"before")
    await until(lambda: heard.messages, "one message")
    nats_server.kill()
    await until(lambda: not broker.connected, "the connection is lost")
    with pytest.raises(OutboundBufferLimitError):
        broker.client.post("direct", b"nobody has it")
    nats_server.start()
    await until(lambda: broker.connected, "the connection is back", 20)
    broker.client.post("direct", b"after")
    await until(lambda: len(heard.messages) == 2, "another")
    assert [data for _, _, data in heard.messages] == [b"before", b"after"]
    await arrivals.end()
    await arrivals.end()
    broker.client.post("direct", b"too late")
    await broker.client.flush()
    assert len(heard.messages) == 2


async def test_a_message_that_is_too_large_is_refused(broker: Broker) -> None:
    with pytest.raises(MaxPayloadError):
        broker.client.post("direct", bytes(broker.client.max_payload + 1))


async def test_what_is_published_to_a_stream_is_acknowledged(ready_broker: Broker) -> None:
    acks = ready_broker.acks
    subject = streams.bucket_subject(streams.BUCKET, "t.c.s")
    first = await (await acks.publish(subject, b"1", {}, 5))
    expected = "Nats-Expected-Last-Subject-Sequence"
    second = await (await acks.publish(subject, b"2", {expected: str(first)}, 5))
    assert second > first
    with pytest.raises(APIError, match="wrong last sequence"):
        await (await acks.publish(subject, b"3", {expected: str(first)}, 5))
    with pytest.raises(NoStreamResponseError):
        await (await acks.publish("no.stream.takes.it", b"", {}, 5))


async def test_an_acknowledgement_that_does_not_come(ready_broker: Broker) -> None:
    silent: asyncio.Future[int]
    await ready_broker.client.subscribe("silent")  # there is a subscriber, so no 503
    silent = await ready_broker.acks.publish("silent", b"", {}, 0.2)
    with pytest.raises(TimeoutError):
        await silent
    silent = await ready_broker.acks.publish("silent", b"", {}, 60)
    ready_broker.acks.lost()
    with pytest.raises(TimeoutError):
        await silent
