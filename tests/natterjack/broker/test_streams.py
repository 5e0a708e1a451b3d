"""Creating and checking streams on a real server."""

from __future__ import annotations

import asyncio

import pytest
from nats.js.api import RetentionPolicy, StreamConfig

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.errors import StreamMismatch
from natterjack.settings import BrokerSettings, StreamSettings


async def test_ensure_creates_everything_once_and_then_only_checks(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings())
    js = await streams.ensure(broker, StreamSettings(create_streams=False))
    for name in (streams.SESSIONS, streams.AUDIO, streams.TRANSCRIPTS):
        assert (await js.stream_info(name)).config.name == name
    consumer = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert consumer.ack_wait == 3
    assert consumer.max_ack_pending == -1
    assert await js.key_value(streams.CHECKPOINTS_BUCKET)


async def test_many_programs_may_start_at_the_same_time(broker_settings: BrokerSettings) -> None:
    async def one() -> None:
        async with connected(broker_settings, name="test", once=True) as broker:
            await streams.ensure(broker, StreamSettings())

    await asyncio.gather(*(one() for _ in range(8)))


async def test_missing_streams_are_an_error_if_none_may_be_created(broker: Broker) -> None:
    with pytest.raises(
        StreamMismatch, match="STT_SESSIONS is missing and NATTERJACK_CREATE_STREAM"
    ):
        await streams.ensure(broker, StreamSettings(create_streams=False))


async def test_an_incompatible_stream_is_named_with_its_remedy(broker: Broker) -> None:
    await broker.client.jetstream().add_stream(
        StreamConfig(
            name=streams.SESSIONS, subjects=["stt.session.>"], retention=RetentionPolicy.LIMITS
        )
    )
    with pytest.raises(StreamMismatch, match=r"STT_SESSIONS .*retention is limits.*streams apply"):
        await streams.ensure(broker, StreamSettings())


async def test_the_lease_time_of_an_existing_consumer_follows_the_setting(broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings())
    js = await streams.ensure(broker, StreamSettings(lease_seconds=1.5))
    assert (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config.ack_wait == 1.5


async def test_changing_the_lease_time_keeps_the_rest_of_the_consumer(broker: Broker) -> None:
    js = await streams.ensure(broker, StreamSettings())
    found = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    await js.add_consumer(streams.SESSIONS, found.evolve(description="ours", metadata={"of": "us"}))
    await streams.ensure(broker, StreamSettings(lease_seconds=2))
    after = (await js.consumer_info(streams.SESSIONS, streams.CONSUMER)).config
    assert (after.ack_wait, after.description) == (2, "ours")
    assert (after.metadata or {})["of"] == "us"
