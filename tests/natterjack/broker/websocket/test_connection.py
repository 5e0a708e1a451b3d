"""Connections over WebSocket, with and without TLS: they do what others do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop
from aiohttp import WSMsgType, web

from natterjack.broker.client.fastpath import Client
from natterjack.broker.connection import Broker, connect, connected
from natterjack.broker.login.credentials import Credentials
from natterjack.errors import BrokerUnreachable
from natterjack.settings import BrokerSettings
from tests.freezing import freeze
from tests.identities import Authority
from tests.nats_server import NatsServer
from tests.waiting import soon, until

from ..client.test_fastpath import (  # noqa: F401 - with the server below
    short_pauses,
    test_a_direct_subscription_lasts_from_listen_to_end,
    test_a_failing_receiver_does_not_stop_the_others,
    test_a_flush_does_not_overtake_earlier_commands,
    test_a_message_fits_or_is_refused_by_its_size_with_headers,
    test_a_message_is_refused_after_one_that_fits_and_has_a_longer_subject,
    test_an_error_of_the_server_never_closes_the_client,
    test_closing_while_the_server_is_away,
    test_messages_of_all_sizes_arrive_whole_and_in_order,
    test_publications_to_a_stream_are_acknowledged,
    test_publishing_while_the_connection_is_lost_raises_nothing,
    test_unsent_publications_are_bounded_and_stay_in_order,
)
from ..test_connection import (  # noqa: F401 - with the server below
    test_a_killed_server_is_survived,
    test_closing_while_the_connection_is_lost,
    test_connect_waits_for_a_server_that_starts_later,
    test_connected_is_true_only_after_the_reconnect_callbacks,
    test_no_reply_is_awaited_after_a_reconnect,
)
from .servers import WebSocketServer


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(params=["ws", "wss"])
def nats_server(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[NatsServer]:
    server = WebSocketServer(tmp_path / "nats", authority if request.param == "wss" else None)
    for name, value in server.trust().items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.stop()


async def test_a_certificate_that_is_not_trusted(tmp_path: Path, authority: Authority) -> None:
    server = WebSocketServer(tmp_path / "nats", authority)
    server.start()
    try:
        with pytest.raises(BrokerUnreachable, match="certificate is not valid"):
            await connect(BrokerSettings(url=server.url), name="test", once=True)
    finally:
        server.stop()


@pytest.mark.parametrize("nats_server", ["ws"], indirect=True)
async def test_a_port_that_speaks_no_websocket(nats_server: WebSocketServer) -> None:
    url = nats_server.plain_url.replace("nats://", "ws://")
    with pytest.raises(BrokerUnreachable, match="not for WebSocket; use nats:// or tls://"):
        await connect(BrokerSettings(url=url), name="test", once=True)


async def test_a_port_that_closes_instead_of_an_answer() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(BrokerUnreachable, match="the connection is gone"):
            await connect(BrokerSettings(url=url), name="test", once=True)


@pytest.mark.parametrize("credentials", ["user", "url"])
async def test_user_and_password(tmp_path: Path, processes: None, credentials: str) -> None:
    more = "authorization { users = [{user: worker, password: pass}] }"
    server = WebSocketServer(tmp_path / "nats", more=more)
    server.start()
    try:
        given = (
            {"url": server.url, "user": "worker", "password": "pass"}
            if credentials == "user"
            else {"url": server.url.replace("//", "//worker:pass@")}
        )
        settings = BrokerSettings.model_validate(given)
        async with connected(settings, name="test", once=True) as broker:
            assert broker.connected
        wrong = BrokerSettings.model_validate({"url": server.url, "user": "x", "password": "y"})
        with pytest.raises(BrokerUnreachable, match=r"(?i)authorization violation"):
            await connect(wrong, name="test", once=True)
    finally:
        server.stop()


class Member(WebSocketServer):
    """A server of a cluster, without JetStream."""

    def store_arguments(self) -> tuple[str | Path, ...]:
        return ()


async def test_the_other_servers_of_a_cluster_are_reached_over_websocket(
    tmp_path: Path, processes: None
) -> None:
    first = Member(tmp_path / "a", more='cluster {name: c, listen: "127.0.0.1:-1"}')
    first.start()
    servers = [first]
    try:
        (ports,) = first.store.glob("*.ports")
        route = ports.read_text().partition('"cluster":["')[2].partition('"')[0]
        routes = f'cluster {{name: c, listen: "127.0.0.1:-1", routes: ["{route}"]}}'
        second = Member(tmp_path / "b", more=routes)
        second.start()
        servers.append(second)
        settings = BrokerSettings(url=first.url)
        async with connected(settings, name="test", once=True) as broker:
            await until(lambda: len(broker.client.servers) == 2, "it knows the other server", 30)
            first.kill()
            await until(
                lambda: broker.connected and broker.reconnects == 1, "it uses the other server", 30
            )
            assert broker.client.connected_url
            assert broker.client.connected_url.geturl() == second.url
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_frozen_server_is_left(loop: str, tmp_path: Path, authority: Authority) -> None:
    """Even with so much unsent that nothing more can be written to it."""
    servers = [WebSocketServer(tmp_path / name, authority) for name in ("a", "b")]
    for server in servers:
        server.start()

    async def run() -> None:
        client = Client()
        client.identify = Credentials(BrokerSettings(ca=servers[0].ca)).read
        urls = [server.url for server in servers]
        await client.connect(urls, dont_randomize=True, ping_interval=1, connect_timeout=1)
        try:
            freeze(servers[0].pid)
            while client.pending_data_size < 4e6:
                client.post("a.b", bytes(40_000))
                await asyncio.sleep(0)
            await until(lambda: client.stats["reconnects"] and client.is_connected, "another", 30)
            assert client.connected_url
            assert client.connected_url.geturl() == servers[1].url
        finally:
            await client.close()

    try:
        (asyncio.run if loop == "asyncio" else uvloop.run)(run())
    finally:
        servers[0].kill()
        servers[1].stop()


# ---- a server of other people's code, between this client and NATS -------------------------------


class Gateway:
    """An aiohttp server that passes WebSocket frames on to a NATS port, as a proxy does that
    fragments, compresses and pings as it likes. Each path does one thing."""

    def __init__(self, nats_port: int) -> None:
        self._nats_port = nats_port
        self.pongs = 0
        self.paths: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path_qs)
        if request.path == "/closed":
            raise web.HTTPServiceUnavailable()
        if request.path == "/mute":
            await asyncio.sleep(3600)  # for ever: it answers nothing
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._nats_port)
        pump = asyncio.create_task(self._from_nats(reader, socket, request.path))
        try:
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    writer.write(message.data)
                elif message.type == WSMsgType.PONG:
                    self.pongs += message.data == b"are you there?"
        finally:
            pump.cancel()
            writer.close()
        return socket

    async def _from_nats(
        self, reader: asyncio.StreamReader, socket: web.WebSocketResponse, path: str
    ) -> None:
        while data := await reader.read(65536):
            if path == "/text":
                await socket.send_str("no NATS")
            await socket.ping(b"are you there?")
            for at in range(0, len(data), 700):
                await socket.send_bytes(data[at : at + 700])
        await socket.close()


@pytest.fixture
async def gateway(
    tmp_path: Path, processes: None
) -> AsyncIterator[tuple[str, Gateway, NatsServer]]:
    server = NatsServer(tmp_path / "behind")
    server.start()
    passing = Gateway(server.port)
    application = web.Application()
    application.router.add_get("/{path:.*}", passing.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}", passing, server
    finally:
        await runner.cleanup()
        server.stop()


async def test_a_proxy_with_frames_of_its_own(
    gateway: tuple[str, Gateway, NatsServer],
) -> None:
    url, passing, server = gateway
    async with connected(BrokerSettings(url=f"{url}/nats?x=1"), name="test", once=True) as broker:
        received: list[bytes] = []
        await broker.client.listen("a", lambda _s, _r, _h, data: received.append(data))
        sent = [bytes([number]) * (number * 5000) for number in range(100)]
        for data in sent:
            broker.client.post("a", data)
            await broker.client.flush()
        await until(lambda: len(received) == len(sent), "all arrive", 30)
        assert received == sent
        await until(lambda: passing.pongs, "it answers pings")
        assert passing.paths == ["/nats?x=1"]
        server.kill()
        await until(lambda: not broker.connected, "a closed WebSocket is noticed")
        server.start()
        await until(lambda: broker.connected, "the connection is back", 30)
        assert passing.paths == ["/nats?x=1"] * len(passing.paths)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/closed", "refuses a WebSocket with HTTP 503 Service Unavailable"),
        ("/mute", "no answer in time"),
        ("/text", "starts with 0x81|the connection is gone"),
    ],
)
async def test_what_a_proxy_may_answer(
    gateway: tuple[str, Gateway, NatsServer], path: str, message: str
) -> None:
    settings = BrokerSettings(url=gateway[0] + path)
    with pytest.raises(BrokerUnreachable, match=message):
        await soon(connect(settings, name="test", once=True), 60)


async def test_connecting_can_be_canceled_at_any_moment(nats_server: NatsServer) -> None:
    settings = BrokerSettings(url=nats_server.url)
    for step in range(40):
        connecting = asyncio.ensure_future(connect(settings, name="test"))
        for _ in range(step):
            await asyncio.sleep(0.0005)  # a step of the moment at which it is canceled
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            broker: Broker = await connecting
            await broker.close()
