"""Connections to a real server: credentials, TLS, refusals, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import nats.aio.client
import nkeys
import pytest

from natterjack.broker.connection import Broker, connect, connected
from natterjack.errors import BrokerUnreachable, UsageError
from natterjack.settings import BrokerSettings
from tests.faults.proxy import NatsProxy
from tests.nats_server import NatsServer
from tests.waiting import bound, soon, until, within


@pytest.fixture
def key_file(tmp_path: Path) -> tuple[Path, str]:
    """A file with an NKey seed, and its public key."""
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    path = tmp_path / "user.nk"
    path.write_bytes(seed)
    return path, nkeys.from_seed(bytearray(seed)).public_key.decode()


@pytest.fixture
def certificates(tmp_path: Path, processes: None) -> Path:
    """A directory with cert.pem and key.pem, self-signed for the loopback address."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def strict_server(
    tmp_path: Path, key_file: tuple[Path, str], processes: None
) -> Iterator[NatsServer]:
    """A server with a user `worker`, password `pass`, and a user with the NKey."""
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f"authorization {{ users = [{{user: worker, password: pass}}, {{nkey: {key_file[1]}}}] }}"
    )
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(configuration)))
    server.start()
    yield server
    server.stop()


async def test_user_and_password(strict_server: NatsServer) -> None:
    settings = BrokerSettings(url=strict_server.url, user="worker", password="pass")
    async with connected(settings, name="test", once=True) as broker:
        assert broker.connected


async def test_nkey_file(strict_server: NatsServer, key_file: tuple[Path, str]) -> None:
    settings = BrokerSettings(url=strict_server.url, nkey=key_file[0])
    async with connected(settings, name="test", once=True) as broker:
        assert broker.connected


async def test_the_error_for_a_wrong_password_does_not_show_it(
    strict_server: NatsServer,
) -> None:
    settings = BrokerSettings(url=strict_server.url, user="worker", password="hunter2")
    with pytest.raises(BrokerUnreachable, match=r"(?i)authorization violation") as caught:
        await connect(settings, name="test", once=True)
    assert "hunter2" not in str(caught.value)


async def test_tls_with_a_private_ca(tmp_path: Path, certificates: Path) -> None:
    arguments = ("--tls", "--tlscert", str(certificates / "cert.pem"))
    server = NatsServer(
        tmp_path / "nats",
        extra_arguments=(*arguments, "--tlskey", str(certificates / "key.pem")),
    )
    server.start()
    try:
        trusted = BrokerSettings(url=server.url, ca=certificates / "cert.pem")
        async with connected(trusted, name="test", once=True) as broker:
            assert broker.connected
        with pytest.raises(BrokerUnreachable, match="certificate"):
            await connect(BrokerSettings(url=server.url), name="test", once=True)
    finally:
        server.stop()


async def test_missing_files_are_named() -> None:
    for name in ("creds", "nkey", "ca"):
        settings = BrokerSettings.model_validate({name: "/no/such/file"})
        with pytest.raises(UsageError, match=f"NATS_{name.upper()}"):
            await connect(settings, name="test", once=True)


async def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """It is an error of usage: connecting is not retried."""
    for name in ("creds", "nkey"):
        settings = BrokerSettings.model_validate({name: tmp_path})
        with pytest.raises(UsageError, match=f"NATS_{name.upper()}: .* cannot be read: Is a dir"):
            await connect(settings, name="test")


async def test_a_missing_server_is_an_error_with_once() -> None:
    with pytest.raises(BrokerUnreachable, match=r"no NATS at nats://127.0.0.1:9: .*NATS_URL"):
        await connect(BrokerSettings(url="nats://127.0.0.1:9"), name="test", once=True)


async def test_connect_waits_for_a_server_that_starts_later(nats_server: NatsServer) -> None:
    nats_server.kill()
    refused = asyncio.Event()

    async def on_waiting(reason: str) -> None:
        refused.set()

    attempt = asyncio.create_task(
        connect(BrokerSettings(url=nats_server.url), name="test", on_waiting=on_waiting)
    )
    await soon(refused.wait(), 10)
    nats_server.start()
    broker = await soon(attempt, 20)
    assert broker.connected
    await broker.close()


async def test_a_killed_server_is_survived(nats_server: NatsServer, ready_broker: Broker) -> None:
    back = asyncio.Event()
    ready_broker.on_reconnect.add(back.set)
    nats_server.kill()
    nats_server.start()
    await soon(back.wait(), 20)
    assert await ready_broker.client.jetstream().account_info()


async def test_closing_while_the_connection_is_lost(nats_server: NatsServer) -> None:
    async with NatsProxy(nats_server.port) as proxy:
        broker = await connect(BrokerSettings(url=proxy.url), name="test", once=True)
        proxy.cut()
        while not broker.client.is_reconnecting:
            await asyncio.sleep(0)
        await broker.close()
        assert broker.client.is_closed


