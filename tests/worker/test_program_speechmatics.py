"""Worker processes with provider `speechmatics`: complete sessions through a real broker and the
provider's emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.events import InterimEvent
from natterjack.settings import BrokerSettings

from .programs import (
    RATE,
    UNDISTURBED,
    Speaker,
    StartWorker,
    Transcript,
    closed,
    live_events,
)

pytestmark = pytest.mark.process

KEY = "s3cret-0f-a-worker"


@pytest.fixture
async def emulator() -> AsyncIterator[SpeechmaticsEmulator]:
    async with SpeechmaticsEmulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def provider_settings(emulator: SpeechmaticsEmulator) -> dict[str, str]:
    return {
        "WORKER_PROVIDER": "speechmatics",
        "SPEECHMATICS_API_KEY": KEY,
        "SPEECHMATICS_URL": f"{emulator.url}/v2",
        "SPEECHMATICS_CATCH_UP_RATE": "8",
        "SPEECHMATICS_RETRY_SECONDS": "0.5",
    }


async def transcript_of(broker: Broker, speaker: Speaker) -> Transcript:
    """Run a session and return its audited transcript."""
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    return transcript


async def test_a_session_from_request_to_closing_event(
    start_worker: StartWorker,
    emulator: SpeechmaticsEmulator,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(**UNDISTURBED)
    speaker = Speaker(broker_settings, 40, language="en-US", keyterms=["natterjack"])
    async with live_events(broker, speaker.spec) as live:
        transcript = await transcript_of(broker, speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    account = transcript.closing[0].account
    assert account is not None
    assert account.transcribed_seconds == account.captured_seconds
    assert [event for event in live if isinstance(event, InterimEvent)]
    assert len(transcript.turns) == 10
    config = emulator.sessions[0].received[0]["transcription_config"]
    assert (config["language"], config["output_locale"]) == ("en", "en-US")
    assert config["additional_vocab"] == ["natterjack"]
    for word, place in zip(
        [word for final in transcript.finals for word in final.words], speaker.places, strict=True
    ):
        assert word.start == pytest.approx(place.start, abs=0.006)
        assert word.end == pytest.approx(place.end, abs=0.006)


@pytest.mark.parametrize(
    ("faults", "cause"),
    [
        ({"drop_mid_word": 5, "connections": 2}, "dropped"),
        ({"drop_mid_word": 5, "overreaching_finals": True, "connections": 1}, "dropped"),
        ({"close_after_seconds": 4.0, "close_code": 1011, "connections": 1}, "server_error"),
        ({"mute_after_seconds": 4.0, "connections": 1}, "mute"),
        ({"withhold_acks_after_seconds": 4.0, "connections": 1}, "send_blocked"),
        ({"handshake_status": 503, "handshakes": 2}, "server_error"),
        ({"error_type": "quota_exceeded", "connections": 1}, "rate_limit"),
        ({"no_recognition_started": True, "connections": 1}, "server_error"),
        ({"duration_limit_seconds": 5.0, "connections": 1}, "dropped"),
        ({"drop_before_summary": True, "connections": 1}, "dropped"),
        ({"end_of_transcript": "missing", "connections": 1}, "finish"),
        ({"unreadable_final_after_seconds": 4.0, "connections": 1}, "protocol"),
        ({"parks_after_seconds": 4.0, "connections": 1}, "protocol"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
async def test_provider_faults_cost_no_word(
    faults: dict[str, Any],
    cause: str,
    emulator: SpeechmaticsEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    # Only the timeout under test is short. Other short timeouts would also expire on a stalled
    # machine, and the fault would be detected on a connection that has ended.
    timeouts = {
        "mute": {"WORKER_MUTE_SECONDS": "2"},
        "send_blocked": {
            "WORKER_SEND_BLOCKED_SECONDS": "1.5",
            "SPEECHMATICS_MAX_UNACKNOWLEDGED_SECONDS": "3",
        },
        "finish": {"WORKER_FINISH_SECONDS": "2"},
    }.get(cause, {})
    if "no_recognition_started" in faults:
        timeouts["SPEECHMATICS_START_TIMEOUT_SECONDS"] = "1"
    # The mute case must be detected as such, not by a full window of unacknowledged audio.
    await start_worker(**{"SPEECHMATICS_MAX_UNACKNOWLEDGED_SECONDS": "60", **timeouts})
    await emulator.set(**faults)
    transcript = await transcript_of(broker, Speaker(broker_settings, 30, speed=3))
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries.get(cause, 0) >= 1, account
    for session in emulator.sessions:
        if session.last_seq_no is not None:
            assert session.last_seq_no == session.frames


async def test_drops_with_times_between_the_providers_rounded_ones(
    emulator: SpeechmaticsEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A final may end up to 5 ms before its last word; the remainder must not become a word."""
    await start_worker()
    await emulator.set(drop_mid_word=3, connections=6)
    speaker = Speaker(broker_settings, 60, speed=3)
    lead = 71  # frames: 4.4 ms
    speaker.pcm = bytes(2 * lead) + speaker.pcm
    speaker.places = [
        place._replace(start=place.start + lead / RATE, end=place.end + lead / RATE)
        for place in speaker.places
    ]
    transcript = await transcript_of(broker, speaker)
    errors = [
        abs(start - place.start)
        for start, place in zip(transcript.word_starts, speaker.places, strict=True)
        if start is not None
    ]
    assert len(errors) == 60
    assert max(errors) < 0.0101, f"{1000 * max(errors):.1f} ms"
    assert transcript.states.count("recovering") == 6


@pytest.mark.parametrize(("kind", "code"), [("not_authorised", 4001), ("timelimit_exceeded", 4006)])
async def test_a_refused_account_fails_the_session_after_the_recovery_time(
    kind: str,
    code: int,
    emulator: SpeechmaticsEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_RECOVERY_SECONDS="1", WORKER_BREAKER_SECONDS="0.2")
    await emulator.set(error_type=kind)
    speaker = Speaker(broker_settings, 3, speed=20)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    assert transcript.states == ["assigned", "recovering", "failed"]
    assert kind in (transcript.closing[0].reason or "")
    assert emulator.log[0].closed == f"server {code}"


async def test_long_silence_is_not_a_fault(
    emulator: SpeechmaticsEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A server that only acknowledges silence does not count as dead."""
    await emulator.set(quiet_in_silence=True)
    await start_worker(**{**UNDISTURBED, "WORKER_MUTE_SECONDS": "4"})
    speaker = Speaker(broker_settings, 8, speed=6)
    speaker.pcm += bytes(2 * 16000 * 48)  # 48 s of silence
    transcript = await transcript_of(broker, speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    assert len(emulator.log) == 1
