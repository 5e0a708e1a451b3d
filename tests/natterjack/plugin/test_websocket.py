"""Connections and streams against a real server on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from natterjack.plugin import (
    Dropped,
    Final,
    Interim,
    Notice,
    ProviderError,
    ProviderEvent,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.websocket import (
    Closed,
    Connector,
    ConnectRequest,
    Socket,
    WebSocketStream,
)
from tests.waiting import bound, soon, until

SECRET = "k3y-0f-the-test"


class Server:
    """Records what it receives. A test replaces `serve`, which has one connection to itself."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[str | bytes] = []
        self.connections: list[web.WebSocketResponse] = []
        self.requests: list[web.Request] = []
        self.answer: Callable[[], web.StreamResponse] | None = None
        """Makes the answer to a handshake that is to fail."""
        self.autoping = True
        self.reads = asyncio.Event()
        self.reads.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.answer is not None:
            return self.answer()
        connection = web.WebSocketResponse(autoclose=False, autoping=self.autoping)
        connection.headers["x-request-id"] = "r-1"
        await connection.prepare(request)
        self.connections.append(connection)
        await self.reads.wait()
        async for message in connection:
            self.received.append(message.data)
            if message.data == "finish":
                await connection.send_str('{"final": "the end", "end": 1.5}')
                await connection.close()
            await self.reads.wait()
        return connection

    def close_frame(self) -> None:
        """Send a close frame with 1000, and go on reading."""
        transport = self.requests[0].transport
        assert transport is not None
        transport.write(b"\x88\x02\x03\xe8")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    yield server
    server.reads.set()
    await runner.cleanup()


@pytest.fixture
async def connector() -> AsyncIterator[Connector]:
    connector = Connector("p", connect_timeout_seconds=bound(2), ping_seconds=None)
    yield connector
    await connector.close()


@pytest.fixture
async def opened(server: Server, connector: Connector) -> AsyncIterator[Socket]:
    socket = await connector.connect(ConnectRequest(server.url))
    yield socket
    await socket.close()


class JsonStream(WebSocketStream):
    """Finals in JSON; any other key makes an interim."""

    def encode_finish(self) -> str:
        return "finish"

    def encode_keepalive(self) -> str:
        return "keepalive"

    def decode(self, message: str | bytes) -> list[ProviderEvent]:
        content = json.loads(message)
        if "interim" in content:
            return [Interim(content["interim"], 0, content["end"])]
        return [Final(content["final"], 0, content["end"])]


async def read(stream: WebSocketStream) -> list[ProviderEvent]:
    return [event async for event in stream]


async def send_until_it_fails(socket: Socket) -> None:
    while True:
        await socket.send("into the void")
        await asyncio.sleep(0.01)  # lets the connection fail


# ---- messages -------------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "code"), [(b"\x81\x02\xff\xff", "1007"), (b"\x83\x00", "1002")])
async def test_a_message_that_cannot_be_received_is_no_dropped_connection(
    server: Server, opened: Socket, frame: bytes, code: str
) -> None:
    await until(lambda: server.connections, "the handshake is over")
    transport = server.requests[0].transport
    assert transport is not None
    sending = asyncio.create_task(send_until_it_fails(opened))
    transport.write(frame)
    with pytest.raises(RemoteProtocolError, match="cannot be received") as caught:
        await opened.receive()
    assert caught.value.code == code
    with pytest.raises(RemoteProtocolError, match="cannot be received"):
        await sending


# ---- connecting -----------------------------------------------------------------------------


async def test_headers_go_out_and_come_back(server: Server, connector: Connector) -> None:
    request = ConnectRequest(server.url, {"Authorization": SECRET})
    socket = await connector.connect(request)
    assert server.requests[0].headers["Authorization"] == SECRET
    assert socket.headers["x-request-id"] == "r-1"
    assert SECRET not in repr(request)
    await socket.close()


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [(401, RequestRefused, "auth"), (429, Unavailable, "rate_limit"), (503, Unavailable, None)],
)
async def test_a_refused_handshake_is_mapped(
    server: Server, connector: Connector, status: int, kind: type[ProviderError], cause: str | None
) -> None:
    server.answer = lambda: web.Response(status=status)
    with pytest.raises(kind) as caught:
        await connector.connect(ConnectRequest(server.url))
    assert caught.value.cause == (cause or "server_error")
    assert caught.value.code == str(status)


