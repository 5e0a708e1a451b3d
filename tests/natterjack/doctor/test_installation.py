"""Checks of the broker, of workers and of the gateway: what they need is really missing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from natterjack.broker.connection import Broker, connected
from natterjack.broker.roles import User
from natterjack.broker.streams import ensure
from natterjack.doctor import installation
from natterjack.doctor.finding import Finding
from natterjack.doctor.run import examine
from natterjack.fleet.roster import WorkerPage
from natterjack.settings import BrokerSettings, StreamSettings
from tests.nats_server import NatsServer
from tests.natterjack.consume.events import ServerWithUsers
from tests.ports import free_port
from tests.waiting import bound

pytestmark = pytest.mark.process


async def found(settings: BrokerSettings, timeout: float = 5) -> dict[str, Finding]:
    findings = await examine(settings, {"GATEWAY_HTTP_PORT": str(free_port())}, bound(timeout))
    return {finding.check: finding for finding in findings}


def states(findings: dict[str, Finding]) -> list[str]:
    names = ("broker", "jetstream", "streams", "rights", "workers", "clock")
    return [findings[name].state for name in names]


async def test_nobody_listens() -> None:
    findings = await found(BrokerSettings(url=f"nats://me:s@secret@127.0.0.1:{free_port()}"))
    assert states(findings) == ["failed", *["skipped"] * 5]
    assert "connection refused" in findings["broker"].found
    assert "secret" not in str(findings)
    assert "natterjack up" in findings["broker"].cure


async def test_what_listens_is_silent_or_no_broker() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        findings = await found(BrokerSettings(url=f"nats://127.0.0.1:{port}"), 1)
    assert findings["broker"].state == "failed"
    assert states(findings)[1:] == ["skipped"] * 5


async def test_a_fresh_broker_has_no_streams_and_no_workers(
    broker_settings: BrokerSettings,
) -> None:
    findings = await found(broker_settings)
    assert states(findings) == ["ok", "ok", "warning", "ok", "warning", "skipped"]
    assert "everything" in findings["rights"].found
    assert "streams apply" in findings["streams"].cure


async def test_everything_is_there(ready_broker: Broker, broker_settings: BrokerSettings) -> None:
    now = datetime.now(UTC)
    page = WorkerPage(instance="w1", worker="w", at=now, started_at=now, slots=5, draining=True)
    js = ready_broker.client.jetstream()
    await js.publish("$KV.stt_workers.w1.0", page.model_dump_json().encode())
    old = page.model_copy(update={"instance": "w0", "at": now - timedelta(minutes=1)})
    await js.publish("$KV.stt_workers.w0.0", old.model_dump_json().encode())
    findings = await found(broker_settings)
    assert states(findings) == ["ok"] * 6
    assert findings["workers"].found == "1 with 0 sessions, 1 of them draining"
    assert "the broker's" in findings["clock"].found
    assert findings["gateway"].state == "skipped"


async def test_streams_that_differ_or_are_missing(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    js = ready_broker.client.jetstream()
    config = (await js.stream_info("STT_AUDIO")).config
    await js.update_stream(config.evolve(allow_direct=False))
    await js.delete_stream("STT_TRANSCRIPTS")
    streams = (await found(broker_settings))["streams"]
    assert streams.state == "failed"
    assert "STT_AUDIO: allow_direct is False, wanted True" in streams.found
    assert "STT_TRANSCRIPTS: missing" in streams.found
    assert "streams apply" in streams.cure


async def test_without_jetstream(tmp_path: Path) -> None:
    class Plain(NatsServer):
        def store_arguments(self) -> tuple[str | Path, ...]:
            return ()

    server = Plain(tmp_path / "plain")
    server.start()
    try:
        findings = await found(BrokerSettings(url=server.url))
    finally:
        server.stop()
    assert (findings["broker"].state, findings["jetstream"].state) == ("ok", "failed")
    assert "-js" in findings["jetstream"].cure
    assert all("Traceback" not in finding.found for finding in findings.values())
    assert all("itself failed" not in finding.found for finding in findings.values())


OPERATOR = User("operator")
USERS = [OPERATOR, User("worker"), User("edge", name="e", tenant="acme")]


@pytest.fixture
async def users(tmp_path: Path) -> AsyncIterator[ServerWithUsers]:
    server = ServerWithUsers(tmp_path / "users", USERS)
    server.start()
    try:
        async with connected(server.settings(OPERATOR), name="test", once=True) as broker:
            await ensure(broker, StreamSettings())
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.id)
async def test_users_with_few_rights_are_told_what_they_cannot_check(
    users: ServerWithUsers, user: User
) -> None:
    findings = await found(users.settings(user))
    assert findings["broker"].state == "ok"
    assert "failed" not in states(findings), findings
    for finding in findings.values():
        if finding.state == "skipped" and finding.check in ("streams", "workers"):
            assert "may not" in finding.found


async def test_a_wrong_password(users: ServerWithUsers) -> None:
    settings = users.settings(OPERATOR).model_copy(update={"user": "nobody"})
    findings = await found(settings)
    assert findings["broker"].state == "failed"
    assert "NATS_CREDS" in findings["broker"].cure


@contextlib.asynccontextmanager
async def answering(status: int, text: str = "") -> AsyncIterator[dict[str, str]]:
    """A server that answers /readyz so; the variables under which the gateway would be there."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/readyz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := free_port())
    await site.start()
    try:
        yield {"GATEWAY_HTTP_PORT": str(port)}
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("status", "state"), [(200, "ok"), (503, "failed"), (404, "skipped")])
async def test_what_listens_on_the_gateway_s_port(status: int, state: str) -> None:
    async with answering(status, "no connection to NATS") as environment:
        finding = await installation.gateway(environment)
    assert finding.state == state


async def test_a_gateway_that_speaks_something_else() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        finding = await installation.gateway({"GATEWAY_HTTP_PORT": str(port)})
    assert finding.state == "warning"
    assert (await installation.gateway({"GATEWAY_HTTP_PORT": "x"})).state == "skipped"


def test_findings_become_json() -> None:
    finding = Finding("a", "failed", "b", "c")
    assert json.loads(json.dumps(dataclasses.asdict(finding)))["state"] == "failed"
