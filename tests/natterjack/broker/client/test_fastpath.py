"""The client's fast path, against real and scripted servers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

import pytest
import uvloop
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import FlushTimeoutError, OutboundBufferLimitError
from nats.js.errors import APIError, NoStreamResponseError

from natterjack.broker import streams
from natterjack.broker.client.fastpath import Client, MessageTooLarge
from natterjack.broker.client.wire import headers_size, parse_headers
from natterjack.broker.connection import Broker, connect, connected
from natterjack.broker.login import attempts
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.faults.proxy import NatsProxy
from tests.limited import LimitedServer
from tests.waiting import until, within


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any pause between attempts to connect, for tests of several on which nothing of the
    pauses depends."""
    monkeypatch.setattr(attempts, "_LONGEST_S", 0.05)


class Received:
    """A receiver that keeps all messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes | None, bytes]] = []

    def __call__(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        self.messages.append((subject, headers, data))


async def test_messages_of_all_sizes_arrive_whole_and_in_order(nats_server: EmbeddedServer) -> None:
    """Mixed with messages for nats-py's own subscriptions, on one connection."""
    settings = BrokerSettings(url=nats_server.url)
    rng, received, others = random.Random(7), Received(), []

    async def other(message: Msg) -> None:
        others.append(message.data)

    async with connected(settings, name="in") as near, connected(settings, name="out") as far:
        await near.client.listen("direct.*", received)
        await near.client.subscribe("other", cb=other)
        await near.client.flush()
        sent, sent_others = [], []
        for number in range(3000):
            size = rng.choice([0, 1, 30, 3000, 3000, 3000, 40_000, 5, 200_000 * (number % 10 == 0)])
            data = number.to_bytes(4, "big") + bytes(size)
            if rng.random() < 0.1:
                await far.client.publish("other", data)
                sent_others.append(data)
                continue
            headers = {"A": "b", "Number": str(number)} if rng.random() < 0.7 else None
            far.client.post(f"direct.{number}", data, headers=headers)
            sent.append((number, headers, data))
            if number % 100 == 0:
                await far.client.flush()
        await until(lambda: len(received.messages) == len(sent), "all direct messages arrive", 30)
        await until(lambda: len(others) == len(sent_others), "all other messages arrive", 30)
    assert others == sent_others
    for (number, headers, data), (subject, raw, came) in zip(sent, received.messages, strict=True):
        assert subject == b"direct.%d" % number
        assert (None if raw is None else parse_headers(raw)) == headers
        assert came == data