async def test_a_provider_may_map_refusals_itself(server: Server, connector: Connector) -> None:
    server.answer = lambda: web.Response(status=503, headers={"why": "maintenance"})
    with pytest.raises(RequestRefused, match="maintenance"):
        await connector.connect(
            ConnectRequest(server.url),
            lambda status, headers: RequestRefused("p", "request", headers["why"]),
        )


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(text="no WebSocket here"),
        lambda: web.Response(status=307, headers={"Location": "/elsewhere"}),
    ],
)
async def test_an_answer_that_is_no_upgrade_is_a_protocol_error(
    server: Server, connector: Connector, answer: Callable[[], web.StreamResponse]
) -> None:
    server.answer = answer
    with pytest.raises(RemoteProtocolError):
        await connector.connect(ConnectRequest(server.url))
    assert len(server.requests) == 1, "a redirect is not followed"


async def test_no_server_and_no_answer_are_unavailable() -> None:
    connector = Connector("p", connect_timeout_seconds=0.2)
    with pytest.raises(Unavailable, match="no connection"):
        await connector.connect(ConnectRequest("ws://127.0.0.1:1/"))
    with sockets.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unavailable, match=r"within 0\.2 s"):
            await connector.connect(ConnectRequest(f"ws://127.0.0.1:{port}/"))
    await connector.close()
    with pytest.raises(Unavailable, match="closed here"):
        await connector.connect(ConnectRequest("ws://127.0.0.1:1/"))


async def test_a_failed_opening_leaves_no_connection(server: Server, connector: Connector) -> None:
    with pytest.raises(ValueError, match="odd"):
        async with connector.opening(ConnectRequest(server.url)):
            raise ValueError("odd")
    await until(lambda: server.connections[0].closed, "the connection is closed")
    async with connector.opening(ConnectRequest(server.url)) as socket:
        pass
    await socket.send("still open")
    await until(lambda: "still open" in server.received, "the message")
    await socket.close()


# ---- one connection -------------------------------------------------------------------------


async def test_messages_both_ways(server: Server, opened: Socket) -> None:
    await opened.send("text")
    await opened.send(b"bytes")
    assert opened.send_nowait("at once")
    await until(lambda: server.received == ["text", b"bytes", "at once"], "the messages")
    await server.connections[0].send_str("one")
    await server.connections[0].send_bytes(b"two")
    assert [await soon(opened.receive(), 2), await soon(opened.receive(), 2)] == ["one", b"two"]


async def test_nothing_is_lost_when_the_server_stops_reading(
    server: Server, opened: Socket
) -> None:
    server.reads.clear()
    await opened.send("first")
    await until(lambda: "first" in server.received, "the server has stopped")
    frame, sent = bytes(16 * 1024), 0
    while opened.send_nowait(frame):
        sent += 1
        assert sent < 10_000, "send_nowait has no bound"
        await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await opened.send(frame)
                sent += 1
                assert sent < 10_000, "send has no bound"
    server.reads.set()
    await until(lambda: len(server.received) > sent, "all of it")
    assert set(map(len, server.received[1 : sent + 1])) == {len(frame)}


async def test_ends_are_told_apart(server: Server, connector: Connector) -> None:
    socket = await connector.connect(ConnectRequest(server.url))
    await until(lambda: server.connections, "connected")
    await server.connections[0].close(code=4001, message=b"why")
    assert await soon(socket.receive(), 2) == Closed(4001, "why")
    await socket.close()
    socket = await connector.connect(ConnectRequest(server.url))
    await until(lambda: len(server.requests) == 2, "connected")
    transport = server.requests[1].transport
    assert transport is not None
    transport.abort()
    closed = await soon(socket.receive(), 2)
    assert isinstance(closed, Closed)
    assert closed.code is None
    with pytest.raises(Dropped):
        await soon(send_until_it_fails(socket), 5)
    await socket.close()


async def test_a_close_that_was_not_received_yet_is_seen(server: Server, opened: Socket) -> None:
    """This reads aiohttp's own queue (`_reader._buffer`): the test fails when its name changes."""
    assert not opened.close_received
    await until(lambda: server.connections, "connected")
    await server.connections[0].send_str("before it")
    server.close_frame()
    await until(lambda: opened.close_received, "the close is there, behind a message")
    assert await opened.receive() == "before it"
    assert await opened.receive() == Closed(1000)
    assert opened.close_received
    await opened.close()


