"""The examples that read transcripts, each as a user with no more rights than it needs, while the
broker is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from natterjack.broker.connection import Broker, connected
from natterjack.broker.roles import User
from natterjack.broker.streams import ensure
from natterjack.settings import StreamSettings
from natterjack.subjects import SessionKey
from tests.forking import Process, launch
from tests.nats_server import NatsServer
from tests.natterjack.consume.events import ServerWithUsers
from tests.ports import free_port
from tests.waiting import until, within

from .by_hand import Session

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = SessionKey("t", "c", "caller")

pytestmark = [pytest.mark.process, pytest.mark.interpreter]


OPERATOR, WORKER = User("operator"), User("worker")
READERS = {
    "agent_assist.py": User("subscriber", name="assist", tenant="t", conversation="c"),
    "captions_page.py": User("subscriber", name="captions", tenant="t", conversation="c"),
    "talk_time.py": User("subscriber", name="talk", tenant="t", kinds=("final",)),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerWithUsers]:
    server = ServerWithUsers(tmp_path / "nats", (OPERATOR, WORKER, *READERS.values()))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def worker(server: ServerWithUsers) -> AsyncIterator[Broker]:
    """The connection of a worker, after an operator has made the streams."""
    async with connected(server.settings(OPERATOR), name="operator", once=True) as operator:
        await ensure(operator, StreamSettings())
    async with connected(server.settings(WORKER), name="worker", once=True) as worker:
        yield worker


@contextlib.contextmanager
def running(server: ServerWithUsers, example: str, *arguments: str) -> Iterator[Process]:
    """An example, with its output in a pipe."""
    settings = server.settings(READERS[example])
    assert settings.password is not None
    env = {
        **os.environ, "NATS_URL": settings.url, "NATS_USER": str(settings.user),
        "NATS_PASSWORD": settings.password.get_secret_value(),
        "NATS_INBOX_PREFIX": settings.inbox_prefix,
    }  # fmt: skip
    process = launch((str(EXAMPLES / example), *arguments), env=env, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def output(process: Process) -> list[dict[str, Any]]:
    """Wait for the end of an example that prints JSON."""
    assert process.stdout is not None
    async with within(60):
        text = await asyncio.to_thread(process.stdout.read)
    assert process.wait() == 0
    return [json.loads(line) for line in text.splitlines()]


async def restart(server: NatsServer, broker: Broker) -> None:
    server.kill()
    await until(lambda: not broker.connected, "the connection is lost")
    await asyncio.to_thread(server.start)
    await broker.wait_connected()


async def test_agent_assist_answers_each_turn_once(server: ServerWithUsers, worker: Broker) -> None:
    session = Session(worker, KEY, "session-1")
    with running(server, "agent_assist.py", *KEY) as example:
        for turn in range(3):
            await session.turn("started")
            await session.final("I forgot")
            if turn:
                await restart(server, worker)
            await session.final(f"my password, number {turn}")
            await session.turn("ended")
        await session.closed()
        answers = await output(example)
    assert [answer["question"] for answer in answers] == [
        f"I forgot my password, number {turn}" for turn in range(3)
    ]
    assert {tuple(answer["articles"]) for answer in answers} == {("How to set a new password",)}


async def test_talk_time_adds_up_all_that_is_stored(
    server: ServerWithUsers, worker: Broker
) -> None:
    for speaker, count in (("caller", 3), ("agent", 5)):
        session = Session(worker, KEY._replace(speaker=speaker), f"of-{speaker}")
        for _ in range(count):
            await session.final("two words")
    with running(server, "talk_time.py", "t") as example:
        rows = await output(example)
    assert [(row["speaker"], row["seconds"], row["words"]) for row in rows] == [
        ("agent", 5.0, 10), ("caller", 3.0, 6),
    ]  # fmt: skip


async def test_the_captions_page_shows_each_line_once_over_a_restart_of_the_broker(
    server: ServerWithUsers, worker: Broker
) -> None:
    port = free_port()
    caller = Session(worker, KEY, "session-1")
    agent = Session(worker, KEY._replace(speaker="agent"), "session-2")
    with running(server, "captions_page.py", "t", "c", str(port)):
        await caller.final("Hello.")
        async with aiohttp.ClientSession() as client, captions(client, port) as shown:
            await until(lambda: ["caller", "Hello.", True] in shown[-1], "the first line")
            await agent.interim("Good mor")
            await until(lambda: ["agent", "Good mor", False] in shown[-1], "an interim")
            await restart(server, worker)
            await agent.final("Good morning.")
            await caller.final("<b>Me</b> again.")
            wanted = [
                ["caller", "Hello.", True],
                ["agent", "Good morning.", True],
                ["caller", "<b>Me</b> again.", True],
            ]
            await until(lambda: shown[-1] == wanted, "each line once, in order")
            async with client.get(f"http://127.0.0.1:{port}/") as page:
                assert "textContent" in await page.text()


@contextlib.asynccontextmanager
async def captions(
    client: aiohttp.ClientSession, port: int
) -> AsyncIterator[list[list[list[Any]]]]:
    """Yield the captions that a viewer is shown, as one list of captions for each update."""
    shown: list[list[list[Any]]] = [[]]

    async def connect() -> aiohttp.ClientResponse | None:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            return await client.get(f"http://127.0.0.1:{port}/captions")
        return None

    response = await until(connect, "the page is served")

    async def read() -> None:
        async for line in response.content:
            if line.startswith(b"data: "):
                shown.append(json.loads(line.removeprefix(b"data: ")))

    reading = asyncio.create_task(read())
    try:
        yield shown
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        response.close()
