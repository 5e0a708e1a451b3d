"""examples/echo.py: each turn is answered with its own words, and the next turn interrupts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.errors import NotFoundError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, voice_session_subject
from natterjack.voice.spec import VoiceSpec
from tests.forking import launch
from tests.waiting import until
from tests.worker.programs import Speaker
from tests.worker.voice.player import Application, playing
from tests.worker.voice.test_session import interruption
from tests.worker.voice.tone_worker import ToneWorker

ECHO = Path(__file__).parents[2] / "examples" / "echo.py"
ASSISTANT = SessionKey("t", "c", "assistant")


@pytest.fixture
async def worker(broker_settings: BrokerSettings) -> AsyncIterator[ToneWorker]:
    """A worker that transcribes with an emulated provider, and speaks tone words."""
    kinds = {"WORKER_KINDS": "transcribe,speak", "WORKER_VOICE": "tones"}
    async with DeepgramEmulator() as emulator:
        worker = ToneWorker(broker_settings.url, emulator.url, **kinds)
        await worker.start()
        yield worker
        await worker.stop()
    assert not worker.stray_lines


def test_the_example_is_short() -> None:
    assert len(ECHO.read_text().splitlines()) <= 40


async def test_each_turn_is_answered_and_the_next_one_interrupts(
    broker_settings: BrokerSettings, broker: Broker, worker: ToneWorker
) -> None:
    speaker = Speaker(broker_settings, 16, speed=2)
    env = {**os.environ, "NATS_URL": broker_settings.url}
    echo = launch((str(ECHO), *speaker.spec.key), env=env)
    try:
        spec = VoiceSpec.model_validate_json(await request(broker))
        assert spec.interrupt_on == "t.c.s"
        application = Application(broker, **spec.model_dump(exclude_none=True))
        async with playing(broker, spec, speed=1) as player:
            await speaker.speak()
            await until(lambda: echo.poll() is not None, "the example ends with the session", 60)
            assert echo.wait() == 0
            closing = await application.closed()
            played = player.words
        assert closing.state == "closed"
        cut = await interruption(application)
        assert (cut.utterance, cut.reason) == (0, "turn")
        second = speaker.words[8:]
        assert played[-8:] == second, "the second turn is answered whole"
        assert played[:-8] == speaker.words[: len(played) - 8], "the first one was cut"
        assert len(played) < 16
    finally:
        echo.kill()
        echo.wait()


async def request(broker: Broker) -> bytes:
    """Wait for the request of the example's voice session."""

    async def look() -> bytes | None:
        try:
            message = await broker.client.jetstream().get_last_msg(
                streams.VOICE_SESSIONS, voice_session_subject(ASSISTANT)
            )
        except NotFoundError:
            return None
        return message.data

    found = await until(look, "the example opens a voice session", 30)
    assert isinstance(found, bytes)
    return found
