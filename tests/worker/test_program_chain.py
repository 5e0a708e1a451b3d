"""Provider chains, end to end: the next provider takes over with the same times and no loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.events import StatusEvent
from natterjack.settings import BrokerSettings

from .programs import Speaker, StartWorker, closed

pytestmark = pytest.mark.process

CHAIN = ["deepgram", "speechmatics"]


@pytest.fixture
async def second() -> AsyncIterator[SpeechmaticsEmulator]:
    async with SpeechmaticsEmulator() as emulator:
        yield emulator


@pytest.fixture
def provider_settings(second: SpeechmaticsEmulator) -> dict[str, str]:
    return {
        "SPEECHMATICS_URL": f"{second.url}/v2",
        "SPEECHMATICS_API_KEY": "a-key",
        "SPEECHMATICS_CATCH_UP_RATE": "8",
        "WORKER_MUTE_SECONDS": "2",
        "NATTERJACK_LEASE_SECONDS": "60",  # no worker is killed here
    }


def connections_with_words(emulator: DeepgramEmulator | SpeechmaticsEmulator) -> int:
    """Count the connections with words."""
    return sum(1 for entry in emulator.log if entry.words)


@pytest.mark.parametrize(
    ("faults", "cause", "both_speak"),
    [
        ({"handshake_status": 401}, "auth", False),
        ({"handshake_status": 503}, "server_error", False),
        ({"mute_after_seconds": 5.0}, "mute", True),
        ({"drop_after_seconds": 4.0}, "dropped", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_next_provider_takes_over(
    faults: dict[str, Any],
    cause: str,
    both_speak: bool,
    emulator: DeepgramEmulator,
    second: SpeechmaticsEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    # Every connection drops within a phrase, so that no final makes progress in between.
    phrase = 40 if cause == "dropped" else 8
    await start_worker(DEEPGRAM_ENDPOINTING_MS="0" if cause == "dropped" else "300")
    if cause == "dropped":
        faults = {"drop_after_seconds": 0.7}
        both_speak = False
    await emulator.set(**faults)
    speaker = Speaker(broker_settings, 40, speed=3, phrase_words=phrase, provider=CHAIN)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    statuses = [event for event in transcript.events if isinstance(event, StatusEvent)]
    reasons = [event.reason or "" for event in statuses if event.state == "recovering"]
    assert any(reason.startswith(cause) for reason in reasons)
    assert any("speechmatics takes over" in reason for reason in reasons)
    providers = list(dict.fromkeys(final.provider for final in transcript.finals))
    assert providers == (CHAIN if both_speak else ["speechmatics"])
    assert connections_with_words(second) == 1


async def test_a_dead_provider_is_not_dialed_for_every_session(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = await start_worker(WORKER_BREAKER_FAILURES="4", WORKER_BREAKER_SECONDS="60")
    await emulator.set(handshake_status=503)
    speakers = [
        Speaker(broker_settings, 6, speed=20, conversation=f"c{n}", provider=CHAIN)
        for n in range(12)
    ]
    for speaker in speakers:
        await speaker.speak()
        (await closed(broker, speaker.spec)).audit(speaker)
    assert len(emulator.log) == 4
    _, metrics = await worker.get("/metrics")
    assert 'natterjack_provider_breaker_open{provider="deepgram"} 1.0' in metrics


async def test_one_probe_at_a_time_detects_a_provider_that_works_again(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_BREAKER_FAILURES="2", WORKER_BREAKER_SECONDS="1")
    await emulator.set(handshake_status=503)
    alone = [Speaker(broker_settings, 10, conversation=f"c{n}") for n in range(6)]
    began = time.monotonic()
    await asyncio.gather(*(speaker.speak() for speaker in alone))
    # Each session may have been dialing when the second failed; then there is one probe a second.
    most = len(alone) + 1 + time.monotonic() - began
    assert len(emulator.log) <= most, "sessions kept dialing"
    await emulator.set(handshake_status=None)
    for speaker in alone:
        (await closed(broker, speaker.spec, 60)).audit(speaker)


async def _with_an_unreadable_final(
    emulator: DeepgramEmulator, settings: BrokerSettings, **spec: Any
) -> tuple[Speaker, int]:
    """A speaker of four phrases, and the number of a word whose final cannot be read."""
    speaker = Speaker(settings, 32, speed=4, phrase_words=8, **spec)
    place = next(n for n in range(8, 24) if speaker.words.count(speaker.words[n]) == 1)
    await emulator.set(unreadable_word=speaker.words[place])
    await speaker.speak()
    return speaker, place


async def test_a_final_that_no_provider_sends_readable_becomes_a_gap(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_REPEATED_FAILURES="2", WORKER_MAX_BACKOFF_SECONDS="0.5")
    speaker, place = await _with_an_unreadable_final(emulator, broker_settings)
    transcript = await closed(broker, speaker.spec, 60)
    assert transcript.states[-1] == "closed", transcript.describe()
    account = transcript.closing[0].account
    assert account is not None
    [gap] = account.gaps
    assert gap.cause == "unreadable"
    assert gap.start < speaker.places[place].start < speaker.places[place].end < gap.end
    assert account.gap_seconds == {"unreadable": pytest.approx(gap.end - gap.start)}
    heard = [
        word
        for word, at in zip(speaker.words, speaker.places, strict=True)
        if at.end <= gap.start or at.start >= gap.end
    ]
    assert transcript.words == heard, transcript.describe()
    assert len(heard) >= 16
    assert account.received_seconds == pytest.approx(speaker.seconds, abs=0.1)
    assert account.transcribed_seconds == pytest.approx(
        speaker.seconds - gap.end + gap.start, abs=0.1
    )
    assert account.recoveries == {"protocol": 2}


async def test_the_next_provider_reads_what_the_first_sends_unreadable(
    emulator: DeepgramEmulator,
    second: SpeechmaticsEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_REPEATED_FAILURES="2", WORKER_FAILOVER_AFTER="9")
    speaker, _ = await _with_an_unreadable_final(emulator, broker_settings, provider=CHAIN)
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert list(dict.fromkeys(final.provider for final in transcript.finals)) == CHAIN
    assert connections_with_words(second) == 1
