"""Checks of the way to a real broker, and of what its users may do there. Nothing is stored."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_capture.check import broker as checks
from edge_capture.check.network import Server, Way, servers
from edge_capture.check.run import Agent, examine
from edge_capture.settings import SpoolSettings
from natterjack.broker.connection import Broker, connected
from natterjack.broker.roles import User
from natterjack.broker.streams import AUDIO, SESSIONS, TRANSCRIPTS, ensure
from natterjack.doctor.finding import Finding
from natterjack.settings import BrokerSettings, StreamSettings
from tests.edge_capture.program import nothing_published
from tests.identities import Authority
from tests.nats_server import NatsServer
from tests.natterjack.broker.websocket.servers import WebSocketServer
from tests.natterjack.consume.events import ServerWithUsers
from tests.ports import free_port
from tests.waiting import bound, within

KEYS = (("acme", "s"),)
DAY = 86_400.0


def test_the_servers_of_a_url() -> None:
    assert servers("nats://a, tls://u:p@b:4333") == [
        Server("nats", "a", 4222),
        Server("tls", "b", 4333),
    ]
    assert servers("wss://a.example/nats") == [Server("wss", "a.example", 443)]
    (one,) = servers("tls://[::1]")
    assert one.place == "[::1]:4222"


async def test_names_that_do_not_exist() -> None:
    found = await Way(Server("nats", "absent.invalid", 4222), None).name()
    assert (found.state, found.check) == ("failed", "dns")
    assert "absent.invalid cannot be resolved" in found.found
    found = await Way(Server("nats", "127.0.0.1", 4222), None).name()
    assert found.state == "skipped"


@pytest.mark.process
async def test_a_port_that_is_closed_or_is_no_broker() -> None:
    (found,) = await Way(Server("nats", "127.0.0.1", free_port()), None).encryption()
    assert (found.state, "connection refused" in found.found) == ("failed", True)

    gone = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()
        gone.set()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        (found,) = await Way(Server("nats", "127.0.0.1", port), None).encryption()
        async with within(10):
            await gone.wait()
    assert (found.state, "does not answer as a NATS server" in found.found) == ("failed", True)


# ---- TLS -----------------------------------------------------------------------------------------


class TlsServer(NatsServer):
    """A server with a certificate of `authority`."""

    def __init__(self, home: Path, authority: Authority, until: float) -> None:
        home.mkdir()
        certificate, key = authority.issue("localhost", until=until)
        (home / "cert.pem").write_bytes(certificate)
        (home / "key.pem").write_bytes(key)
        (home / "nats.conf").write_text(
            f'tls {{ cert_file: "{home}/cert.pem", key_file: "{home}/key.pem" }}\n'
        )
        super().__init__(home / "store", extra_arguments=("-c", str(home / "nats.conf")))


@pytest.mark.process
async def test_the_servers_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    server = TlsServer(tmp_path / "home", authority, time.time() + 3.5 * DAY)
    server.start()
    try:
        way = Server("tls", "localhost", server.port)
        tls, certificate = await Way(way, context).encryption()
        assert (tls.state, "TLSv1" in tls.found) == ("ok", True)
        assert (certificate.check, certificate.state) == ("server certificate", "warning")
        # 3.5 is rounded to either side.
        assert certificate.found.startswith(("valid for 3 more days", "valid for 4 more days"))
        # A server that requires TLS is asked for it, whatever the URL says.
        assert len(await Way(way._replace(scheme="nats"), context).encryption()) == 2
        (found,) = await Way(way, None).encryption()
        assert (found.state, "NATS_CA" in found.cure) == ("failed", True)
    finally:
        server.stop()


@pytest.mark.process
async def test_an_expired_certificate_and_websocket(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = TlsServer(tmp_path / "home", authority, time.time() - 60)
    web = WebSocketServer(tmp_path / "web", authority)
    context = ssl.create_default_context(cafile=str(web.ca))
    server.start()
    web.start()
    try:
        (found,) = await Way(Server("tls", "localhost", server.port), context).encryption()
        assert (found.state, "certificate has expired" in found.found) == ("failed", True)
        assert "renew" in found.cure
        (way,) = servers(web.url)
        found, certificate = await Way(way, context).encryption()
        assert (found.state, certificate.check) == ("ok", "server certificate")
    finally:
        server.stop()
        web.stop()


# ---- users ---------------------------------------------------------------------------------------

EDGE = User("edge", name="e", tenant="acme")
OTHER = User("edge", name="e", tenant="other")
SUBSCRIBER = User("subscriber", name="r")
OPERATOR = User("operator")


@pytest.fixture
async def users(tmp_path: Path) -> AsyncIterator[ServerWithUsers]:
    server = ServerWithUsers(tmp_path / "users", [EDGE, OTHER, SUBSCRIBER, OPERATOR])
    server.start()
    try:
        async with connected(server.settings(OPERATOR), name="test", once=True) as broker:
            await ensure(broker, StreamSettings())
        yield server
    finally:
        server.stop()


async def found(settings: BrokerSettings) -> dict[str, list[Finding]]:
    by_name: dict[str, list[Finding]] = {}
    for finding in await checks.examine(settings, "e", KEYS, bound(10)):
        by_name.setdefault(finding.check, []).append(finding)
    return by_name


@pytest.mark.process
async def test_users(users: ServerWithUsers) -> None:
    edge = await found(users.settings(EDGE))
    assert list(edge) == ["broker", "streams", "rights", "clock"]
    assert [each.state for all_ in edge.values() for each in all_] == ["ok"] * 4
    assert "and nothing more" in edge["rights"][0].found
    other = await found(users.settings(OTHER))
    assert [each.state for each in other["streams"]] == ["failed"]
    assert "may not publish to stt.session.acme." in other["streams"][0].found
    assert "EDGE_TENANT" in other["streams"][0].cure
    assert [each.state for each in other["rights"]] == ["failed"]
    # One that may not ask: its subscriptions are tried.
    subscriber = await found(users.settings(SUBSCRIBER))
    asked, without, more = subscriber["rights"]
    assert (asked.state, without.state, more.state) == ("skipped", "warning", "warning")
    assert "notice another agent on its key" in without.found
    assert "read the transcripts of all tenants" in more.found
    assert "listen to the audio" not in more.found
    assert subscriber["clock"][0].state == "skipped"
    wrong = users.settings(EDGE).model_copy(update={"user": "nobody"})
    assert [each.state for all_ in (await found(wrong)).values() for each in all_] == [
        "failed", "skipped", "skipped", "skipped",
    ]  # fmt: skip
    async with connected(users.settings(OPERATOR), name="test", once=True) as broker:
        assert await nothing_published(broker)


@pytest.mark.process
async def test_streams_that_are_missing(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    everything = await found(broker_settings)
    assert everything["streams"][0].state == "ok"
    assert [each.state for each in everything["rights"]] == ["ok", "warning"]
    assert "listen to the audio of all tenants" in everything["rights"][1].found
    assert await nothing_published(ready_broker)
    js = ready_broker.client.jetstream()
    for stream in (AUDIO, SESSIONS, TRANSCRIPTS):
        await js.delete_stream(stream)
    (streams,) = (await found(broker_settings))["streams"]
    assert (streams.state, "streams apply" in streams.cure) == ("failed", True)
    for stream in (AUDIO, SESSIONS, TRANSCRIPTS):
        assert stream in streams.found


@pytest.mark.process
async def test_all_checks_without_an_input(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    agent = Agent("e", broker_settings, SpoolSettings(spool=tmp_path), KEYS, (), ("EDGE_X is not",))
    findings = await examine(agent, 1, bound(10))
    names = list(dict.fromkeys(each.check for each in findings))
    assert names == [
        "settings", "disk", "dns", "tls", "credentials", "broker", "streams", "rights", "clock",
    ]  # fmt: skip
    assert findings[0].state == "warning"
