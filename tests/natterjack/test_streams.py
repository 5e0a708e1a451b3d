from __future__ import annotations

import asyncio

import pytest
from nats.js.api import RetentionPolicy, StreamConfig

from natterjack import streams
from natterjack.connection import Broker, connect, connected
from natterjack.embedded import EmbeddedServer
from natterjack.errors import BrokerUnreachable, StreamMismatch
from natterjack.settings import BrokerSettings, StreamSettings


async def test_makes_everything_once_and_then_only_checks(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings())
    js = await streams.ensure(broker, StreamSettings(create_streams=False))
    for name in (streams.SESSIONS, streams.AUDIO, streams.TRANSCRIPTS):
        assert (await js.stream_info(name)).config.name == name
    consumer = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert consumer.ack_wait == 3
    assert consumer.max_ack_pending == -1
    assert await js.key_value(streams.BUCKET)


async def test_many_programs_may_start_at_once(broker_settings: BrokerSettings) -> None:
    async def one() -> None:
        async with connected(broker_settings, name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())

    await asyncio.gather(*(one() for _ in range(8)))


async def test_missing_streams_without_the_right_to_make_them(broker: Broker) -> None:
    with pytest.raises(
        StreamMismatch, match="STT_SESSIONS is missing and NATTERJACK_CREATE_STREAM"
    ):
        await streams.ensure(broker, StreamSettings(create_streams=False))


async def test_incompatible_stream_is_named_with_its_cure(broker: Broker) -> None:
    await broker.client.jetstream().add_stream(
        StreamConfig(
            name=streams.SESSIONS, subjects=["stt.session.>"], retention=RetentionPolicy.LIMITS
        )
    )
    with pytest.raises(StreamMismatch, match=r"STT_SESSIONS .*retention is limits.*nats stream rm"):
        await streams.ensure(broker, StreamSettings())


async def test_lease_time_of_an_existing_consumer_follows_the_setting(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings())
    js = await streams.ensure(broker, StreamSettings(lease_seconds=1.5))
    assert (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config.ack_wait == 1.5


async def test_no_server_once() -> None:
    with pytest.raises(BrokerUnreachable, match=r"no NATS at nats://127.0.0.1:9: .*NATS_URL"):
        await connect(BrokerSettings(url="nats://127.0.0.1:9"), name="test", once=True)


async def test_waits_for_a_server_that_comes_later(nats_server: EmbeddedServer) -> None:
    nats_server.kill()
    refused = asyncio.Event()

    async def on_waiting(reason: str) -> None:
        refused.set()

    attempt = asyncio.create_task(
        connect(BrokerSettings(url=nats_server.url), name="test", on_waiting=on_waiting)
    )
    await asyncio.wait_for(refused.wait(), 10)
    nats_server.start()
    broker = await asyncio.wait_for(attempt, 20)
    assert broker.connected
    await broker.close()


async def test_connection_survives_a_killed_server(
    nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    back = asyncio.Event()
    ready_broker.on_reconnect.add(back.set)
    nats_server.kill()
    nats_server.start()
    await asyncio.wait_for(back.wait(), 20)
    assert (await ready_broker.client.jetstream().stream_info(streams.AUDIO)).config
