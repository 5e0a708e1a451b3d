"""A listener that ends, in whatever way, leaves nothing on the server or on a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import natterjack
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.settings import BrokerSettings, StreamSettings
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.waiting import until, within

from .events import final, interim, publish, until_consumers

pytestmark = pytest.mark.process


class MonitoredServer(NatsServer):
    """A server that tells which subscriptions it has."""

    def __init__(self, store: Path) -> None:
        self._monitor = free_port()
        super().__init__(store, extra_arguments=("-m", str(self._monitor)))

    def subscriptions(self, name: str) -> list[str]:
        """The subjects that the connections of this name are subscribed to."""
        url = f"http://127.0.0.1:{self._monitor}/connz?subs=1"
        with urllib.request.urlopen(url) as reply:
            found = json.load(reply)["connections"]
        return [
            s for one in found if one["name"] == name for s in one.get("subscriptions_list", ())
        ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MonitoredServer]:
    server = MonitoredServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def broker(server: MonitoredServer) -> AsyncIterator[Broker]:
    async with connected(BrokerSettings(url=server.url), name="test", once=True) as broker:
        await ensure(broker, StreamSettings())
        yield broker


async def read_and_break(source: Any) -> None:
    async for event in source:
        if event.type == "final":
            break


async def read_and_fail(source: Any) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async for event in source:
            if event.type == "final":
                raise ZeroDivisionError


async def read_and_close(source: Any) -> None:
    async with contextlib.aclosing(source):
        async for event in source:
            if event.type == "final":
                break


async def read_and_cancel(source: Any) -> None:
    seen = asyncio.Event()

    async def read() -> None:
        async for _ in source:
            seen.set()

    task = asyncio.create_task(read())
    await seen.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def cancel_at_once(source: Any) -> None:
    """At one point of time after another while it begins."""
    for steps in range(40):
        task = asyncio.create_task(anext(natterjack.listen("t", broker=source)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


Way = Callable[[Any], Awaitable[None]]


@pytest.mark.parametrize("way", [read_and_break, read_and_fail, read_and_close, read_and_cancel])
async def test_nothing_is_left(server: MonitoredServer, broker: Broker, way: Way) -> None:
    await publish(broker, final(0))
    before = asyncio.all_tasks()
    await way(natterjack.listen(since="start", settings=BrokerSettings(url=server.url)))
    await until_consumers(broker, 0)
    await until(lambda: not server.subscriptions("natterjack-listen"), "it is not connected")
    await until(lambda: asyncio.all_tasks() <= before, "nothing goes on in the background")


@pytest.mark.parametrize("way", [read_and_break, read_and_fail, read_and_close, read_and_cancel])
@pytest.mark.parametrize("interims", ["latest", None])
async def test_nothing_is_left_on_a_connection_of_the_program(
    server: MonitoredServer, broker: Broker, way: Way, interims: Any
) -> None:
    await publish(broker, final(0))
    async with connected(BrokerSettings(url=server.url), name="shared", once=True) as shared:
        await shared.client.jetstream().account_info()  # its inbox is there from now on
        before, tasks = server.subscriptions("shared"), asyncio.all_tasks()
        await way(natterjack.listen(since="start", interims=interims, broker=shared))
        await until_consumers(broker, 0)
        await until(lambda: server.subscriptions("shared") == before, "nothing is subscribed")
        await until(lambda: asyncio.all_tasks() <= tasks, "nothing goes on in the background")
        assert not shared.on_reconnect
        assert not shared.on_refusal
        assert not shared.client.direct


async def test_nothing_is_left_of_a_beginning(server: MonitoredServer, broker: Broker) -> None:
    async with connected(BrokerSettings(url=server.url), name="shared", once=True) as shared:
        await shared.client.jetstream().account_info()
        before = server.subscriptions("shared")
        await cancel_at_once(shared)
        await until(lambda: server.subscriptions("shared") == before, "nothing is subscribed")
        await until_consumers(broker, 0)
        assert not shared.on_reconnect
        assert not shared.on_refusal


async def test_a_wait_for_the_stream_can_be_canceled(server: MonitoredServer) -> None:
    async with connected(BrokerSettings(url=server.url), name="shared", once=True) as shared:
        task = asyncio.create_task(anext(natterjack.listen("t", broker=shared)))
        await until(lambda: server.subscriptions("shared"), "it has subscribed")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not shared.on_reconnect


async def test_ending_does_not_wait_for_a_broker_that_is_away(
    server: MonitoredServer, broker: Broker
) -> None:
    await publish(broker, final(0))
    source = natterjack.listen(since="start", settings=BrokerSettings(url=server.url))
    await anext(source)
    server.kill()
    async with within(20):  # far less; a wait for the broker would not end at all
        await source.aclose()


async def test_two_listeners_on_one_connection(server: MonitoredServer, broker: Broker) -> None:
    await publish(broker, final(0))
    async with connected(BrokerSettings(url=server.url), name="shared", once=True) as shared:
        one = natterjack.listen(since="start", broker=shared)
        other = natterjack.listen(since="start", broker=shared)
        assert (await anext(one)).id == (await anext(other)).id
        await one.aclose()
        await until_consumers(broker, 1)
        for event in (final(1), interim(2, "to")):  # together, either might come first
            await publish(broker, event)
            assert (await anext(other)).type == event.type
        await other.aclose()
        await until_consumers(broker, 0)
