"""What providers do to every session of a worker, beside what tests/worker/test_program* have."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from natterjack.broker.connection import Broker
from natterjack.settings import BrokerSettings

from ..emulators.deepgram import DeepgramEmulator
from ..waiting import until
from ..worker.programs import UNDISTURBED, Speaker, StartWorker, closed, spoken


@pytest.fixture
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[DeepgramEmulator]:
    """Closes with 1011 after so many seconds without audio or keepalive; the provider, after 10."""
    patience = getattr(request, "param", 10.0)
    async with DeepgramEmulator(receive_timeout_seconds=patience) as emulator:
        yield emulator


async def test_refused_for_a_while_in_mid_speech(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = await start_worker()
    speaker = Speaker(broker_settings, 40, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4)
    await emulator.set(refuse=True)
    emulator.drop()
    await until(lambda: worker.find("session recovering"), "it tries again")
    await speaking
    await emulator.set(refuse=False)
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries["dropped"] == 1
    assert account.recoveries["connect"] >= 1


async def test_closes_at_once_after_each_connect(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(**UNDISTURBED)
    await emulator.set(close_after_seconds=0.0, close_code=1011, connections=4)
    speaker = Speaker(broker_settings, 20, speed=2)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert len(emulator.log) == 5
    account = transcript.closing[0].account
    assert account is not None
    assert sum(account.recoveries.values()) == 4


async def test_answers_late(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """Late is not mute: no fault is found, and the last words are waited for."""
    await start_worker(NATTERJACK_LEASE_SECONDS="60")
    await emulator.set(latency_seconds=4.0)
    speaker = Speaker(broker_settings, 30, speed=2)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]


@pytest.mark.parametrize("emulator", [1.0], indirect=True)
async def test_closes_when_it_hears_nothing(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A worker that stands still for so long, but not for as long as its lease."""
    worker = await start_worker(NATTERJACK_LEASE_SECONDS="30")
    speaker = Speaker(broker_settings, 40, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4)
    worker.signal(signal.SIGSTOP)
    await until(lambda: emulator.log[0].closed, "the provider closes", 20)
    worker.signal(signal.SIGCONT)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert emulator.log[0].closed == "server 1011"
    assert transcript.states.count("assigned") == 1
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries == {"dropped": 1}


async def test_a_worker_that_stood_still_does_not_blame_the_provider(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """What was said meanwhile waits in its socket; its patience has run out while it stood."""
    worker = await start_worker(NATTERJACK_LEASE_SECONDS="60", WORKER_FINISH_SECONDS="1.5")
    await emulator.set(latency_seconds=1.0)
    speaker = Speaker(broker_settings, 12)
    await speaker.speak()
    await until(lambda: worker.find("session finishing"), "only answers are due")
    worker.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        await until(lambda: emulator.log[0].messages.get("Metadata"), "the provider has said all")
        await until(lambda: time.monotonic() - stopped > 2, "its patience is over")
    finally:
        worker.signal(signal.SIGCONT)
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
