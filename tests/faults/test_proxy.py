"""The proxy between real clients and a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker, connected
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings

from ..waiting import until
from .proxy import NatsProxy, _frames, _message, _without_addresses


@pytest.fixture
async def proxy(nats_server: EmbeddedServer) -> AsyncIterator[NatsProxy]:
    async with NatsProxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
async def near(proxy: NatsProxy) -> AsyncIterator[Broker]:
    """A connection through the proxy."""
    async with connected(BrokerSettings(url=proxy.url), name="near", once=True) as broker:
        yield broker


async def test_messages_arrive_unchanged(near: Broker, broker: Broker) -> None:
    received: list[tuple[str, dict[str, str] | None, bytes]] = []

    async def take(message: Msg) -> None:
        received.append((message.subject, message.headers, hashlib.sha256(message.data).digest()))

    await near.client.subscribe("there.>", cb=take)
    await near.client.flush()
    sent: list[tuple[str, dict[str, str] | None, bytes]] = []
    for n in range(3000):
        # Many small messages, some with headers, some that need many reads, some that look like
        # protocol lines.
        size = 900_000 if n % 750 == 0 else n % 97
        data = b"PUB a 3\r\nabc\r\n" * 3 if n % 10 == 0 and n % 750 else os.urandom(size)
        headers = {"A-Header": f"value {n}"} if n % 3 == 0 else None
        source = (near, broker)[n % 2]
        await source.client.publish(f"there.{n}", data, headers=headers)
        sent.append((f"there.{n}", headers, hashlib.sha256(data).digest()))
    await near.client.flush()
    await broker.client.flush()
    await until(lambda: len(received) == len(sent), "all messages arrive")
    assert sorted(received, key=str) == sorted(sent, key=str)


def test_frames_are_found_in_reads_of_any_size() -> None:
    wire = (
        b"INFO {}\r\nPING\r\nPUB a 0\r\n\r\npub a.b reply 4\r\n\r\n\r\n\r\n"
        b"HPUB s r 12 15\r\nNATS/1.0\r\n\r\nabc\r\nMSG s 7 3\r\nxyz\r\n"
        b"HMSG s 7 back 12 12\r\nNATS/1.0\r\n\r\n\r\n+OK\r\n"
    )
    for size in range(1, len(wire)):
        buffer, frames = bytearray(), []
        for start in range(0, len(wire), size):
            buffer += wire[start : start + size]
            frames += list(_frames(buffer))
        assert b"".join(frames) == wire
        assert len(frames) == 8
        assert _message(frames[3]) == ("a.b", "reply", b"", b"\r\n\r\n")
        assert _message(frames[4]) == ("s", "r", b"NATS/1.0\r\n\r\n", b"abc")
        assert _message(frames[5]) == ("s", "", b"", b"xyz")
        assert _message(frames[6]) == ("s", "back", b"NATS/1.0\r\n\r\n", b"")


def test_cluster_addresses_are_removed() -> None:
    info = b'INFO {"server_id":"x", "connect_urls":["10.0.0.1:4222"],"max_payload":9} \r\n'
    assert _without_addresses(info) == b'INFO {"server_id": "x", "max_payload": 9}\r\n'
    plain = b'INFO {"server_id":"x"} \r\n'
    assert _without_addresses(plain) is plain


async def test_cut_and_stall(proxy: NatsProxy, near: Broker) -> None:
    proxy.cut()
    await until(lambda: not near.connected, "the client notices")
    tried = proxy.accepted
    await asyncio.sleep(0.3)  # longer than the reconnect wait of 0.2 s; nothing may happen
    assert not near.connected
    assert proxy.accepted == tried
    proxy.heal()
    await until(lambda: near.connected, "the client is back")
    proxy.stall()
    answer = asyncio.create_task(near.client.flush(timeout=10))
    await asyncio.sleep(0.1)  # long enough for an answer; none may come
    assert near.connected
    assert not answer.done()
    proxy.heal()
    await answer


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_trigger_at_the_third_message(
    after: bool, proxy: NatsProxy, near: Broker, broker: Broker
) -> None:
    js = broker.client.jetstream()
    await js.add_stream(name="S", subjects=["s.>"])
    arm = proxy.after if after else proxy.before
    trigger = arm("s.*.x", proxy.cut, n=3, where=lambda message: message.payload != b"skip")
    through = near.client.jetstream()
    for payload in (b"1", b"skip", b"2"):
        await through.publish("s.a.x", payload)
    await through.publish("s.a.y", b"another subject")
    with pytest.raises((NatsError, TimeoutError)):
        await through.publish("s.a.x", b"3", timeout=0.5)
    assert trigger.fired.is_set()
    stored = (await js.stream_info("S")).state.messages
    assert stored == (5 if after else 4)
    proxy.heal()
    await until(lambda: near.connected, "the client is back")
    await through.publish("s.a.x", b"4")
    assert trigger.seen == 3


async def test_a_trigger_on_delivery_that_stalls(
    proxy: NatsProxy, near: Broker, broker: Broker
) -> None:
    received: list[bytes] = []

    async def take(message: Msg) -> None:
        received.append(message.data)

    await near.client.subscribe("d", cb=take)
    await near.client.flush()
    trigger = proxy.before("d", proxy.stall, n=2, to="client")
    for payload in (b"1", b"2", b"3"):
        await broker.client.publish("d", payload)
    await trigger.fired.wait()
    await until(lambda: received == [b"1"], "the first message arrives")
    proxy.heal()
    await until(lambda: received == [b"1", b"2", b"3"], "the held messages arrive in order")
    assert near.connected


async def test_a_failing_action_fails_the_test(nats_server: EmbeddedServer) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def provoke() -> None:
        async with (
            NatsProxy(nats_server.port) as proxy,
            connected(BrokerSettings(url=proxy.url), name="x", once=True) as broker,
        ):
            proxy.before("a", fail)
            await broker.client.publish("a", b"")
            await until(lambda: not broker.connected, "the connection is aborted")

    with pytest.raises(ZeroDivisionError):
        await provoke()
