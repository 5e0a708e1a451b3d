"""Worker processes with provider `speechmatics-agent`: complete sessions through a real broker and
the provider's emulator."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.speechmatics.agent import SpeechmaticsAgentEmulator
from natterjack.events import InterimEvent
from natterjack.settings import BrokerSettings

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

KEY = "s3cret-0f-a-worker"


@pytest.fixture
async def emulator() -> AsyncIterator[SpeechmaticsAgentEmulator]:
    async with SpeechmaticsAgentEmulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def provider_settings(emulator: SpeechmaticsAgentEmulator) -> dict[str, str]:
    return {
        "WORKER_PROVIDER": "speechmatics-agent",
        "SPEECHMATICS_API_KEY": KEY,
        "SPEECHMATICS_AGENT_URL": f"{emulator.url}/v2/agent",
        "SPEECHMATICS_AGENT_CATCH_UP_RATE": "8",
        "SPEECHMATICS_RETRY_SECONDS": "0.5",
    }


async def transcript_of(broker: Broker, speaker: Speaker) -> Transcript:
    """Run a session and return its audited transcript."""
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker, estimated=True)
    return transcript


async def test_a_session_from_request_to_closing_event(
    start_worker: StartWorker,
    emulator: SpeechmaticsAgentEmulator,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(**UNDISTURBED, SPEECHMATICS_AGENT_PRICE_PER_HOUR="3.6")
    speaker = Speaker(broker_settings, 40, language="en-US", keyterms=["natterjack"])
    async with live_events(broker, speaker.spec) as live:
        transcript = await transcript_of(broker, speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
    (closing,) = transcript.closing
    account = closing.account
    assert account is not None
    assert account.transcribed_seconds == account.captured_seconds
    used = account.providers["speechmatics-agent"]
    assert used.cost == pytest.approx(account.sent_seconds * 0.001)
    assert [event for event in live if isinstance(event, InterimEvent)]
    assert [turn.event for turn in transcript.turns] == ["started", "ended"] * 5
    assert all(final.times_estimated for final in transcript.finals)
    config = emulator.sessions[0].received[0]["transcription_config"]
    assert (config["language"], config["output_locale"]) == ("en", "en-US")
    assert config["additional_vocab"] == ["natterjack"]


@pytest.mark.parametrize(
    ("faults", "cause"),
    [
        ({"drop_mid_word": 5, "connections": 2}, "dropped"),
        ({"close_after_seconds": 4.0, "close_code": 1011, "connections": 1}, "server_error"),
        ({"mute_after_seconds": 4.0, "connections": 1}, "mute"),
        ({"withhold_acks_after_seconds": 4.0, "connections": 1}, "send_blocked"),
        ({"error_type": "quota_exceeded", "connections": 1}, "rate_limit"),
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
    emulator: SpeechmaticsAgentEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    # Only the timeout under test is short: on a stalled machine, others would expire too.
    timeouts = {
        "mute": {"WORKER_MUTE_SECONDS": "2"},
        "send_blocked": {
            "WORKER_SEND_BLOCKED_SECONDS": "1.5",
            "SPEECHMATICS_MAX_UNACKNOWLEDGED_SECONDS": "3",
        },
        "finish": {"WORKER_FINISH_SECONDS": "2"},
    }.get(cause, {})
    await start_worker(**{"SPEECHMATICS_MAX_UNACKNOWLEDGED_SECONDS": "60", **timeouts})
    await emulator.set(**faults)
    transcript = await transcript_of(broker, Speaker(broker_settings, 30, speed=3))
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries.get(cause, 0) >= 1, account


async def test_a_killed_worker_costs_no_word(
    emulator: SpeechmaticsAgentEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 7.0)
    (await holder(workers)).signal(signal.SIGKILL)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker, estimated=True)
    assert {event.epoch for event in transcript.events} == {1, 2}


async def test_long_silence_is_not_a_fault(
    emulator: SpeechmaticsAgentEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A server that only acknowledges silence does not count as dead, and a connection that breaks
    after it costs none of it: the next one begins where speech is again."""
    await start_worker(**{**UNDISTURBED, "WORKER_MUTE_SECONDS": "4"})
    await emulator.set(drop_after_seconds=50, connections=1)
    speaker = Speaker(broker_settings, 8, speed=6)
    speaker.pcm += bytes(2 * 16000 * 48)  # 48 s of silence
    transcript = await transcript_of(broker, speaker)
    assert transcript.states == ["assigned", "streaming", "recovering", "streaming", "closed"]
    first, second = emulator.log
    assert first.audio_seconds >= 50
    assert second.audio_seconds < 12, "no more than the silence of the margin is repeated"
