"""Voice sessions of a worker that speaks with Deepgram's Aura voices: words are counted in what was
played."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from tests.waiting import until
from tests.worker.programs import WorkerProcess
from tests.worker.voice.player import RATE, Application, heard, playing

from .conftest import KEY

pytestmark = pytest.mark.process

WORDS = tones.sequence(40)
TEXT = " ".join(f"{' '.join(WORDS[at : at + 7]).capitalize()}." for at in range(0, len(WORDS), 7))


Start = Callable[..., Awaitable[WorkerProcess]]


@pytest.fixture
async def broker(broker_settings: BrokerSettings) -> AsyncIterator[Broker]:
    """A connection to a broker that has the streams of voice sessions."""
    async with connected(broker_settings, name="test") as broker:
        await ensure(broker, StreamSettings(kinds=("speak",)))
        yield broker


@pytest.fixture
async def start(
    nats_server: EmbeddedServer, emulator: DeepgramSpeakEmulator, processes: None
) -> AsyncIterator[Start]:
    workers: list[WorkerProcess] = []

    async def started(**more: str) -> WorkerProcess:
        settings = {
            "WORKER_KINDS": "speak", "WORKER_VOICE": "deepgram-aura",
            "WORKER_BACKOFF_SECONDS": "0.05", "DEEPGRAM_API_KEY": KEY, **more,
        }  # fmt: skip
        workers.append(WorkerProcess(nats_server.url, emulator.url, **settings))
        await workers[-1].start()
        return workers[-1]

    yield started
    for worker in workers:
        await worker.stop()
    for worker in workers:
        assert not worker.stray_lines, "a stack trace or an interpreter warning"


async def test_every_word_is_played_once_whatever_breaks(
    broker: Broker, start: Start, emulator: DeepgramSpeakEmulator
) -> None:
    """Two connections break within a word, and a third ends as after an hour."""
    await emulator.set(pace=6, drop_mid_word=4, connections=2)
    await start()
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(TEXT, end=True)
        await until(lambda: len(emulator.log) == 3, "two connections have broken", 60)
        await emulator.set(close_after_seconds=1, close_reason="NET-0003", connections=1)
        await application.closed()
        assert tones.compare(WORDS, player.words) == tones.Counts()
    assert heard(await application.stored_chunks()) == WORDS
    assert [entry.closed for entry in emulator.log][:3] == ["dropped", "dropped", "server 1011"]
    usage = await application.usage()
    assert usage.characters == sum(len(one.text_received) for one in emulator.sessions)
    assert usage.repeated_characters > 0


async def test_an_interrupt_clears_what_the_provider_still_has(
    broker: Broker, start: Start, emulator: DeepgramSpeakEmulator
) -> None:
    await emulator.set(pace=4, stray_seconds=0.5, flushed_after_clear="after")
    await start()
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=2) as player:
        await application.say(TEXT)
        await until(lambda: player.position > 3 * RATE, "some of it is played", 30)
        assert (await application.request("interrupt")).ok
        await application.say("Able about above.", end=True)
        await application.closed()
        played = player.words
    assert played[-3:] == ["able", "about", "above"]
    assert played[:-3] == WORDS[: len(played) - 3]
    assert len(emulator.log) == 1, "the connection goes on"
    assert emulator.log[0].texts["Clear"] == 1