async def test_a_failing_receiver_does_not_stop_the_others(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    received = Received()

    def failing(*_: object) -> None:
        raise ValueError("a failing receiver")

    await broker.client.listen("bad", failing)
    await broker.client.listen("good", received)
    for _ in range(3):
        broker.client.post("bad", b"")
        broker.client.post("good", b"x")
    await until(lambda: len(received.messages) == 3, "the other receives all")
    assert "message handler failed" in caplog.text


async def test_a_direct_subscription_lasts_from_listen_to_end(
    nats_server: EmbeddedServer, broker: Broker
) -> None:
    received = Received()
    arrivals = await broker.client.listen("direct", received)
    broker.client.post("direct", b"before")
    await until(lambda: received.messages, "one message")
    nats_server.kill()
    await until(lambda: not broker.connected, "the connection is lost")
    with pytest.raises(OutboundBufferLimitError):
        broker.client.post("direct", b"not sent")
    nats_server.start()
    await until(lambda: broker.connected, "the connection is back", 20)
    broker.client.post("direct", b"after")
    await until(lambda: len(received.messages) == 2, "another")
    assert [data for _, _, data in received.messages] == [b"before", b"after"]
    await arrivals.end()
    await arrivals.end()
    broker.client.post("direct", b"too late")
    await broker.client.flush()
    assert len(received.messages) == 2


@pytest.mark.parametrize("headers", [None, {"Name": "a value", "Other": "väl\u200bue"}])
async def test_a_message_fits_or_is_refused_by_its_size_with_headers(
    broker: Broker, headers: dict[str, str] | None
) -> None:
    client, received = broker.client, Received()
    room = client.max_payload - (headers_size(headers) if headers else 0)
    fits, too_large = bytes(room), bytes(room + 1)
    await client.listen("direct", received)
    js = client.jetstream()
    client.post("direct", fits, headers=headers)
    await client.publish("direct", fits, headers=headers)
    for attempt in (
        lambda: js.publish("direct", too_large, headers=headers),
        lambda: client.request("direct", too_large, headers=headers),
        lambda: client.publish("direct", too_large, headers=headers),
    ):
        with pytest.raises(MessageTooLarge) as caught:
            await attempt()
        assert (caught.value.size, caught.value.limit) == (room + 1, client.max_payload) or headers
        assert caught.value.size > caught.value.limit == client.max_payload
    with pytest.raises(MessageTooLarge, match="exceeds the server's max_payload of 1048576"):
        client.post("direct", too_large, headers=headers)
    stored = await broker.acks.publish("direct", too_large, headers or {}, 5)
    with pytest.raises(MessageTooLarge):
        await stored
    await client.flush()
    assert [len(data) for _, _, data in received.messages] == [room, room]
    assert broker.reconnects == 0


async def test_a_message_is_refused_after_one_that_fits_and_has_a_longer_subject(
    limited_server: LimitedServer,
) -> None:
    async with connected(BrokerSettings(url=limited_server.url), name="test", once=True) as broker:
        limit = broker.client.max_payload
        broker.client.post("a." + 200 * "s", bytes(limit))
        for over in (1, 100):
            with pytest.raises(MessageTooLarge):
                broker.client.post("a.s", bytes(limit + over))
        await broker.client.flush()
        assert broker.reconnects == 0


async def test_a_limit_that_shrinks_while_connected(limited_server: LimitedServer) -> None:
    """The server does not announce it, so it disconnects the client once; never for good."""
    settings = BrokerSettings(url=limited_server.url)
    async with connected(settings, name="in") as near, connected(settings, name="out") as far:
        received = Received()
        await near.client.listen("direct", received)
        await near.client.flush()
        await limited_server.reload(2048)

        async def is_refused() -> bool:
            try:
                far.client.post("direct", bytes(10_000))
            except MessageTooLarge as error:
                return error.limit == 2048
            except NatsError:
                pass  # it is just reconnecting
            return False

        await until(is_refused, "the client knows the new limit")
        await until(lambda: far.connected, "it is connected")
        assert far.reconnects <= 1
        far.client.post("direct", bytes(2048))
        await until(lambda: received.messages and len(received.messages[-1][2]) == 2048, "it comes")
        limited_server.write_limit(65_536)
        limited_server.kill()
        limited_server.start()
        await until(lambda: far.client.max_payload == 65_536, "the client knows the next limit")


class Accounting:
    """A server that disconnects clients that send more than `limit`, and announces another."""

    def __init__(self, announced: int, limit: int) -> None:
        self._greeting = GREETING.replace(b"1048576", b"%d" % announced)
        self._limit = limit
        self.violations = 0
        self.accepted: list[int] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._greeting)
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            elif line.startswith((b"PUB", b"HPUB")):
                size = int(line.split()[-1])
                if size > self._limit:
                    self.violations += 1
                    writer.write(b"-ERR 'Maximum Payload Violation'\r\n")
                    break
                self.accepted.append(size)
                await reader.readexactly(size + 2)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


async def test_a_limit_that_the_server_does_not_announce(short_pauses: None) -> None:
    """A user's or an account's limit may be lower than the server's."""
    serve = Accounting(announced=100_000, limit=1000)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        settings = BrokerSettings(url=f"nats://127.0.0.1:{port_of(server)}")
        async with connected(settings, name="test") as broker:
            size, refused = 50_000, 0
            while size not in serve.accepted:
                try:
                    await broker.client.publish("a", bytes(size))
                except MessageTooLarge:
                    refused += 1
                    size //= 2
                    continue

                def answered(size: int = size, reconnects: int = refused + 1) -> bool:
                    return size in serve.accepted or broker.reconnects == reconnects

                await until(answered, "the server's answer")
                await until(lambda: broker.connected, "connected")
            assert serve.violations == refused == 6, "each size is sent once at most"
        assert not [size for size in serve.accepted if size > 1000]


