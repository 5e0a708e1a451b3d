"""Conversations, transcript files, tokens and the fleet, to those who may have them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings
from natterjack.transcripts.files import FORMATS
from natterjack.values import Gap

from ...nats_server import NatsServer
from ...waiting import until
from ...worker.programs import Speaker, StartWorker
from ..process import GatewayProcess
from ..spoken import Spoken
from .conftest import Keys, call, viewing

pytestmark = pytest.mark.process

HOSTILE = "</script><img src=x onerror=alert(1)> & \u202e`*_|"


@pytest.fixture
async def locked(
    nats_server: NatsServer, ready_broker: Broker, keys: Keys
) -> AsyncIterator[GatewayProcess]:
    """A gateway with keys."""
    keys.add("nobody")
    process = GatewayProcess(nats_server.url, **keys.settings)
    await process.start()
    yield process
    await process.stop()


async def test_a_real_session_is_listed_while_it_is_open_and_after(
    gateway: GatewayProcess,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 8, tenant="default")

    async def listed() -> dict[str, object] | None:
        _, found, _ = await call(gateway, "/api/conversations")
        wanted = [c for c in found["conversations"] if c["last_words"]]
        wanted = [c for c in wanted if c["state"] == "streaming"]
        return wanted[0] if wanted else None

    await speaker.speak(end=False)
    one = await until(listed, "listed with its words")
    assert (one["conversation"], one["open"]) == ("c", True)
    (session,) = one["sessions"]
    assert (session["speaker"], session["provider"]) == ("s", "deepgram")
    assert session["worker"]
    _, fleet, _ = await call(gateway, "/api/fleet")
    assert fleet["workers"][0]["sessions"] == 1
    assert fleet["minutes"][-1]["sessions"] + fleet["minutes"][-2]["sessions"] >= 1
    assert sum(minute["finals"] for minute in fleet["minutes"]) >= 1
    assert any(minute["latency_p50"] for minute in fleet["minutes"])


async def test_an_ended_conversation_has_its_account(
    gateway: GatewayProcess, ready_broker: Broker
) -> None:
    spoken = Spoken(ready_broker, "c", "s", started=datetime.now(UTC) - timedelta(minutes=10))
    await spoken.status("assigned")
    await spoken.final("the last words", 4)
    await spoken.close(cost=0.25, gaps=[Gap(start=1, end=3, cause="edge")])
    _, found, _ = await call(gateway, "/api/conversations")
    (one,) = found["conversations"]
    assert not one["open"]
    assert one["cost"] == {"USD": 0.25}
    assert one["last_words"] == "the last words"
    assert one["sessions"][0]["gap_seconds"] == 2


async def test_transcripts_in_all_formats(gateway: GatewayProcess, ready_broker: Broker) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.final(f"hello {HOSTILE}")
    for form in FORMATS:
        url = f"/api/conversations/c/transcript.{form}"
        async with aiohttp.ClientSession() as client, client.get(gateway.http + url) as response:
            assert response.status == 200
            assert response.headers["Content-Disposition"] == f'attachment; filename="c.{form}"'
            assert response.headers["Cache-Control"] == "no-store"
            assert response.charset == "utf-8"
            text = await response.text()
        assert "hello" in text
    assert json.loads(text)["conversation"] == "c"


@pytest.mark.parametrize(
    "path",
    [
        "/api/conversations/none/transcript.txt",
        "/api/conversations/c/transcript.exe",
        "/api/conversations/a.b/transcript.txt",
        "/api/conversations/%3Cb%3E/events",
        "/api/conversations/*/events",
        "/pages/console.html",
        "/pages/..%2f__init__.py",
        "/pages/package.json",
        "/captions/%3Cscript%3E",
    ],
)
async def test_what_does_not_exist(gateway: GatewayProcess, path: str) -> None:
    status, found, response = await call(gateway, path)
    assert status == 404
    assert response.content_type != "text/html" or "<script" not in found


async def test_nobody_gets_anything_without_a_key(locked: GatewayProcess) -> None:
    for path in ("me", "conversations", "fleet", "conversations/c/events",
                 "conversations/c/transcript.txt"):  # fmt: skip
        status, found, response = await call(locked, f"/api/{path}")
        assert (status, response.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert found["error"]
        status, _, _ = await call(locked, f"/api/{path}", "nj_00000000_" + "x" * 43)
        assert status in (401, 429)
    assert (await call(locked, "/"))[0] == 200  # the page asks for the key


async def test_another_tenants_conversation_does_not_exist(
    locked: GatewayProcess, ready_broker: Broker, keys: Keys
) -> None:
    mine, theirs = keys.add("mine"), keys.add("theirs")
    await Spoken(ready_broker, "secret", "s", tenant="theirs").final("their words")

    async def readable() -> bool:
        return (await call(locked, "/api/me", theirs))[0] == 200

    await until(readable, "the gateway has read the keys")
    path = "/api/conversations/secret/transcript.txt"
    assert "their words" in (await call(locked, path, theirs))[1]
    assert (await call(locked, path, mine))[0] == 404
    assert (await call(locked, "/api/conversations", mine))[1]["conversations"] == []
    async with viewing(locked, "secret", key=mine) as viewer:
        assert (await viewer.next())["type"] == "caught_up"
    _, fleet, _ = await call(locked, "/api/fleet", mine)
    assert sum(minute["finals"] for minute in fleet["minutes"]) == 0


async def test_a_token_is_for_one_conversation_and_some_kinds(
    locked: GatewayProcess, ready_broker: Broker, keys: Keys
) -> None:
    key = keys.add("mine")
    for name in ("a", "b"):
        spoken = Spoken(ready_broker, name, "s", tenant="mine")
        await spoken.status("assigned")
        await spoken.final("words")

    async def readable() -> bool:
        return (await call(locked, "/api/me", key))[0] == 200

    await until(readable, "the gateway has read the keys")
    body = {"conversation": "a", "kinds": ["final"], "seconds": 60}
    status, made, _ = await call(locked, "/api/tokens", key, body)
    assert status == 201
    token = made["token"]
    _, me, _ = await call(locked, "/api/me", token)
    assert (me["conversation"], me["kinds"], me["doors"]) == ("a", ["final"], ["api"])
    async with viewing(locked, "a", key=token) as viewer:
        assert [m["type"] for m in await viewer.until("caught_up")] == ["final", "caught_up"]
    async with viewing(locked, "a", token=token) as viewer:  # of an EventSource
        assert (await viewer.next())["type"] == "final"
    assert (await call(locked, "/api/conversations/b/events", token))[0] == 404
    assert (await call(locked, "/api/conversations/b/transcript.txt", token))[0] == 404
    listed = (await call(locked, "/api/conversations", token))[1]["conversations"]
    assert [one["conversation"] for one in listed] == ["a"]
    assert (await call(locked, "/api/edges"))[0] in (401, 429)
    assert (await call(locked, "/api/edges", token))[0] == 403
    assert (await call(locked, "/api/edges", key))[1]["edges"] == []
    assert (await call(locked, "/api/tokens", token, {}))[0] == 403
    assert (await call(locked, f"/api/me?token={key}"))[0] == 401
    assert (await call(locked, f"/api/me?token={token}"))[0] == 200
    assert token not in str(locked.log)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"seconds": 10**9}, 400),
        ({"seconds": "soon"}, 400),
        ({"what": 1}, 400),
        ({"conversation": "a b"}, 403),
        ({"kinds": ["usage"]}, 403),
        ({"doors": ["twilio"]}, 403),
        ([], 400),
    ],
)
async def test_a_token_that_may_not_be_made(
    locked: GatewayProcess, keys: Keys, body: object, status: int
) -> None:
    key = keys.add("mine", kinds=("final", "interim"))

    async def readable() -> bool:
        return (await call(locked, "/api/me", key))[0] == 200

    await until(readable, "the gateway has read the keys")
    found, answer, _ = await call(locked, "/api/tokens", key, body)
    assert (found, bool(answer["error"])) == (status, True)


async def test_a_viewer_whose_token_ends_is_told(
    locked: GatewayProcess, ready_broker: Broker, keys: Keys
) -> None:
    key = keys.add("mine")

    async def readable() -> bool:
        return (await call(locked, "/api/me", key))[0] == 200

    await until(readable, "the gateway has read the keys")
    _, made, _ = await call(locked, "/api/tokens", key, {"seconds": 2})
    async with viewing(locked, "c", key=made["token"]) as viewer:
        found = await viewer.until("expired")
    assert found[-1] == {"type": "expired"}


async def test_a_gateway_without_a_broker_says_so_and_serves_its_pages() -> None:
    gateway = GatewayProcess("nats://127.0.0.1:1")
    await gateway.launch()
    try:

        async def answers() -> bool:
            try:
                return (await call(gateway, "/"))[0] == 200
            except aiohttp.ClientError:
                return False

        await until(answers, "the page is served")
        for path in ("conversations", "fleet", "edges", "conversations/c/events"):
            status, found, response = await call(gateway, f"/api/{path}")
            assert (status, response.headers["Retry-After"]) == (503, "2")
            assert "broker" in found["error"]
    finally:
        await gateway.stop()


async def test_pages_of_other_origins_read_answers_if_they_are_listed(
    nats_server: NatsServer, ready_broker: Broker, keys: Keys
) -> None:
    key = keys.add("mine")
    gateway = GatewayProcess(
        nats_server.url, **keys.settings, GATEWAY_ORIGINS="https://good.example"
    )
    await gateway.start()
    try:
        for origin, allowed in (("https://good.example", True), ("https://bad.example", False)):
            _, _, response = await call(gateway, "/api/me", key, Origin=origin)
            assert (response.headers.get("Access-Control-Allow-Origin") == origin) == allowed
        _, _, page = await call(gateway, "/captions/c")
        policy = page.headers["Content-Security-Policy"]
        assert "frame-ancestors 'self' https://good.example" in policy
    finally:
        await gateway.stop()
