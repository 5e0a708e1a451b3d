"""A worker that speaks with Aura, when the provider or the text is at fault: words are counted in
what was played."""

from __future__ import annotations

from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from natterjack.voice.events import UtteranceEvent
from tests.waiting import until
from tests.worker.voice.player import Application, heard, playing

from .conftest import KEY
from .test_program import TEXT, WORDS, Start, broker, start

pytestmark = pytest.mark.process

__all__ = ["broker", "start"]


@pytest.mark.parametrize(
    "faults",
    [
        {"garbage": ("all",), "warns": True},
        {"mute_on_flush": True, "connections": 1},
        {"error": True, "connections": 1},
        {"flush_limit": 1, "connections": 1},
        {"close_after_seconds": 2, "close_code": 1008, "close_reason": "DATA-0001",
         "connections": 1},
    ],
    ids=["garbage", "no answer", "error", "flushes refused", "too fast"],
)  # fmt: skip
async def test_a_provider_that_misbehaves_costs_no_word(
    broker: Broker, start: Start, emulator: DeepgramSpeakEmulator, faults: dict[str, Any]
) -> None:
    await emulator.set(pace=10, odd_frames=True, **faults)
    await start(WORKER_MUTE_SECONDS="1")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec) as player:
        await application.say(TEXT, end=True)
        assert (await application.closed()).reason == "end of text"
        assert tones.compare(WORDS, player.words) == tones.Counts()
    assert heard(await application.stored_chunks()) == WORDS


async def test_a_flood_of_utterances_waits_for_the_limit_and_can_be_interrupted(
    broker: Broker, start: Start, emulator: DeepgramSpeakEmulator
) -> None:
    """Deepgram ignores the 21st Flush in a minute. It is not sent; it is not waited for, either."""
    await emulator.set(pace=100)
    worker = await start(DEEPGRAM_SPEAK_MODEL="aura-2-thalia-en", NATTERJACK_LOG_LEVEL="debug")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=20):
        for word in WORDS[:25]:
            await application.say(f"{word}.", pieces=1)

        async def finished() -> bool:
            return len([u for u in await application.utterances() if u[1] == "finished"]) == 20

        await until(finished, "the limit is reached", 60)
        (connection,) = emulator.log
        assert connection.texts["Flush"] == 20
        assert "Warning" not in connection.messages
        reply = await application.request("interrupt")
        assert (reply.ok, reply.utterance) == (True, 20)
        assert (await application.request("close")).ok
        await application.closed()
    events = [e for e in await application.events() if isinstance(e, UtteranceEvent)]
    dropped = [e for e in events if e.event == "interrupted"]
    assert [e.utterance for e in dropped] == [20, 21, 22, 23, 24]
    assert [e.text_remaining for e in dropped] == [f"{word}." for word in WORDS[20:25]]
    assert KEY not in str(worker.log)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"model": "aura-2-nobody-en"}, "No such model"),
        ({"model": "flux-haley-en"}, "unknown voice 'flux-haley-en'"),
        ({"options": {"speed": 99}}, "speed"),
        ({"options": {"speed": "fast"}}, "speed"),
        ({"options": {"mood": 1}}, "mood"),
        ({"language": "tlh"}, "tlh"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_the_provider_does_not_have_is_told_and_hurts_nobody(
    broker: Broker, start: Start, wanted: dict[str, Any], reason: str
) -> None:
    await start()
    wrong = Application(broker, conversation="wrong", **wanted)
    right = Application(broker)
    await right.open()
    await wrong.say("Nobody says this.")
    await wrong.open()
    async with playing(broker, right.spec) as player:
        await right.say(TEXT, end=True)
        closing = await wrong.closed()
        assert closing.state == "failed"
        assert reason in f"{closing.reason} {closing.detail}"
        assert closing.text_remaining == "Nobody says this."
        assert await wrong.utterances() == [(0, "interrupted")]
        assert (await right.closed()).state == "closed"
        assert player.words == WORDS