async def test_waiting_messages_that_a_new_limit_does_not_allow_are_dropped(
    limited_server: LimitedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(BrokerSettings(url=limited_server.url), name="test") as broker:
        received = Received()
        await broker.client.listen("direct", received)
        limited_server.kill()
        # Until then, what was not sent is discarded with the connection.
        await until(lambda: "connection lost" in caplog.text, "the loss has been handled")
        await broker.client.publish("direct", bytes(10_000))
        await broker.client.publish("direct", bytes(100))
        limited_server.write_limit(2048)
        limited_server.start()
        await until(lambda: received.messages, "the smaller one comes")
        assert [len(data) for _, _, data in received.messages] == [100]
        await until(lambda: broker.reconnects, "the new connection counts")
        assert broker.reconnects == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        b"INFO []\r\n",
        b'INFO {"max_payload":"much"}\r\nPONG\r\n',
        b'INFO {"connect_urls":7}\r\nPONG\r\n',
        b"INFO " + bytes(100_000),
        b"\xff\r\n",
    ],
)
async def test_an_unusable_answer_to_a_reconnect_is_only_a_failed_attempt(
    short_pauses: None, nonsense: bytes
) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(nonsense if connections in (2, 3) else GREETING)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                if line.startswith(b"PING") and connections not in (2, 3):
                    writer.write(b"PONG\r\n")
                    if connections == 1:
                        break
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        settings = BrokerSettings(url=f"nats://127.0.0.1:{port_of(server)}")
        async with connected(settings, name="test") as broker:
            await until(lambda: connections == 4 and broker.connected, "it is connected again")


