"""A connection on which acknowledgements wake nobody while the audio is calm."""

from __future__ import annotations

import asyncio
import sys

import pytest

from edge_capture.delivery import lull as module
from edge_capture.delivery.backlog import Backlog
from edge_capture.delivery.lull import lull_of
from edge_capture.delivery.publisher import Publisher
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from natterjack.spec import SessionSpec
from tests.edge_capture.program import only_recording
from tests.edge_capture.samples import chunk
from tests.waiting import soon, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs SO_RCVLOWAT")

SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)
CALM = object()


@pytest.fixture(autouse=True)
def forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lull ends with the next chunk only."""
    monkeypatch.setattr(module, "_LONGEST_S", 3600.0)


async def begun(broker: Broker) -> None:
    """Return when nothing more is read."""
    lull_of(broker.client).settle(CALM, calm=True, sent=True)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_arrives_in_a_lull_is_read_with_the_next_chunk(ready_broker: Broker) -> None:
    received: list[bytes] = []
    await ready_broker.client.listen("a", lambda *message: received.append(message[-1]))
    await ready_broker.client.flush()
    await begun(ready_broker)
    ready_broker.client.post("a", b"1")
    await asyncio.sleep(0.3)  # nothing may happen
    assert not received
    await begun(ready_broker)
    await until(lambda: received == [b"1"], "it is read", 5)


async def test_nothing_waits_while_one_is_awake(ready_broker: Broker) -> None:
    await begun(ready_broker)
    with lull_of(ready_broker.client).awake():
        await begun(ready_broker)  # another user is calm
        await soon(ready_broker.client.flush(), 10)
    await begun(ready_broker)
    await soon(_until_read(ready_broker), 10)


async def _until_read(broker: Broker) -> None:
    flushing = asyncio.create_task(broker.client.flush())
    while not flushing.done():
        await begun(broker)
    await flushing


async def test_a_lull_without_another_chunk_ends(
    ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_S", 0.1)
    await begun(ready_broker)
    await soon(ready_broker.client.flush(), 10)


async def test_the_end_of_the_connection_ends_a_lull(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    await begun(ready_broker)
    nats_server.kill()
    await until(lambda: not ready_broker.connected, "it is noticed", 10)
    nats_server.start()
    await until(lambda: ready_broker.connected, "the connection is back", 20)
    await soon(ready_broker.client.flush(), 10)


async def test_calm_audio_is_acknowledged_chunk_by_chunk(ready_broker: Broker) -> None:
    """Each one when the next is sent; the last one at once."""
    publisher = Publisher(Backlog(SPEC, max_seconds=10), window_chunks=64, unhurried=True)
    running = asyncio.create_task(publisher.run(ready_broker))
    await until(lambda: publisher.opened, "the request is stored")
    for index in range(20):
        publisher.offer(chunk(index))
        await until(lambda n=index: publisher.published == n + 1, "it is sent")
        await asyncio.sleep(0.02)  # the pace of audio
        assert publisher.in_flight <= 8 + 1
    publisher.offer(chunk(20, end=True))
    await soon(running, 10)
    (await only_recording(ready_broker)).check_whole()
    assert publisher.resent == 0


async def test_who_is_not_unhurried_keeps_a_shared_connection_awake(ready_broker: Broker) -> None:
    """As a gateway's, whose clients wait for their transcripts on it."""
    hurried = Publisher(Backlog(SPEC, max_seconds=10), window_chunks=64)
    running = asyncio.create_task(hurried.run(ready_broker))
    await until(lambda: hurried.opened, "the request is stored")
    for index in range(5):
        hurried.offer(chunk(index))
        await until(lambda n=index: hurried.acknowledged == n + 1, "it is acknowledged")
    hurried.offer(chunk(5, end=True))
    await soon(running, 10)
