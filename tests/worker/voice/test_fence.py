"""Two workers that both believe they hold a session: what is stored of the speech of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.voice.spec import VoiceSpec
from worker.errors import LeaseLost
from worker.voice.speech import Overheard, Speech

from .player import RATE, Application

pytestmark = pytest.mark.process

CHUNK = bytes(2 * RATE // 10)


@pytest.fixture
async def broker(broker_settings: BrokerSettings) -> AsyncIterator[Broker]:
    async with connected(broker_settings, name="test") as broker:
        await ensure(broker, StreamSettings(kinds=("speak",), lease_seconds=1))
        yield broker


def speech(broker: Broker, spec: VoiceSpec, epoch: int) -> Speech:
    return Speech(broker, broker.client.jetstream(), spec, epoch)


async def test_after_a_fence_an_older_holder_stores_nothing(broker: Broker) -> None:
    application = Application(broker)
    older, newer = (speech(broker, application.spec, epoch) for epoch in (1, 2))
    await older.publish(0, CHUNK)
    found = await newer.fence()
    assert found.header is not None
    assert (found.header.seq, found.frames) == (0, RATE // 10)
    with pytest.raises(LeaseLost):
        await older.publish(0, CHUNK)
    newer.seq, newer.position = found.header.next_seq, found.header.pos + found.frames
    await newer.publish(0, CHUNK, end=True)
    chunks = [header for header, _ in await application.stored_chunks()]
    assert [(c.epoch, c.seq, c.pos) for c in chunks] == [(1, 0, 0), (2, 1, RATE // 10)]


async def test_a_fence_waits_for_a_place_between_the_chunks_of_an_older_holder(
    broker: Broker,
) -> None:
    """Nothing of the newer holder reaches players before the fence is stored."""
    application = Application(broker)
    older, newer = (speech(broker, application.spec, epoch) for epoch in (1, 2))

    async def go_on() -> None:
        while True:
            await older.publish(0, CHUNK)
            await asyncio.sleep(0.02)  # the pace of a fast voice

    async with asyncio.TaskGroup() as tasks:
        going = tasks.create_task(_until_lost(go_on()))
        found = await newer.fence()
        await going
    chunks = [header for header, _ in await application.stored_chunks()]
    following = 0 if found.header is None else found.header.next_seq
    assert [chunk.seq for chunk in chunks] == list(range(following))


async def test_a_fence_repeats_what_the_newest_chunk_says(broker: Broker) -> None:
    """The next holder has to know of a cut, or an end, that its former one has not acted on."""
    application = Application(broker)
    older, newer, newest = (speech(broker, application.spec, epoch) for epoch in (1, 2, 3))
    await older.publish(4, CHUNK)
    await older.publish(5, cut=True)
    await newer.fence()
    found = (await newest.fence()).header
    assert found is not None
    assert (found.utterance, found.cut, found.fence) == (5, True, True)
    assert (found.next_seq, found.pos) == (2, RATE // 10)
    with pytest.raises(LeaseLost):
        await newer.fence()


async def test_a_fence_of_a_session_without_speech(broker: Broker) -> None:
    application = Application(broker)
    older, newer = (speech(broker, application.spec, epoch) for epoch in (1, 2))
    await older.look()
    assert (await newer.fence()).header is None
    with pytest.raises(LeaseLost):
        await older.publish(0, CHUNK)
    await newer.publish(0, CHUNK)
    assert [header.seq for header, _ in await application.stored_chunks()] == [0]


async def test_a_fence_that_the_broker_forgets_is_set_again(broker: Broker) -> None:
    application = Application(broker)
    older, newer = (speech(broker, application.spec, epoch) for epoch in (1, 2))
    await older.look()
    await newer.fence()
    await broker.client.jetstream().purge_stream(streams.SPEECH)
    await older.publish(0, CHUNK)
    with pytest.raises(Overheard):
        await newer.publish(0, CHUNK)
    found = (await newer.fence()).header
    assert found is not None
    assert found.next_seq == 1
    with pytest.raises(LeaseLost):
        await older.publish(0, CHUNK)


async def _until_lost(going: Awaitable[None]) -> None:
    with pytest.raises(LeaseLost):
        await going
