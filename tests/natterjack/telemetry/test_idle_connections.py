"""Connections that ask for nothing, on real sockets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from natterjack.telemetry.http_port import HttpPort, alive
from natterjack.telemetry.idle_connections import IdleConnections
from tests.waiting import within

pytestmark = pytest.mark.process

MOST = 5
HEAD = b"GET /livez HTTP/1.1\r\nHost: here\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[HttpPort], Awaitable[Streams]]


@pytest.fixture
async def port(request: pytest.FixtureRequest) -> AsyncIterator[HttpPort]:
    """A server; a test may say how many seconds a first request may take."""
    seconds = getattr(request, "param", 60.0)
    port = HttpPort("127.0.0.1", 0, "TEST_PORT", IdleConnections(MOST, seconds))
    await port.start([web.get("/livez", alive)])
    yield port
    await port.stop()


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """Opens connections, which end with the test."""
    opened: list[asyncio.StreamWriter] = []

    async def connect(port: HttpPort) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        opened.append(writer)
        return reader, writer

    yield connect
    for writer in opened:
        writer.close()


async def ask(streams: Streams, head: bytes = HEAD) -> bytes:
    reader, writer = streams
    writer.write(head + b"\r\n")
    answer = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(3) == b"ok\n"
    return answer


@pytest.mark.parametrize("port", [0.3], indirect=True)
@pytest.mark.parametrize("begun", [b"", HEAD])
async def test_a_head_that_does_not_come_ends_the_connection(
    port: HttpPort, connected: Connect, begun: bytes
) -> None:
    reader, writer = await connected(port)
    writer.write(begun)
    async with within(20):
        assert await reader.read() == b""


async def test_clients_are_served_beside_any_number_of_idle_connections(
    port: HttpPort, connected: Connect
) -> None:
    async with within(60):
        idle = [await connected(port) for _ in range(4 * MOST)]
        for _ in range(3):
            assert (await ask(await connected(port))).startswith(b"HTTP/1.1 200")
        for reader, _ in idle[: 3 * MOST]:
            assert await reader.read() == b""


async def test_a_connection_may_ask_again(port: HttpPort, connected: Connect) -> None:
    async with within(30):
        client = await connected(port)
        for _ in range(3):
            await ask(client)


async def test_an_answer_may_take_longer_than_a_head(connected: Connect) -> None:
    slow = HttpPort("127.0.0.1", 0, "TEST_PORT", IdleConnections(1, 0.2))
    release = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await release.wait()
        return await alive(request)

    await slow.start([web.get("/livez", wait)])
    async with within(30):
        asking = asyncio.create_task(ask(await connected(slow)))
        for _ in range(2):  # as long as two heads that do not come
            reader, _ = await connected(slow)
            assert await reader.read() == b""
        release.set()
        assert (await asking).startswith(b"HTTP/1.1 200")
    await slow.stop()


async def test_a_compressed_body_is_not_unpacked() -> None:
    """A bomb stays as small as it was sent."""
    port = HttpPort("127.0.0.1", 0, "TEST_PORT")
    packed = gzip.compress(bytes(10_000_000))

    async def count(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    await port.start([web.post("/", count)])
    async with within(30), aiohttp.ClientSession() as client:
        headers = {"Content-Encoding": "gzip"}
        async with client.post(port.address, data=packed, headers=headers) as answer:
            assert await answer.text() == str(len(packed))
    await port.stop()
