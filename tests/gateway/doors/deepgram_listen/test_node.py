"""The door for listen v1 with Deepgram's own SDKs for Node, releases 5 and 4."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from tests.ports import free_port
from tests.waiting import until, within
from tests.worker.programs import UNDISTURBED

from ...node import install
from ..house import House, Speech
from .node import NodeListener

pytestmark = pytest.mark.process

QUERY = {"encoding": "linear16", "sample_rate": 16000, "channels": 1, "interim_results": "true"}
StartNode = Callable[..., Awaitable[NodeListener]]


@pytest.fixture
async def node(house: House) -> AsyncIterator[StartNode]:
    install()
    clients: list[NodeListener] = []

    async def start(release: int, key: str = "none", **query: Any) -> NodeListener:
        client = NodeListener(release, house.gateway.http, key, **{**QUERY, **query})
        clients.append(client)
        await client.start()
        return client

    yield start
    for client in clients:
        await client.kill()


@pytest.mark.parametrize("release", [5, 4])
async def test_words_arrive_and_the_stream_ends_in_order(
    house: House, node: StartNode, release: int
) -> None:
    key = house.key()
    await house.start("deepgram")
    speech = Speech(16)
    async with within(90):
        client = await node(release, key)
        await client.opened()
        await speech.play(client.send)
        assert await client.end() == 0, client.errors
    speech.check(client.words)
    assert client.closes == [1000]
    assert client.messages[-1]["type"] == "Metadata"
    assert client.count("open") == 1


async def test_a_wrong_key_opens_nothing(house: House, node: StartNode) -> None:
    """Release 5 reports a close, with the code 1000, and does not try again."""
    house.key()
    await house.start_gateway()
    async with within(60):
        client = await node(5, "nj_wrong")
        await until(lambda: client.closes, "it is closed")
    assert client.count("open") == 0


async def test_a_gateway_that_drains_hands_its_client_over(
    house: House, node: StartNode, ready_broker: Broker
) -> None:
    """The client connects again by itself, to another gateway at the same address."""
    await house.start_worker("deepgram", **UNDISTURBED)
    first = await house.start_gateway(GATEWAY_HTTP_PORT=str(free_port()))
    speech = Speech(40)
    async with within(120):
        client = await node(5)
        await client.opened()
        playing = asyncio.create_task(speech.play(client.send, speed=1.5))
        await until(lambda: len(client.words) >= 8, "some words")
        first.signal(signal.SIGTERM)
        await until(lambda: bool(client.closes), "the client is sent away", 60)
        assert await first.wait() == 0
        await house.start_gateway(GATEWAY_HTTP_PORT=first.http.rpartition(":")[2])
        await client.opened(2)
        await playing
        assert await client.end() == 0, client.errors
    assert client.closes == [1012, 1000]
    assert tones.compare(speech.words, client.words) == tones.Counts()


async def test_a_killed_gateway_costs_its_client_a_moment(
    house: House, node: StartNode, ready_broker: Broker
) -> None:
    """Messages on their way to the killed gateway are lost with it, and nothing else."""
    await house.start_worker("deepgram", **UNDISTURBED)
    first = await house.start_gateway(GATEWAY_HTTP_PORT=str(free_port()))
    speech = Speech(32)
    async with within(120):
        client = await node(5)
        await client.opened()
        playing = asyncio.create_task(speech.play(client.send, speed=1.5))
        await until(lambda: len(client.words) >= 8, "some words")
        await first.stop()
        second = await house.start_gateway(GATEWAY_HTTP_PORT=first.http.rpartition(":")[2])
        await client.opened(2)
        await playing
        assert await client.end() == 0, client.errors
    assert second.find("session rejoined")
    counts = tones.compare(speech.words, client.words)
    assert counts.lost <= 1, (counts, client.words)
    assert counts.doubled <= 8, "a final that arrived just before it may come again"
    assert not counts.invented