@pytest.mark.parametrize("error", [b"Invalid Subject", b"Maximum Payload Violation", b"Odd"])
async def test_an_error_of_the_server_never_closes_the_client(
    short_pauses: None, error: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(GREETING)
        pings = 0
        while line := await reader.readline():
            if line.startswith(b"PING"):
                pings += 1
                writer.write(b"PONG\r\n")
                if connections < 3 and pings == 1:
                    writer.write(b"-ERR '%b'\r\n" % error)
                    await writer.drain()
                    break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        settings = BrokerSettings(url=f"nats://127.0.0.1:{port_of(server)}")
        async with connected(settings, name="test") as broker:
            await until(lambda: connections == 3 and broker.connected, "connected for good")
            await broker.client.flush()
    assert f"NATS: {error.decode()}" in caplog.text


async def test_publications_to_a_stream_are_acknowledged(ready_broker: Broker) -> None:
    acks = ready_broker.acks
    subject = streams.bucket_subject(streams.CHECKPOINTS_BUCKET, "t.c.s")
    first = await (await acks.publish(subject, b"1", {}, 5))
    expected = "Nats-Expected-Last-Subject-Sequence"
    second = await (await acks.publish(subject, b"2", {expected: str(first)}, 5))
    assert second > first
    with pytest.raises(APIError, match="wrong last sequence"):
        await (await acks.publish(subject, b"3", {expected: str(first)}, 5))
    with pytest.raises(NoStreamResponseError):
        await (await acks.publish("no.stream.takes.it", b"", {}, 5))


async def test_an_acknowledgement_that_does_not_arrive(ready_broker: Broker) -> None:
    silent: asyncio.Future[int]
    await ready_broker.client.subscribe("silent")  # there is a subscriber, so no 503
    silent = await ready_broker.acks.publish("silent", b"", {}, 0.2)
    with pytest.raises(TimeoutError):
        await silent
    silent = await ready_broker.acks.publish("silent", b"", {}, 60)
    ready_broker.acks.connection_lost()
    with pytest.raises(TimeoutError):
        await silent


GREETING = b'INFO {"server_id":"x","version":"2.15.1","headers":true,"max_payload":1048576}\r\n'


async def test_an_incomplete_message_does_not_outlive_its_connection() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(GREETING)
        subscribed = False
        while line := await reader.readline():
            subscribed |= line.startswith(b"SUB")
            if not line.startswith(b"PING"):
                continue
            writer.write(b"PONG\r\n")
            if not subscribed:
                continue
            if connections == 1:
                writer.write(b"HMSG a 1 12 2572\r\nNATS/1.0")
                break
            writer.write(b"MSG a 1 5\r\nwhole\r\n")
        writer.close()

    received = Received()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = Client()
        await client.connect(
            f"nats://127.0.0.1:{port_of(server)}", ping_interval=1, reconnect_time_wait=0
        )
        await client.listen("a", received)
        with contextlib.suppress(NatsError):  # the connection is closed before or after the PONG
            await client.flush()
        await until(lambda: received.messages, "the whole message of the second connection", 20)
        assert received.messages == [(b"a", None, b"whole")]
        assert connections == 2
        await client.close()


def test_connecting_is_retried_if_the_server_closes_after_its_greeting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With uvloop, whose writes to a lost connection raise errors that asyncio's do not."""
    monkeypatch.setattr("natterjack.broker.login.attempts._LONGEST_S", 0.1)
    tries = 0

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(GREETING)
        await asyncio.sleep(tries % 4 / 2000)  # before, while and after the client answers
        writer.transport.abort()

    async def play() -> None:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        settings = BrokerSettings(url=f"nats://127.0.0.1:{port_of(server)}")
        connecting = asyncio.ensure_future(connect(settings, name="test"))
        await until(lambda: tries >= 12 or connecting.done(), "it tries again and again", 60)
        assert not connecting.done(), connecting.exception()
        connecting.cancel()
        await asyncio.wait([connecting])
        server.close()
        await server.wait_closed()

    uvloop.run(play())


def test_closing_while_the_server_is_away(nats_server: EmbeddedServer) -> None:
    """With uvloop and unsent data."""

    async def play() -> None:
        broker = await connect(BrokerSettings(url=nats_server.url), name="test")
        await asyncio.to_thread(nats_server.kill)
        await until(lambda: not broker.connected, "the connection is lost")
        await broker.client.publish("left", b"to be written")
        await broker.close()
        assert broker.client.is_closed

    uvloop.run(play())


async def test_many_reads_of_a_mute_stream_fail_in_time(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natterjack.broker.stored._TIMEOUT_S", 0.3)
    store = StreamStore(broker, "MUTE")
    await store.start()
    await broker.client.subscribe("$JS.API.DIRECT.GET.MUTE")  # a responder, so no 503
    reads = (store.read("x", 1, batch=1, max_bytes=1000) for _ in range(200))
    async with within(5):  # 0.3 s each for a place and an answer; 4 s in a row
        answers = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)


class MuteServer:
    """Accepts a connection as nats-server does, then reads nothing until `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.received = bytearray()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> MuteServer:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=4096)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.go.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,')
            writer.write(b'"headers":true}\r\n')
            while not (await reader.readline()).startswith(b"PING"):
                pass
            writer.write(b"PONG\r\n")
            await self.go.wait()
            while data := await reader.read(65536):
                self.received += data
        finally:
            writer.close()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_unsent_publications_are_bounded_and_stay_in_order(loop: str, together: bool) -> None:
    """They wait in the client, not in the transport, whose buffer has no limit."""

    async def run() -> None:
        async with MuteServer() as server:
            client = Client()
            client.batch_writes = together
            await client.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False)
            count, refused = 0, False
            while not refused:
                try:
                    client.post("a.b", b"%06d" % count + bytes(4000), headers={"K": "v"})
                except OutboundBufferLimitError:
                    refused = True
                else:
                    count += 1
                await asyncio.sleep(0)
                assert count * 4000 < 64e6, "it is taken without bounds"
            assert client.pending_data_size > 4e6
            server.go.set()
            end = b"%06d" % (count - 1) + bytes(4000) + b"\r\n"
            await until(lambda: server.received.endswith(end), "all of it", 30)
            place = 0
            for number in range(count):
                place = server.received.find(b"\r\n\r\n%06d" % number, place)
                assert place >= 0, f"message {number} is missing or out of order"
            await client.close()

    (asyncio.run if loop == "asyncio" else uvloop.run)(run())


@pytest.mark.parametrize("together", [True, False])
async def test_a_flush_does_not_overtake_earlier_commands(together: bool) -> None:
    """Its PONG confirms that the server received the subscription and the publications."""
    async with MuteServer() as server:
        client = Client()
        client.batch_writes = together
        await client.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False)

        async def all_at_once() -> None:
            await client.listen("a", Received())
            client.post("b", b"")
            await client.flush()

        flushing = asyncio.create_task(all_at_once())
        server.go.set()
        await until(lambda: server.received.endswith(b"PING\r\n"), "all of it has come")
        assert bytes(server.received) == b"SUB a  1\r\nPUB b  0\r\n\r\nPING\r\n"
        flushing.cancel()
        await asyncio.wait([flushing])
        await client.close()


async def test_connections_to_a_mute_server_are_closed(nats_server: EmbeddedServer) -> None:
    """A frozen server still accepts connections. Each abandoned one must be closed."""
    opened = closed = 0

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, closed
        opened += 1
        await reader.read()
        closed += 1
        writer.close()

    async with await asyncio.start_server(nothing, "127.0.0.1", 0) as frozen:
        client = Client()
        await client.connect(
            [nats_server.url, f"nats://127.0.0.1:{port_of(frozen)}"],
            dont_randomize=True,
            connect_timeout=1,
            reconnect_time_wait=0,
        )
        nats_server.kill()
        await until(lambda: opened == 3, "it is tried again and again")
        await until(lambda: closed >= 2, "and left")
        nats_server.start()
        await until(lambda: client.is_connected, "there is another")
        await client.close()
        await until(lambda: opened == closed, "all are closed")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_that_stops_reading_is_abandoned(loop: str, nats_server: EmbeddedServer) -> None:
    """Without waiting until everything written to it is sent."""

    async def run() -> None:
        async with MuteServer() as server:
            client = Client()
            await client.connect(
                [f"nats://127.0.0.1:{server.port}", nats_server.url],
                ping_interval=1,
                dont_randomize=True,
            )
            while client.pending_data_size < 4e6:
                client.post("a.b", bytes(40_000))
                await asyncio.sleep(0)
            await until(lambda: client.stats["reconnects"], "there is another", 20)
            await client.close()

    (asyncio.run if loop == "asyncio" else uvloop.run)(run())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_publishing_while_the_connection_is_lost_raises_nothing(
    loop: str, nats_server: EmbeddedServer
) -> None:
    """Before nats-py notices: its flusher has ended, and it writes directly."""

    async def run() -> None:
        broker = await connect(BrokerSettings(url=nats_server.url), name="test")
        client = broker.client
        [flusher] = (t for t in asyncio.all_tasks() if "flusher" in str(t.get_coro()))
        flusher.cancel()
        await asyncio.wait([flusher])
        client.abort()
        assert client.is_connected
        await client.publish("a", b"x")
        await until(lambda: broker.reconnects, "the client has reconnected")
        await broker.close()

    (asyncio.run if loop == "asyncio" else uvloop.run)(run())


@pytest.mark.parametrize("subject", ["$JS.API.INFO", "nobody.answers", None])
async def test_what_is_canceled_as_its_answer_arrives_ends_canceled(
    ready_broker: Broker, subject: str | None
) -> None:
    client = ready_broker.client
    await client.request("$JS.API.INFO", timeout=5)
    waits = client.flush() if subject is None else client.request(subject, timeout=5)
    asking = asyncio.create_task(waits)
    waiting = vars(client)["_pongs" if subject is None else "_resp_map"]
    async with within(10):
        while not waiting:
            await asyncio.sleep(0)
        (place,) = range(len(waiting)) if subject is None else waiting
        answer, arrived = waiting[place], asyncio.get_running_loop().create_future()
        waiting[place] = arrived
        answer.set_result(await arrived)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_late_answer_to_a_flush_that_was_given_up_does_not_end_reading(
    nats_server: EmbeddedServer,
) -> None:
    received = Received()
    async with (
        NatsProxy(nats_server.port) as proxy,
        connected(BrokerSettings(url=proxy.url), name="slow") as slow,
        connected(BrokerSettings(url=nats_server.url), name="other") as other,
    ):
        await slow.client.listen("direct.*", received)
        await slow.client.flush()
        proxy.stall()
        with pytest.raises(FlushTimeoutError):
            await slow.client.flush(timeout=0.1)  # type: ignore[arg-type] # nats-py accepts it
        proxy.heal()
        await slow.client.flush()
        await other.client.publish("direct.a", b"still read")
        await until(lambda: received.messages, "the message arrives")