@pytest.mark.parametrize("reads_always", [True, False])
async def test_pings_and_a_stream_that_stops_reading(server: Server, reads_always: bool) -> None:
    """A pong waits behind what is not read, so it can be expected only of one who always reads."""
    connector = Connector("p", ping_seconds=0.1, reads_always=reads_always)
    socket = await connector.connect(ConnectRequest(server.url))
    await until(lambda: server.connections, "connected")
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.5):  # some pings, and far more than the buffers hold
            while sent < 1000:
                await server.connections[0].send_bytes(bytes(64 * 1024))
                sent += 1
    assert sent < 1000, "an unread connection has no bound"
    received = 0
    while isinstance(message := await soon(socket.receive(), 5), bytes):
        received += 1
        if received == sent:
            break
    assert isinstance(message, Closed) == reads_always
    await socket.close()
    await connector.close()


async def test_pings_that_await_no_pong_are_sent(server: Server) -> None:
    server.autoping = False  # pings are received as messages
    connector = Connector("p", ping_seconds=0.05, reads_always=False)
    socket = await connector.connect(ConnectRequest(server.url))
    await until(lambda: server.connections, "connected")
    await until(lambda: server.received.count(b"") >= 3, "three pings, and no pongs")
    await socket.close()
    await connector.close()


async def test_an_abort_ends_receive(opened: Socket) -> None:
    receiving = asyncio.create_task(opened.receive())
    await asyncio.sleep(0)
    opened.abort()
    closed = await soon(receiving, 2)
    assert isinstance(closed, Closed)
    assert closed.code is None


async def test_close_is_bounded_while_nobody_reads(server: Server, opened: Socket) -> None:
    server.reads.clear()
    while opened.send_nowait(bytes(16 * 1024)):
        await asyncio.sleep(0)
    await soon(opened.close(), 2)
    await soon(opened.close(), 2)


# ---- streams --------------------------------------------------------------------------------


async def test_a_stream(server: Server, opened: Socket) -> None:
    stream = JsonStream(opened)
    await until(lambda: server.connections, "connected")
    await server.connections[0].send_str('{"interim": "the", "end": 1}')
    await stream.send(b"\1\2")
    assert stream.send_nowait(b"\3\4")
    await stream.send(b"")
    assert not stream.send_nowait(b"")
    await stream.finish()
    await stream.finish()
    assert await soon(read(stream), 2) == [Interim("the", 0, 1), Final("the end", 0, 1.5)]
    assert server.received == [b"\1\2", b"\3\4", "finish"]
    with pytest.raises(RuntimeError):
        await stream.send(b"\5\6")


async def test_a_close_before_the_finish_is_no_end(server: Server, opened: Socket) -> None:
    """The provider may have closed without reading the audio, with 1000."""
    stream = JsonStream(opened)
    await until(lambda: server.connections, "connected")
    server.close_frame()
    await until(lambda: opened.close_received, "the close is there")
    await stream.finish()
    with pytest.raises(Dropped, match="1000"):
        await soon(read(stream), 2)
    await stream.close()


@pytest.mark.parametrize("message", ["no json", "[]", '{"final": "x"}', "7"])
async def test_a_message_of_another_shape_is_a_protocol_error(
    server: Server, opened: Socket, message: str
) -> None:
    stream = JsonStream(opened)
    await until(lambda: server.connections, "connected")
    await server.connections[0].send_str(message)
    with pytest.raises(RemoteProtocolError, match="cannot be decoded"):
        await soon(read(stream), 2)


async def test_a_closed_stream_ends_its_iteration(opened: Socket) -> None:
    stream = JsonStream(opened)
    reading = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(Dropped, match="closed here"):
        await soon(reading, 2)


async def test_keepalives_while_nothing_is_sent(server: Server, opened: Socket) -> None:
    stream = JsonStream(opened, keepalive_seconds=0.05)
    await until(lambda: server.received.count("keepalive") > 2, "keepalives")
    await stream.finish()
    await soon(read(stream), 2)
    assert server.received[-1] == "finish", "none after it"
    await stream.close()


async def test_a_keepalive_that_fails_ends_the_stream(
    opened: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Dropped("p", "the connection broke")

    class Broken(JsonStream):
        def encode_keepalive(self) -> str:
            raise failure

    stream = Broken(opened, keepalive_seconds=0.01)
    with pytest.raises(Dropped) as caught:
        await soon(read(stream), 2)
    assert caught.value is failure
    await stream.close()


async def test_audio_is_accounted_for_once(server: Server, opened: Socket) -> None:
    class Counting(JsonStream):
        seen: bytes = b""

        def on_audio(self, audio: bytes) -> None:
            self.seen += audio

        def decode(self, message: str | bytes) -> list[ProviderEvent]:
            return [Notice("seen", self.seen.hex())]

    stream = Counting(opened)
    await stream.send(b"\1")
    stream.send_nowait(b"\2")
    await stream.finish()
    assert await soon(read(stream), 2) == [Notice("seen", "0102")]
