"""Text to what is heard: real workers and the real player, whatever dies."""

from __future__ import annotations

import signal
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import StreamSettings
from natterjack.voice.events import UtteranceEvent
from tests.edge_capture.conftest import StartEdge
from tests.waiting import until
from tests.worker.voice.player import Application
from tests.worker.voice.tone_worker import ToneWorker

from .speaker import heard

pytestmark = pytest.mark.process

PLAY = ("play", "--tenant", "t", "--conversation", "c", "--speaker", "s", "--log-level", "info")
WORDS = tones.sequence(30)
TEXT = " ".join(f"{' '.join(WORDS[at : at + 5]).capitalize()}." for at in range(0, 30, 5))


Start = Callable[[], Awaitable[ToneWorker]]


@pytest.fixture
async def voices(broker: Broker) -> Broker:
    """A broker with the streams of voice sessions."""
    await ensure(broker, StreamSettings(kinds=("speak",), lease_seconds=1))
    return broker


@pytest.fixture
async def start(nats_server: EmbeddedServer, processes: None) -> AsyncIterator[Start]:
    """Start a worker whose voice speaks tone words."""
    workers: list[ToneWorker] = []

    async def started() -> ToneWorker:
        worker = ToneWorker(
            nats_server.url, "", WORKER_KINDS="speak", WORKER_VOICE="tones",
            NATTERJACK_LEASE_SECONDS="1",
        )  # fmt: skip
        workers.append(worker)
        await worker.start()
        return worker

    yield started
    for worker in workers:
        await worker.stop()


def words(path: Path) -> list[str]:
    with wave.open(str(path)) as file:
        return heard(file.readframes(file.getnframes()), file.getframerate())


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


async def played(path: Path, length: float) -> None:
    await until(lambda: seconds(path) > length, f"{length} s are played")


async def test_text_is_heard(
    voices: Broker, start: Start, start_edge: StartEdge, tmp_path: Path
) -> None:
    path, application = tmp_path / "played.wav", Application(voices)
    edge = start_edge(*PLAY, "--file", path)
    await start()
    await edge.says("ready to play")
    await application.open()
    await application.say(TEXT, end=True)
    closing = await application.closed()
    assert (closing.state, closing.reason) == ("closed", "end of text")
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    assert words(path) == WORDS
    assert (await application.usage()).played_seconds == pytest.approx(seconds(path), abs=0.01)


async def test_text_is_heard_once_whatever_dies(
    voices: Broker,
    start: Start,
    start_edge: StartEdge,
    tmp_path: Path,
    nats_server: EmbeddedServer,
) -> None:
    """A worker dies, then the broker with all speech that it has stored."""
    path, application = tmp_path / "played.wav", Application(voices)
    edge = start_edge(*PLAY, "--file", path)
    first = await start()
    await edge.says("ready to play")
    await application.open()
    await application.say(TEXT, end=True)
    await played(path, 1.5)
    first.signal(signal.SIGKILL)
    await start()
    await played(path, 4)
    nats_server.kill()
    nats_server.start()

    async def readable() -> bool:
        try:
            await application.events()
        except StoreUnavailable:
            return False
        return True

    await until(readable, "the broker answers")
    closing = await application.closed()
    assert closing.state == "closed"
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    assert words(path) == WORDS, edge.stderr


async def test_an_interrupt_is_heard(
    voices: Broker, start: Start, start_edge: StartEdge, tmp_path: Path
) -> None:
    path, application = tmp_path / "played.wav", Application(voices)
    edge = start_edge(*PLAY, "--file", path)
    await start()
    await edge.says("ready to play")
    await application.open()
    await application.say(TEXT)
    await played(path, 2)
    assert (await application.request("interrupt")).ok

    async def interrupted() -> UtteranceEvent | None:
        for event in await application.events():
            if isinstance(event, UtteranceEvent) and event.event == "interrupted":
                return event
        return None

    event = await until(interrupted, "it is interrupted")
    length = seconds(path)
    await application.say(f"{WORDS[20]} {WORDS[21]}.", end=True)
    await application.closed()
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    assert length < 4
    found = words(path)
    assert found[-1] == WORDS[21]
    before = [word for word in found if word not in WORDS[20:22]]
    assert before == WORDS[: len(before)]
    assert abs(len(tones.words_of(event.text_spoken or "")) - len(before)) <= 2
