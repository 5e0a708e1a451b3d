"""Accounts that refuse: sessions are held, and go on from where they were when it is paid."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.settings import BrokerSettings

from ..waiting import until
from .programs import Speaker, StartWorker, WorkerProcess, closed, queue_empty, stored

pytestmark = pytest.mark.process

QUICK = {
    "WORKER_BREAKER_SECONDS": "0.2",
    "WORKER_BREAKER_MAX_SECONDS": "0.5",
    "WORKER_BACKOFF_SECONDS": "0.05",
    "WORKER_MAX_BACKOFF_SECONDS": "0.2",
    "WORKER_MUTE_SECONDS": "60",
}


@pytest.fixture
async def other_provider() -> AsyncIterator[SpeechmaticsEmulator]:
    async with SpeechmaticsEmulator() as emulator:
        yield emulator


@pytest.fixture
def provider_settings(other_provider: SpeechmaticsEmulator) -> dict[str, str]:
    return {
        "SPEECHMATICS_URL": f"{other_provider.url}/v2",
        "SPEECHMATICS_API_KEY": "a-key",
        "SPEECHMATICS_CATCH_UP_RATE": "8",
        **QUICK,
    }


async def held(worker: WorkerProcess, count: int) -> None:
    """Wait until the worker holds so many sessions."""

    async def look() -> bool:
        return f"natterjack_sessions_held {count}.0" in (await worker.get("/metrics"))[1]

    await until(look, f"{count} sessions are held", 30)


async def dialed_again(emulator: DeepgramEmulator) -> None:
    """Wait for two more probes."""
    before = len(emulator.log)
    await until(lambda: len(emulator.log) >= before + 2, "the breaker probes", 30)


async def test_sessions_are_held_while_the_account_refuses(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The worker dies, too; and another tenant's session is served in a slot that was lent."""
    first = await start_worker(WORKER_MAX_SESSIONS="3")
    speakers = [
        Speaker(broker_settings, 48 if n == 0 else 16, conversation=f"c{n}") for n in range(3)
    ]
    async with asyncio.TaskGroup() as speaking:
        speaking.create_task(speakers[0].speak())
        await until(lambda: emulator.log and emulator.log[0].finals, "the first words", 30)
        await emulator.set(handshake_status=402)
        emulator.drop()
        for speaker in speakers[1:]:
            speaking.create_task(speaker.speak())
        await held(first, 3)
        healthy = Speaker(
            broker_settings, 16, tenant="other", conversation="c", provider="speechmatics"
        )
        await healthy.speak()
        (await closed(broker, healthy.spec)).audit(healthy)
        for speaker in speakers:
            transcript = await stored(broker, speaker.spec)
            assert not transcript.closing
            reasons = [getattr(event, "reason", None) or "" for event in transcript.events]
            assert any(reason.startswith("queued: credit: deepgram: ") for reason in reasons)

        async def listed() -> bool:
            sessions = json.loads((await first.get("/sessions"))[1])
            return all(
                session["state"] == "queued" and "402" in str(session["reason"])
                for session in sessions
            )

        await until(listed, "the worker lists why it holds them")  # but one that probes now
        await emulator.set(handshake_status=401)
        await dialed_again(emulator)
        second = await start_worker(WORKER_MAX_SESSIONS="3")
        first.signal(signal.SIGKILL)
        await held(second, 3)
        await dialed_again(emulator)
        await emulator.set(handshake_status=None)
    for speaker in speakers:
        transcript = await closed(broker, speaker.spec, 60)
        transcript.audit(speaker)
        account = transcript.closing[0].account
        assert account is not None
        assert not account.gaps
    await queue_empty(broker)


async def test_held_sessions_go_on_in_the_workers_that_have_room(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A worker of one slot holds several sessions, and then serves one after another."""
    worker = await start_worker(WORKER_MAX_SESSIONS="1")
    await emulator.set(handshake_status=402)
    speakers = [Speaker(broker_settings, 8, speed=20, conversation=f"c{n}") for n in range(4)]
    await asyncio.gather(*(speaker.speak() for speaker in speakers))
    await held(worker, 4)
    await emulator.set(handshake_status=None)
    for speaker in speakers:
        (await closed(broker, speaker.spec, 60)).audit(speaker)
    await held(worker, 0)


async def test_a_session_fails_after_the_recovery_time_with_the_reason(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_RECOVERY_SECONDS="1")
    await emulator.set(handshake_status=401)
    speaker = Speaker(broker_settings, 3, speed=20)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    assert transcript.states == ["assigned", "recovering", "failed"]
    reason = transcript.closing[0].reason or ""
    assert reason.startswith("no provider for 1 s: auth: deepgram: ")
    assert "401" in reason


async def test_a_fault_of_the_request_fails_at_once(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker()
    await emulator.set(handshake_status=400)
    speaker = Speaker(broker_settings, 3, speed=20)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    assert transcript.states == ["assigned", "failed"]
    assert "400" in (transcript.closing[0].reason or "")
    assert len(emulator.log) == 1, "the provider was dialed again"
