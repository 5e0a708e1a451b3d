"""The process of `natterjack webhook`: killed, cut off, stopped and misused."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker, connected
from natterjack.broker.roles import User
from natterjack.broker.streams import ensure
from natterjack.consume.durable import durable
from natterjack.events import DurableEvent
from natterjack.settings import BrokerSettings, StreamSettings
from tests.nats_server import NatsServer
from tests.waiting import soon, until

from ..cli.commands import Command, run, run_async
from ..cli.ports import get
from ..consume.events import ServerWithUsers
from .events import by_session, final, interleaved, publish, status
from .receiver import SECRET, Receiver, always

SESSIONS = "abcdef"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def environment(
    receiver: Receiver, broker_settings: BrokerSettings, tmp_path: Path
) -> dict[str, str]:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return {
        "NATS_URL": broker_settings.url,
        "NATTERJACK_LOG_FORMAT": "json",
        "WEBHOOK_URL": receiver.url,
        "WEBHOOK_SECRET_FILE": str(file),
        "WEBHOOK_ALLOW_PRIVATE": "true",
        "WEBHOOK_HTTP_PORT": "0",
        "WEBHOOK_FROM_START": "true",
    }


def webhook(environment: dict[str, str]) -> Command:
    return Command("webhook", terminal=False, folder="", **environment)


async def ready(command: Command) -> bool:
    return (await get(command, "/readyz"))[0] == 200


async def stored(broker: Broker, event: DurableEvent) -> None:
    """Publish an event until the broker has stored it, as a worker does."""
    while True:
        try:
            await publish(broker, [event])
            return
        except (NatsError, TimeoutError):
            await broker.wait_connected()


@pytest.mark.slow
async def test_kills_of_the_process_and_of_the_broker_lose_nothing_and_keep_the_order(
    ready_broker: Broker,
    nats_server: NatsServer,
    receiver: Receiver,
    environment: dict[str, str],
) -> None:
    async def speak(finals: range) -> None:
        for event in interleaved(SESSIONS, finals):
            await stored(ready_broker, event)

    for kill in range(5):
        before = len(receiver.ids)
        async with webhook(environment) as command, asyncio.TaskGroup() as tasks:
            tasks.create_task(speak(range(6 * kill, 6 * kill + 6)))
            await until(lambda n=before: len(receiver.ids) >= n + 8, "some of 36 events", 60)
            if kill % 2:
                nats_server.kill()
                await until(lambda: not ready_broker.connected, "the broker is gone")
                nats_server.start()
            command.signal(signal.SIGKILL)
            assert await command.status() == -signal.SIGKILL
    async with webhook(environment) as command, asyncio.TaskGroup() as tasks:
        tasks.create_task(speak(range(30, 36)))
        await until(lambda: len(receiver.ids) > 30 * len(SESSIONS), "it goes on", 60)
        nats_server.kill()
        await until(lambda: not ready_broker.connected, "the broker is gone")
        nats_server.start()
        await until(lambda: len(receiver.ids) == 36 * len(SESSIONS), "all of them", 90)
        await until(lambda: ready(command), "it can store its progress", 60)
        command.signal(signal.SIGTERM)
        assert await command.status() == 0
    assert by_session(receiver.ids) == {session: list(range(36)) for session in SESSIONS}
    contents = {one.id: one.event for one in receiver.received}
    assert all(contents[one.id] == one.event for one in receiver.received)
    received = len(receiver.received)
    async with webhook(environment) as command:  # after a stop in good order
        await stored(ready_broker, final("g", 0))
        await until(lambda: "session-g:0" in receiver.ids, "the next event")
    assert len(receiver.received) == received + 1, "nothing is sent again"


@pytest.mark.slow
async def test_two_processes_share_the_work_and_one_finishes_that_of_the_other(
    ready_broker: Broker, receiver: Receiver, environment: dict[str, str]
) -> None:
    sessions = "abcdefghijkl"
    async with webhook(environment) as one, webhook(environment) as two:
        await until(lambda: "sending events" in one.errors and "sending events" in two.errors, "")
        for event in interleaved(sessions, range(20)):
            await stored(ready_broker, event)
        one.signal(signal.SIGKILL)
        await publish(ready_broker, interleaved(sessions, range(20, 25)))
        await until(lambda: len(receiver.ids) == 25 * len(sessions), "all of them", 60)
    assert by_session(receiver.ids) == {session: list(range(25)) for session in sessions}


async def test_probes_metrics_and_the_end(
    ready_broker: Broker,
    nats_server: NatsServer,
    receiver: Receiver,
    environment: dict[str, str],
) -> None:
    await publish(ready_broker, [final("a", 0)])
    async with webhook(environment) as command:
        await until(lambda: receiver.accepted, "an event")
        assert await get(command, "/livez") == (200, "ok\n")
        assert await get(command, "/readyz") == (200, "ok\n")

        async def sent() -> bool:
            _, text = await get(command, "/metrics")
            return 'natterjack_webhook_sent_total{name="webhook"} 1.0' in text

        await until(sent, "it is counted")
        nats_server.stop()

        async def unready() -> bool:
            code, text = await get(command, "/readyz")
            return code == 503 and text.startswith("no NATS")

        await until(unready, "it says that NATS is away")
        assert (await get(command, "/livez"))[0] == 200
        nats_server.start()
        await until(lambda: ready_broker.connected, "NATS is back")
        receiver.answer = always(410)
        await stored(ready_broker, status("a", 1, "closed"))

        async def gone() -> bool:
            return (await get(command, "/readyz")) == (503, "the receiver has answered 410 Gone\n")

        await until(gone, "it says why nothing is sent")
        command.signal(signal.SIGTERM)
        assert await command.status() == 0
    assert SECRET not in command.errors + command.out
    assert "in-the-url" not in command.errors, "the URL's query may be a secret, too"
    assert f"127.0.0.1:{receiver.port}/hook" in command.errors


async def test_dead_letters_are_listed_and_sent_again(
    ready_broker: Broker, receiver: Receiver, environment: dict[str, str]
) -> None:
    nothing = await run_async("webhook", "dead-letters", "list", **environment)
    assert (nothing.status, nothing.out) == (0, "")
    assert "no dead letters of webhook" in nothing.errors
    await publish(ready_broker, [final("a", 0), final("a", 1), final("b", 0)])
    async with durable("webhook", start="start", broker=ready_broker) as deliveries:
        for _ in range(3):
            delivery = await soon(anext(deliveries), 30)
            await delivery.reject("HTTP 500 Internal Server Error, 152 times")
    listed = await run_async("webhook", "dead-letters", "list", **environment)
    head, *rows = listed.out.splitlines()
    assert head.split() == ["REJECTED", "EVENT", "SESSION", "REASON"]
    assert len(rows) == 3
    assert all("HTTP 500" in row for row in rows)
    as_json = await run_async("webhook", "dead-letters", "list", "--json", **environment)
    letters = [json.loads(line) for line in as_json.out.splitlines()]
    assert sorted(letter["id"] for letter in letters) == [
        "session-a:0", "session-a:1", "session-b:0",
    ]  # fmt: skip
    assert letters[0]["event"]["text"] == "final 0 ü"

    receiver.answer = always(503)
    failed = await run_async("webhook", "dead-letters", "send", **environment)
    assert failed.status == 1
    assert "was not accepted, after 0 were: HTTP 503 Service Unavailable" in failed.errors
    assert len(receiver.received) == 1
    receiver.answer = always(204)
    done = await run_async("webhook", "dead-letters", "send", **environment)
    assert (done.status, done.out) == (0, "3 sent\n")
    assert by_session(receiver.ids) == {"a": [0, 1], "b": [0]}
    left = await run_async("webhook", "dead-letters", "list", **environment)
    assert left.out == ""


OPERATOR, WORKER = User("operator"), User("worker")
CRM, OTHER = (User("subscriber", n, "t", durable=d) for n, d in (("crm", "crm"), ("other", None)))


@pytest.mark.process
async def test_a_user_with_no_more_rights_than_needed(
    receiver: Receiver, environment: dict[str, str], tmp_path: Path
) -> None:
    server = ServerWithUsers(tmp_path / "users", (OPERATOR, WORKER, CRM, OTHER))
    server.start()

    def as_user(user: User) -> dict[str, str]:
        names = {"USER": user.id, "PASSWORD": user.id, "INBOX_PREFIX": user.inbox_prefix}
        nats = {f"NATS_{name}": value for name, value in names.items()}
        mine = {"WEBHOOK_NAME": "crm", "WEBHOOK_TENANT": "t", "NATS_URL": server.url}
        return {**environment, **nats, **mine}

    try:
        async with connected(server.settings(OPERATOR), name="operator", once=True) as operator:
            await ensure(operator, StreamSettings())
        async with connected(server.settings(WORKER), name="worker", once=True) as worker:
            await publish(worker, [final("a", 0), status("a.b", 1, "closed"), final("a", 2)])
            async with webhook(as_user(CRM)) as command:
                await until(lambda: len(receiver.ids) == 2, "both that can be signed", 60)
                await until(lambda: "it is a dead letter now" in command.errors, "the third", 60)
        listed = await run_async("webhook", "dead-letters", "list", **as_user(CRM))
        assert "its ID cannot be signed" in listed.out
        left = await run_async("webhook", "dead-letters", "send", **as_user(OPERATOR))
        assert left.out == "0 sent, 1 left, which cannot be sent\n"
        async with webhook(as_user(OTHER)) as command:
            assert await command.status() == 2
        assert "natterjack users add subscriber --durable crm" in command.errors
        refused = await run_async("webhook", "dead-letters", "list", **as_user(OTHER))
        assert refused.status == 2
        assert "may not" in refused.errors
    finally:
        server.stop()


@pytest.mark.process
def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from natterjack.cli.main import main\n"
        "main(['webhook', '--url', 'https://example.org'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "natterjack webhook: the module aiohttp is missing: pip install 'natterjack[webhook]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "WEBHOOK_URL is not set: say where events are sent with --url"),
        (["--url", "https://example.org"], "there is no secret to sign with"),
        (["--url", "https://10.0.0.1"], "10.0.0.1 is a private address"),
        (["--url", "https://example.org", "--tenant", "a.b"], "tenant 'a.b' is not valid"),
        (["--url", "https://example.org", "--secret-file", "/nowhere"], "cannot read /nowhere"),
        (["dead-letters", "send"], "WEBHOOK_URL is not set"),
    ],
)
def test_mistakes(arguments: list[str], problem: str) -> None:
    secret = {} if "no secret" in problem else {"WEBHOOK_SECRET": SECRET}
    done = run("webhook", *arguments, NATS_URL="nats://127.0.0.1:1", **secret)
    assert done.status == 2
    assert problem in done.errors
    assert len(done.errors.splitlines()) == 1