async def drop_cancellation(awaited: Awaitable[Any], timeout: float | None) -> Any:
    """Wait as asyncio.wait_for does on Python 3.11 if the result arrives with a cancellation."""
    inner = asyncio.ensure_future(awaited)
    async with asyncio.timeout(timeout):
        while not inner.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(inner)
    return inner.result()


async def test_nothing_goes_on_after_a_close_in_any_moment_of_a_reconnection(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py does not notice that it is to stop, and goes on to connect."""
    monkeypatch.setattr(vars(nats.aio.client)["asyncio"], "wait_for", drop_cancellation)
    async with NatsProxy(nats_server.port) as proxy:
        for moment in range(40):
            before = asyncio.all_tasks()
            broker = await connect(BrokerSettings(url=proxy.url), name="test", once=True)
            broker.client.pause = lambda servers: 0.0
            accepted = proxy.accepted
            proxy.cut()
            proxy.heal()
            while proxy.accepted == accepted:
                await asyncio.sleep(0)
            await asyncio.sleep(moment / 5000)  # the moment; a reconnection takes a few ms
            await broker.close()
            assert broker.client.is_closed
            await asyncio.sleep(0.01)  # what goes on shows itself
            left = [one for one in asyncio.all_tasks() - before if "Client." in repr(one)]
            assert not left, (moment, left)
            await until(lambda: not proxy.connections, "no connection is left")


@pytest.mark.parametrize("canceled", ["once", "in each step", "with all tasks"])
async def test_a_close_that_is_canceled_closes(nats_server: NatsServer, canceled: str) -> None:
    """All tasks are canceled when a program ends."""
    others = asyncio.all_tasks()
    for steps in range(100):
        broker = await connect(BrokerSettings(url=nats_server.url), name="test", once=True)
        socket = broker.client.socket
        closing = asyncio.create_task(broker.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - others if canceled == "with all tasks" else [closing]:
            task.cancel()
        while canceled == "in each step" and not closing.done():
            closing.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({closing})
        if not steps:  # it has not even begun
            await broker.close()
        assert broker.client.is_closed
        assert socket is not None
        assert socket.is_closing()


async def test_no_reply_is_awaited_after_a_reconnect(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    async with (
        NatsProxy(nats_server.port) as proxy,
        connected(BrokerSettings(url=proxy.url), name="near", once=True) as near,
    ):
        lost = proxy.after("stt.transcript.>")
        js = near.client.jetstream()
        with pytest.raises(TimeoutError):
            async with near.within_connection():
                await js.publish("stt.transcript.t.c.s.final", b"", timeout=100)
        assert lost.fired.is_set()
        assert near.connected
        async with near.within_connection():
            await js.publish("stt.transcript.t.c.s.final", b"")
        assert not near.on_reconnect


async def test_a_server_that_is_down_is_passed_over(nats_server: NatsServer) -> None:
    """nats-py tries the servers in random order."""
    settings = BrokerSettings(url=f"nats://127.0.0.1:9,{nats_server.url}")
    for _ in range(8):
        async with connected(settings, name="test", once=True) as broker:
            assert broker.connected
    with pytest.raises(BrokerUnreachable, match="connection refused"):
        await connect(BrokerSettings(url="nats://127.0.0.1:9,nats://127.0.0.1:1"), name="test",
                      once=True)  # fmt: skip


async def test_a_server_that_refuses_is_asked_less_and_less_often(
    nats_server: NatsServer, broker: Broker
) -> None:
    refused: list[float] = []

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refused.append(time.monotonic())
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        writer.close()

    nats_server.kill()
    async with await asyncio.start_server(refuse, "127.0.0.1", nats_server.port):
        await until(lambda: len(refused) >= 5, "five attempts")
    # The last pauses are at least 0.4, 0.8 and 1.6 s.
    assert refused[4] - refused[1] >= 2.8
    assert broker.trouble is not None
    assert broker.attempts.failures.total() >= 4
    nats_server.start()
    await until(lambda: broker.connected, "it reconnects")
    assert broker.trouble is None


async def test_connecting_can_be_cancelled_at_any_moment() -> None:
    """Without a server an attempt fails within two milliseconds; cancel around that time."""
    settings = BrokerSettings(url="nats://127.0.0.1:1")
    for moment in range(200):
        connecting = asyncio.create_task(connect(settings, name="test"))
        await asyncio.sleep(moment % 40 * 0.0002)
        connecting.cancel()
        done, _ = await asyncio.wait({connecting}, timeout=bound(5))
        assert done, "the cancellation was swallowed"


async def test_connected_is_true_only_after_the_reconnect_callbacks(
    nats_server: NatsServer, broker: Broker
) -> None:
    called: list[int] = []
    broker.on_reconnect.add(lambda: called.append(broker.reconnects))
    nats_server.kill()
    async with within(30):
        while broker.connected:
            await asyncio.sleep(0)
        nats_server.start()
        while not broker.connected:
            await asyncio.sleep(0)
    assert called == [1]
