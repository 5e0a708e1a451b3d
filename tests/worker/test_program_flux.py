"""Workers with Flux, end to end: turns, especially long turns, and faults within them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.flux import DeepgramFluxEmulator
from natterjack.events import InterimEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings

from ..waiting import until
from .programs import (
    UNDISTURBED,
    Speaker,
    StartWorker,
    Transcript,
    closed,
    holder,
    live_events,
    spoken,
    stored,
)

pytestmark = pytest.mark.process


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramFluxEmulator]:
    async with DeepgramFluxEmulator() as emulator:
        yield emulator


@pytest.fixture
def provider_settings() -> dict[str, str]:
    return {"WORKER_PROVIDER": "deepgram-flux", "DEEPGRAM_FLUX_CATCH_UP_RATE": "8"}


def turn_kinds(transcript: Transcript) -> list[str]:
    return [turn.event for turn in transcript.turns]


async def test_turns_from_request_to_closing_event(
    emulator: DeepgramFluxEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(**UNDISTURBED)
    speaker = Speaker(broker_settings, 40, language="en-US")
    async with live_events(broker, speaker.spec) as live:
        await speaker.speak()
        transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    assert turn_kinds(transcript) == ["started", "ended"] * 5
    assert len(transcript.finals) == 5
    for turn, final in zip(transcript.turns[1::2], transcript.finals, strict=True):
        assert turn.text == final.text
    account = transcript.closing[0].account
    assert account is not None
    assert account.captured_seconds == pytest.approx(speaker.seconds, abs=0.01)
    assert account.transcribed_seconds == account.captured_seconds
    assert account.sent_seconds == account.captured_seconds
    assert [event for event in live if isinstance(event, InterimEvent)]
    assert emulator.log[0].closed == "server 1005"
    assert emulator.log[0].query["model"] == ["flux-general-en"]


async def test_eager_ends_reach_the_listener(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker()
    options = {"eager_eot_threshold": 0.4, "eot_threshold": 0.9}
    speaker = Speaker(broker_settings, 16, options=options)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    assert transcript.words == speaker.words
    kinds = turn_kinds(transcript)
    assert kinds[:2] == ["started", "eager_end"]
    assert kinds[-1] == "ended"


LONG = 0
"""All words are one turn."""


@pytest.mark.parametrize(
    ("phrase", "faults", "cause"),
    [
        (8, {"drop_mid_word": 5, "connections": 2}, "dropped"),
        (8, {"mute_after_seconds": 6.0, "connections": 1}, "mute"),
        (8, {"error_after_seconds": 6.0, "connections": 1}, "server_error"),
        (8, {"handshake_status": 429, "handshakes": 2}, "rate_limit"),
        (8, {"drop_before_summary": True, "connections": 1}, "dropped"),
        (LONG, {"drop_mid_word": 5, "connections": 2}, "dropped"),
        (LONG, {"drop_mid_word": 30, "connections": 1}, "dropped"),
        (LONG, {"error_after_seconds": 6.0, "error_code": "INACTIVE_CLIENT", "connections": 1},
         "dropped"),
        (LONG, {"drop_before_summary": True, "connections": 1}, "dropped"),
        (LONG, {"mute_in_turn_words": 15, "connections": 1}, "mute"),
        (LONG, {"mute_in_turn_words": 36, "connections": 1}, "mute"),
    ],
    ids=str,
)  # fmt: skip
async def test_provider_faults_in_a_turn_cost_no_word(
    phrase: int,
    faults: dict[str, object],
    cause: str,
    emulator: DeepgramFluxEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_MUTE_SECONDS="2")
    await emulator.set(**faults)
    # A provider counts as mute once some seconds of answers are outstanding.
    speed = 2 if cause == "mute" else 4
    speaker = Speaker(broker_settings, 40, speed=speed, phrase_words=phrase)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries.get(cause, 0) >= 1, account
    assert transcript.states.count("recovering") == sum(account.recoveries.values())


@pytest.mark.slow
async def test_sigkill_of_a_worker_in_a_long_turn(
    emulator: DeepgramFluxEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The next worker resumes at the end of the finals within the turn, not at the turn's start."""
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 60, speed=2, phrase_words=0)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 14.0)
    before = await stored(broker, speaker.spec)
    assert before.finals, "the turn has no final yet"
    assert turn_kinds(before) == ["started"]
    (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states.count("assigned") == 2
    assert {final.epoch for final in transcript.finals} == {1, 2}
    assert turn_kinds(transcript) == ["started", "ended"], "one turn across both workers"
    # The second connection received only the audio after the last final.
    last_of_first = max(final.end for final in transcript.finals if final.epoch == 1)
    assert last_of_first > 14 - 9 - 1
    assert emulator.log[1].audio_seconds < speaker.seconds - last_of_first + 6


@pytest.mark.slow
async def test_sigkill_between_closely_spaced_words(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """Finals within the turn come as early as possible, and workers are killed between them."""
    early = {
        "DEEPGRAM_FLUX_COMMIT_SECONDS": "0.5",
        "DEEPGRAM_FLUX_COMMIT_UPDATES": "2",
        "DEEPGRAM_FLUX_COMMIT_LENGTH_SECONDS": "0.3",
    }
    workers = [await start_worker(**early) for _ in range(3)]
    speaker = Speaker(broker_settings, 60, speed=2, phrase_words=0)
    speaking = asyncio.create_task(speaker.speak())
    for seconds in (4.0, 13.0):
        await spoken(speaker, seconds)
        (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states.count("assigned") == 3
    assert len(transcript.finals) > 15


async def test_sigterm_in_a_long_turn_hands_the_session_over(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 50, speed=2, phrase_words=0)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 8.0)
    old = await holder(workers)
    old.signal(signal.SIGTERM)
    assert await old.wait() == 0
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert "handed_over" in transcript.states


async def test_sigkill_and_restart_of_the_broker_in_a_long_turn(
    nats_server: EmbeddedServer,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """Audio stops briefly within a word, and no silence may be inserted there."""
    await start_worker()
    speaker = Speaker(broker_settings, 60, speed=2, phrase_words=0)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 9.0)
    nats_server.kill()
    nats_server.start()
    await speaking
    (await closed(broker, speaker.spec, 60)).audit(speaker)


async def test_audio_that_stops_in_a_turn(
    emulator: DeepgramFluxEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The plugin's silence ends the turn long before the session ends."""
    await start_worker(WORKER_IDLE_SECONDS="20")
    speaker = Speaker(broker_settings, 8, phrase_words=0)
    await speaker.speak(end=False)

    async def ended() -> bool:
        return turn_kinds(await stored(broker, speaker.spec)) == ["started", "ended"]

    await until(ended, "the turn has ended")
    assert emulator.open_connections == 1
    assert (await stored(broker, speaker.spec)).words == speaker.words
