"""Workers with fallback providers: recordings instead of a stream, and a managed proxy."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.deepgram.rest import DeepgramRestEmulator
from natterjack.emulators.managed import ManagedEmulator
from natterjack.emulators.server import Emulator
from natterjack.events import InterimEvent, UsageEvent
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
)

pytestmark = pytest.mark.process

REST = "deepgram-rest"
PLAIN = "managed"
EXTENDED = "managed-extended"
ALL = (REST, PLAIN, EXTENDED)
_ESTIMATE_SECONDS = 0.3
"""Tolerance of estimated times, which assume that spoken length follows written length."""


@pytest.fixture
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    made: Emulator = (
        DeepgramRestEmulator()
        if request.param == REST
        else ManagedEmulator(extended=request.param == EXTENDED)
    )
    async with made:
        yield made


@pytest.fixture
def provider_settings(emulator: Emulator) -> dict[str, str]:
    # WorkerProcess sets DEEPGRAM_API_KEY and DEEPGRAM_URL, which also serve for recordings.
    return {
        "WORKER_PROVIDER": emulator.name,
        "DEEPGRAM_REST_CATCH_UP_RATE": "8",
        "MANAGED_URL": emulator.url,
        "MANAGED_TOKEN": "a-token",
        "MANAGED_CATCH_UP_RATE": "8",
    }


def audit(transcript: Transcript, speaker: Speaker) -> None:
    """Do the same as Transcript.audit, with the time accuracy of the provider."""
    if transcript.closing[0].provider == REST:
        transcript.audit(speaker)
        return
    assert tones.compare(speaker.words, transcript.words) == tones.Counts(), transcript.describe()
    for start, place in zip(transcript.word_starts, speaker.places, strict=True):
        assert start is not None
        assert abs(start - place.start) < _ESTIMATE_SECONDS, (start, place)
    assert [event.sequence for event in transcript.events] == list(range(len(transcript.events)))
    assert [final.segment for final in transcript.finals] == list(range(len(transcript.finals)))
    for before, after in zip(transcript.finals, transcript.finals[1:], strict=False):
        assert before.end <= after.start
    assert all(final.times_estimated for final in transcript.finals)
    assert len(transcript.closing) == 1
    assert transcript.turns == []


@pytest.mark.parametrize("emulator", ALL, indirect=True)
async def test_a_session_from_request_to_closing_event(
    emulator: Emulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(**UNDISTURBED)
    speaker = Speaker(broker_settings, 40)
    async with live_events(broker, speaker.spec) as live:
        await speaker.speak()
        transcript = await closed(broker, speaker.spec)
    audit(transcript, speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    account = transcript.closing[0].account
    assert account is not None
    assert account.transcribed_seconds == account.captured_seconds
    interims = [event for event in live if isinstance(event, InterimEvent)]
    assert bool(interims) == (emulator.name != REST)


@pytest.mark.parametrize(
    ("emulator", "fault", "cause"),
    [
        (REST, {"handshake_status": 429, "handshakes": 2}, "rate_limit"),
        (REST, {"drop_mid_response": True, "connections": 1}, "dropped"),
        (REST, {"handshake_drop": True, "handshakes": 1}, "dropped"),
        (REST, {"never_answers": True, "connections": 1}, "mute"),
        (REST, {"garbage": ("truncated",), "connections": 1}, "protocol"),
        (PLAIN, {"drop_mid_word": 12, "connections": 1}, "dropped"),
        (PLAIN, {"drop_after_seconds": 9, "connections": 1}, "dropped"),
        (EXTENDED, {"drop_mid_word": 12, "connections": 1}, "dropped"),
        (EXTENDED, {"drop_before_summary": True, "connections": 1}, "dropped"),
        (EXTENDED, {"close_after_seconds": 6, "close_code": 1013, "connections": 1}, None),
    ],
    indirect=["emulator"],
    ids=str,
)
async def test_faults_cost_no_word(
    emulator: Emulator,
    fault: dict[str, Any],
    cause: str | None,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(DEEPGRAM_REST_ANSWER_TIMEOUT_SECONDS="1.5")
    await emulator.set(**fault)
    speaker = Speaker(broker_settings, 30, speed=3)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    audit(transcript, speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries.get(cause or "server_error", 0) >= 1, account


@pytest.mark.parametrize("emulator", ALL, indirect=True)
async def test_sigkill_of_a_worker_in_mid_speech(
    emulator: Emulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 40, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 7.0)
    (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    audit(transcript, speaker)
    assert transcript.states.count("assigned") == 2


@pytest.mark.parametrize("emulator", [REST], indirect=True)
@pytest.mark.parametrize(("status", "word"), [(401, "credentials"), (402, "credits")])
async def test_a_refused_account_fails_the_session_after_the_recovery_time(
    emulator: Emulator,
    status: int,
    word: str,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_RECOVERY_SECONDS="1", WORKER_BREAKER_SECONDS="0.2")
    await emulator.set(handshake_status=status)
    speaker = Speaker(broker_settings, 8, speed=20)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    assert transcript.states[-1] == "failed"
    assert word in (transcript.closing[0].reason or "")


@pytest.mark.parametrize("emulator", [PLAIN], indirect=True)
async def test_a_refused_token_falls_back_to_the_next_provider(
    emulator: Emulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await emulator.set(auth_error="credits_exhausted")
    async with DeepgramRestEmulator() as rest:
        await start_worker(WORKER_PROVIDER="managed,deepgram-rest", DEEPGRAM_REST_URL=rest.url)
        speaker = Speaker(broker_settings, 16)
        await speaker.speak()
        transcript = await closed(broker, speaker.spec)
    audit(transcript, speaker)
    assert transcript.closing[0].provider == REST


@pytest.mark.parametrize("emulator", [EXTENDED], indirect=True)
async def test_low_credit_is_an_event(
    emulator: Emulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await emulator.set(credits_seconds=63.0)
    await start_worker()
    speaker = Speaker(broker_settings, 24)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    audit(transcript, speaker)
    usage = [event for event in transcript.events if isinstance(event, UsageEvent)]
    low = [event for event in usage if event.low]
    # The proxy warns at five minutes and at one minute.
    assert [round(event.credits_remaining_seconds or 0) for event in low] == [63, 60]
    assert usage[-1].audio_seconds == pytest.approx(speaker.seconds, abs=3), "from session_end"


@pytest.mark.parametrize("emulator", [REST], indirect=True)
async def test_recordings_replace_a_refused_stream(
    emulator: Emulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The switch happens in mid-session, with the options of the streaming provider."""
    async with DeepgramEmulator() as streaming:
        await start_worker(
            WORKER_PROVIDER="deepgram,deepgram-rest",
            DEEPGRAM_URL=streaming.url,
            DEEPGRAM_REST_URL=emulator.url,
        )
        speaker = Speaker(
            broker_settings, 40, speed=3, options={"endpointing": 300, "punctuate": True}
        )
        speaking = asyncio.create_task(speaker.speak())
        await until(lambda: streaming.log and streaming.log[0].finals, "the first words", 30)
        await streaming.set(handshake_status=402)
        streaming.drop()
        await speaking
        transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert {final.provider for final in transcript.finals} == {"deepgram", REST}
