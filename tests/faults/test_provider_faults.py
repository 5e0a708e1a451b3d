"""Provider faults that affect all sessions of a worker, beyond tests/worker/test_program*."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..waiting import until
from ..worker.programs import UNDISTURBED, Speaker, StartWorker, closed, spoken

pytestmark = pytest.mark.process


@pytest.fixture
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[DeepgramEmulator]:
    """An emulator that closes with 1011 without audio or keepalives, by default after 10 s."""
    timeout = getattr(request, "param", 10.0)
    async with DeepgramEmulator(receive_timeout_seconds=timeout) as emulator:
        yield emulator


async def test_connections_refused_for_a_while_during_speech(
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
    await until(lambda: worker.find("session recovering"), "the worker retries")
    await speaking
    await emulator.set(refuse=False)
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    account = transcript.closing[0].account
    assert account is not None
    assert account.recoveries["dropped"] == 1
    assert account.recoveries["connect"] >= 1


async def test_connections_closed_after_each_handshake(
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


async def test_late_answers(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A late provider is not mute: no fault is reported, and the last words are awaited."""
    await start_worker(NATTERJACK_LEASE_SECONDS="60")
    await emulator.set(latency_seconds=4.0)
    speaker = Speaker(broker_settings, 30, speed=2)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]


@pytest.mark.parametrize("emulator", [1.0], indirect=True)
async def test_a_stopped_worker_loses_its_provider_connection(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The worker is stopped for longer than the provider's timeout and shorter than its lease."""
    worker = await start_worker(NATTERJACK_LEASE_SECONDS="30")
    speaker = Speaker(broker_settings, 40, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4)
    worker.freeze()
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


async def test_a_stopped_worker_does_not_blame_the_provider(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The answers wait in the socket, and WORKER_FINISH_SECONDS passes while it is stopped."""
    worker = await start_worker(NATTERJACK_LEASE_SECONDS="60", WORKER_FINISH_SECONDS="1.5")
    await emulator.set(latency_seconds=1.0)
    speaker = Speaker(broker_settings, 12)
    await speaker.speak()
    await until(lambda: worker.find("session finishing"), "all audio has been sent")
    await until(lambda: emulator.log[0].texts.get("CloseStream"), "only answers are outstanding")
    worker.freeze()
    stopped = time.monotonic()
    try:
        await until(
            lambda: emulator.log[0].messages.get("Metadata"), "the provider has sent everything"
        )
        await until(lambda: time.monotonic() - stopped > 2, "the finish timeout has passed")
    finally:
        worker.signal(signal.SIGCONT)
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    assert transcript.states == ["assigned", "streaming", "closed"]
