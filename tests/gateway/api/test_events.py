"""Live events of a conversation: once each, to any number of viewers, over all that dies."""

from __future__ import annotations

import asyncio
import signal
import socket
from datetime import UTC, datetime, timedelta

import pytest

from gateway.api.feed import MAX_BYTES
from natterjack.broker import streams
from natterjack.broker.connection import Broker

from ...nats_server import NatsServer
from ...waiting import bound, until, within
from ..process import GatewayProcess
from ..spoken import Spoken
from .conftest import call, viewing

pytestmark = pytest.mark.process


async def readers(broker: Broker) -> int:
    """The number of consumers of the stream of transcripts."""
    info = await broker.client.jetstream().stream_info(streams.TRANSCRIPTS)
    return info.state.consumer_count


async def test_a_viewer_gets_what_is_stored_and_then_what_is_said(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.status("assigned")
    await spoken.final("one")
    async with viewing(gateway, "c") as viewer:
        before = await viewer.until("caught_up")
        assert [message["type"] for message in before] == ["status", "final", "caught_up"]
        await spoken.interim("tw")
        assert (await viewer.next())["text"] == "tw"
        await spoken.final("two")
        final = await viewer.next()
        assert (final["text"], final["sequence"]) == ("two", 2)


async def test_a_viewer_of_a_conversation_that_has_not_begun_waits_for_it(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    async with viewing(gateway, "later") as viewer:
        assert (await viewer.next())["type"] == "caught_up"
        await Spoken(ready_broker, "later", "s").final("hello")
        assert await viewer.texts(1) == ["hello"]


async def test_a_viewer_begins_where_it_says_and_reads_the_kinds_that_it_wants(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.status("assigned")
    await spoken.final("one")
    await spoken.final("two")
    async with viewing(gateway, "c", since="now", kinds="final") as viewer:
        assert (await viewer.next())["type"] == "caught_up"
        await spoken.status("streaming")
        await spoken.final("three")
        assert (await viewer.next())["text"] == "three"
    async with viewing(gateway, "c", since="1h", kinds="final,status") as viewer:
        kinds = [message["type"] for message in await viewer.until("caught_up")]
        assert kinds == ["status", "final", "final", "status", "final", "caught_up"]


async def test_reconnecting_loses_and_doubles_nothing_though_the_gateway_is_killed(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    seen: list[str] = []
    last_id: str | None = None
    for number in range(5):
        await spoken.final(f"a{number}")
        async with viewing(gateway, "c", last_id=last_id) as viewer:
            await spoken.final(f"b{number}")
            seen += await viewer.texts(2)
            last_id = viewer.last_id
        if number == 2:
            await gateway.stop()
            await gateway.start()
    assert seen == [f"{letter}{number}" for number in range(5) for letter in "ab"]


async def test_viewers_stay_while_the_broker_is_killed_and_miss_nothing(
    gateway: GatewayProcess, nats_server: NatsServer, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.final("one")
    async with viewing(gateway, "c") as viewer:
        await viewer.until("caught_up")
        nats_server.kill()
        assert await viewer.next() == {"type": "broker", "connected": False}
        nats_server.start()
        await until(lambda: ready_broker.connected, "the test is connected again")
        await spoken.final("two")
        found = await viewer.until("final")
        assert found[-1]["text"] == "two"
        if len(found) == 1:  # the broker's state is looked at once a second
            found.append(await viewer.next())
        assert {"type": "broker", "connected": True} in found


async def test_five_hundred_viewers_cost_one_reader(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.final("one")
    idle = await readers(ready_broker)
    ready = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def watch() -> list[str]:
        async with viewing(gateway, "c") as viewer:
            await viewer.until("caught_up")
            ready.release()
            await go_on.wait()
            return await viewer.texts(3)

    async with within(120), asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(watch()) for _ in range(500)]
        for _ in watching:
            await ready.acquire()
        assert await readers(ready_broker) == idle + 1
        for text in ("two", "three", "four"):
            await spoken.final(text)
        go_on.set()
    assert all(task.result() == ["two", "three", "four"] for task in watching)


async def test_a_viewer_that_reads_nothing_is_cut_and_continues_where_it_was(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    gateway = GatewayProcess(nats_server.url, GATEWAY_SLOW_CLIENT_SECONDS=f"{bound(2):.0f}")
    await gateway.start()
    try:
        spoken = Spoken(ready_broker, "c", "s")
        await spoken.final("first")
        with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(
                b"GET /api/conversations/c/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            )
            async with viewing(gateway, "c", kinds="final") as other:
                await other.until("caught_up")
                async with asyncio.TaskGroup() as tasks:
                    read = tasks.create_task(other.texts(60))  # as it comes: it is not slow
                    for number in range(60):
                        await spoken.final(f"{number} {'x' * 200_000}")
                assert [int(text.split()[0]) for text in read.result()] == list(range(60))
                last_id = other.last_id
            await until(lambda: gateway.find("takes nothing") is not None, "it is cut")
        await spoken.final("last")
        async with viewing(gateway, "c", last_id=last_id) as again:
            assert await again.texts(1) == ["last"]
        # More was said than the gateway keeps: the rest is read for whoever wants it.
        assert MAX_BYTES < 60 * 200_000
        async with viewing(gateway, "c") as all_of_it:
            texts = [text.split()[0] for text in await all_of_it.texts(62)]
        assert texts == ["first", *map(str, range(60)), "last"]
    finally:
        await gateway.stop()


async def test_what_is_older_than_the_feed_is_read_for_the_viewer_and_then_kept(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.final("one")
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    async with viewing(gateway, "c", since="now") as first:  # its feed begins an hour ago
        await first.until("caught_up")
        for _ in range(2):
            since = long_ago.isoformat()
            async with viewing(gateway, "c", since=since, kinds="final") as viewer:
                texts = [m.get("text") for m in await viewer.until("caught_up")]
                assert texts == ["one", None]
        await spoken.final("two")
        assert await first.texts(1) == ["two"]


async def test_there_are_only_so_many_viewers(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    gateway = GatewayProcess(nats_server.url, GATEWAY_MAX_VIEWERS="1")
    await gateway.start()
    try:
        async with viewing(gateway, "c") as viewer:
            await viewer.until("caught_up")
            status, found, response = await call(gateway, "/api/conversations/c/events")
            assert (status, response.headers["Retry-After"]) == (503, "2")
            assert "GATEWAY_MAX_VIEWERS" in found["error"]
    finally:
        await gateway.stop()


async def test_a_drain_ends_viewers_at_once(gateway: GatewayProcess, ready_broker: Broker) -> None:
    async with viewing(gateway, "c") as viewer:
        await viewer.until("caught_up")
        gateway.signal(signal.SIGTERM)
        with pytest.raises(EOFError):
            await viewer.next()
    assert await gateway.wait() == 0
    assert not gateway.stray_lines


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("since=yesterday", "since: 'yesterday'"),
        ("kinds=finals", "kinds: 'finals'"),
    ],
)
async def test_a_wrong_question_is_answered_with_its_cure(
    gateway: GatewayProcess, query: str, problem: str
) -> None:
    status, found, _ = await call(gateway, f"/api/conversations/c/events?{query}")
    assert status == 400
    assert problem in found["error"]
