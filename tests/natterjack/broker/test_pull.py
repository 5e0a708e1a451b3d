"""Reading a pull consumer while the connection is lost and restored."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.pull import Puller
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.faults.proxy import NatsProxy
from tests.waiting import until

pytestmark = pytest.mark.process


async def test_messages_for_a_request_before_a_reconnect_are_surplus(
    nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()

    async def waiting() -> int:
        found = await js.consumer_info(streams.SESSIONS, streams.CONSUMER)
        return found.num_waiting or 0

    surplus: list[Msg] = []

    async def give_back(message: Msg) -> None:
        surplus.append(message)
        await message.nak()

    async with (
        NatsProxy(nats_server.port) as proxy,
        connected(BrokerSettings(url=proxy.url), name="near", once=True) as near,
    ):
        puller = Puller(near, streams.SESSIONS, streams.CONSUMER, surplus=give_back)
        await puller.start()
        reading = asyncio.create_task(puller.next(1, 60))
        await until(waiting, "a request is in force")
        proxy.cut()
        proxy.heal()
        await until(lambda: near.reconnects, "the connection is back")

        async def twice() -> bool:
            return await waiting() == 2

        await until(twice, "the server has both requests")
        for speaker in ("a", "b"):
            await js.publish(f"stt.session.t.c.{speaker}", b"{}")
        assert await reading is not None
        await until(lambda: surplus, "the other message is surplus")
        assert not puller.waiting
        again = await puller.next(1, 10)
        assert again is not None
        assert again.subject == surplus[0].subject
        assert again.metadata.num_delivered == 2
        await puller.stop()


async def test_a_batch_of_none_requests_nothing_and_reads_what_an_open_request_delivers(
    ready_broker: Broker,
) -> None:
    js = ready_broker.client.jetstream()
    puller = Puller(ready_broker, streams.SESSIONS, streams.CONSUMER)
    await puller.start()
    assert not puller.busy
    assert await puller.next(0, 60) is None
    found = await js.consumer_info(streams.SESSIONS, streams.CONSUMER)
    assert not found.num_waiting

    assert await puller.next(2, 0) is None
    assert puller.busy
    for speaker in ("a", "b"):
        await js.publish(f"stt.session.t.c.{speaker}", b"{}")
    for speaker in ("a", "b"):
        message = await puller.next(0, 60)
        assert message is not None
        assert message.subject.endswith(speaker)
    assert not puller.busy
    assert await puller.next(0, 60) is None
    await puller.stop()
