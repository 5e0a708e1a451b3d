"""Captions on an edge's own output: with the right to it, without, and beside a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_capture.capture import captions as captions_module
from edge_capture.capture.captions import caption_output, show_captions
from edge_capture.delivery.link import Link
from natterjack.broker.connection import Broker, connected
from natterjack.broker.roles import User
from natterjack.consume.captions import Captions
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import FinalEvent, InterimEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.subjects import SessionKey
from tests.edge_capture.conftest import StartEdge
from tests.natterjack.consume.events import ServerWithUsers
from tests.waiting import until
from tests.worker.programs import WorkerProcess

WORKER = User("worker")
DISPLAY = User("edge", name="display", tenant="acme", speaker="s", captions=True)
DEAF = User("edge", name="deaf", tenant="acme")
KEY = SessionKey("acme", "room", "s")


@pytest.fixture
async def server(tmp_path: Path, processes: None) -> AsyncIterator[ServerWithUsers]:
    server = ServerWithUsers(tmp_path / "nats", (WORKER, DISPLAY, DEAF))
    server.start()
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def shown(
    server: ServerWithUsers, user: User, key: SessionKey = KEY
) -> AsyncIterator[tuple[io.StringIO, asyncio.Task[None]]]:
    """Yield the captions of a session that `user` sees, and the task that shows them."""
    out, link = io.StringIO(), Link(server.settings(user))
    async with asyncio.TaskGroup() as tasks:
        connecting = tasks.create_task(link.run())
        with Captions(out, names=None, states=False) as captions:
            showing = tasks.create_task(show_captions([key], link, captions))
            yield out, showing
            showing.cancel()
            connecting.cancel()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages of the captions."""
    return [r.message for r in caplog.records if r.name == captions_module.__name__]


async def speak(broker: Broker, key: SessionKey, sequence: int) -> None:
    """Publish an interim and a final as a worker does."""
    common = {
        **key._asdict(), "session_id": "session-1", "epoch": 1, "provider": "p",
        "published_at": datetime.now(UTC), "segment": sequence, "start": 61.5, "end": 62,
    }  # fmt: skip
    interim = InterimEvent(**common, text=f"interim {sequence}")
    final = FinalEvent(**common, text=f"final {sequence}", sequence=sequence)
    await broker.client.publish(f"stt.transcript.{key}.interim", interim.encode())
    await broker.client.publish(f"stt.transcript.{key}.final", final.encode())


async def test_an_edge_with_the_right_sees_its_own_sessions(
    server: ServerWithUsers, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a restart of the server. Those of others, and of another speaker, stay hidden."""
    async with (
        connected(server.settings(WORKER), name="worker") as worker,
        shown(server, DISPLAY) as (out, showing),
        shown(server, DISPLAY, SessionKey("acme", "room", "other")) as (hidden, refused),
    ):
        await until(refused.done, "it is refused")
        (warning,) = warnings(caplog)
        assert "stt.transcript.acme.room.other" in warning
        assert "natterjack users add edge --captions" in warning

        async def spoken(sequence: int, *, until_shown: str) -> None:
            async def published() -> bool:
                await worker.wait_connected()
                await speak(worker, KEY, sequence)
                await speak(worker, SessionKey("acme", "room", "other"), sequence)
                return until_shown in out.getvalue()

            await until(published, f"{until_shown!r} is shown", 30)

        await spoken(0, until_shown="final 0")
        server.kill()
        server.start()
        await spoken(1, until_shown="final 1")
        # Not a terminal: finals alone, each once, without control characters.
        assert [line.split() for line in out.getvalue().splitlines()] == [
            ["1:01.5", "final", "0"], ["1:01.5", "final", "1"],
        ]  # fmt: skip
        assert not showing.done()
        assert hidden.getvalue() == ""


async def test_an_edge_without_the_right_is_told_once_and_goes_on(
    server: ServerWithUsers, caplog: pytest.LogCaptureFixture
) -> None:
    async with shown(server, DEAF) as (out, showing):
        await until(showing.done, "it gives up")
        assert showing.exception() is None
    (warning,) = warnings(caplog)
    assert "the capture goes on" in warning
    assert out.getvalue() == ""


def test_lines_name_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    final = FinalEvent(
        **KEY._asdict(), session_id="session-1", epoch=1, provider="p", text="hello", sequence=0,
        published_at=datetime.now(UTC), segment=0, start=0, end=1,
    )  # fmt: skip
    other = KEY._replace(speaker="t")
    for keys in ([KEY], [KEY, other], [KEY, KEY._replace(conversation="hall")]):
        with caption_output(keys) as captions:
            captions.show(final)
    assert [line.split()[1:] for line in capsys.readouterr().out.splitlines()] == [
        ["hello"], ["s:", "hello"], ["room.s:", "hello"],
    ]  # fmt: skip


async def test_the_program_shows_what_a_worker_transcribes(
    tmp_path: Path, ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge
) -> None:
    words = tones.sequence(12)
    (tmp_path / "speech.raw").write_bytes(tones.encode(words, phrase_words=4))
    async with DeepgramEmulator() as emulator:
        worker = WorkerProcess(nats_server.url, emulator.url)
        await worker.start()
        try:
            with (tmp_path / "speech.raw").open("rb") as speech:
                edge = start_edge("stdin", "--speed", "4", "--captions", "--wait", stdin=speech)
                assert await edge.exit_code(60) == 0, edge.stderr
        finally:
            await worker.stop()
    lines = edge.stdout.splitlines()
    captions = [line.split("  ", 1)[1] for line in lines if re.match(r" *\d+:\d\d\.\d  ", line)]
    assert re.findall(r"\w+", " ".join(captions).lower()) == words, lines
