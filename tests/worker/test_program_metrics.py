"""A worker's metrics and ledger, compared with measurements of the emulator and the test."""

from __future__ import annotations

import asyncio
import re
import signal
import statistics
import time
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import Event, FinalEvent, InterimEvent, TurnEvent, UsageEvent, parse_event
from natterjack.settings import BrokerSettings
from natterjack.values import Account

from ..waiting import bound, lateness, until
from .programs import UNDISTURBED, Speaker, StartWorker, Transcript, WorkerProcess, closed, holder

pytestmark = pytest.mark.process

CHUNK_SECONDS = 0.08
PRICE = 3.6
"""Price per hour: 0.001 per second."""


def sample(metrics: str, name: str, **labels: str) -> float:
    """Return one sample of a scrape. Raises AssertionError if it does not exist."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    for line in metrics.splitlines():
        found = re.fullmatch(rf"natterjack_{name}(?:{{(.*)}})? (\S+)", line)
        if found and wanted <= set((found[1] or "").split(",")):
            return float(found[2])
    raise AssertionError(f"no {name} {labels} in\n{metrics}")


async def metrics_of(worker: WorkerProcess) -> str:
    status, text = await worker.get("/metrics")
    assert status == 200
    return text


async def test_latency_agrees_with_a_subscribers_measurement(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    """The emulator answers after 0.4 s, and the metric must agree within 20 ms."""
    delay = 0.4
    await emulator.set(latency_seconds=delay)
    worker = await start_worker()
    published: list[float] = []

    def clock() -> int:
        published.append(time.time())
        return time.time_ns()

    speaker = Speaker(broker_settings, 16, speed=1, clock=clock)
    received: list[tuple[float, Event]] = []

    async def take(message: Any) -> None:
        received.append((time.time(), parse_event(message.data)))

    await broker.client.subscribe(f"stt.transcript.{speaker.spec.key}.>", cb=take)
    async with lateness() as ours:
        await speaker.speak()
        await closed(broker, speaker.spec)

    def delay_at(at: float, position: float) -> float:
        """Return the seconds from publishing the chunk with the last sample before `position`."""
        return at - published[min(len(published) - 1, int((position - 1e-6) / CHUNK_SECONDS))]

    tolerance = bound(0.02) + ours.seconds
    metrics = await metrics_of(worker)
    for kind, events in (
        ("interim", [(at, e) for at, e in received if isinstance(e, InterimEvent)]),
        ("final", [(at, e) for at, e in received if isinstance(e, FinalEvent)]),
    ):
        reported = [event.latency for _, event in events if event.latency is not None]
        assert len(reported) == len(events) >= 2
        measured = [delay_at(at, event.end) for at, event in events]
        differences = [abs(a - b) for a, b in zip(reported, measured, strict=True)]
        assert statistics.median(differences) < tolerance, (kind, differences)
        assert min(reported) > delay - 0.001
        if kind == "interim":  # finals also wait for the end of speech
            assert min(reported) - delay < tolerance, reported
        labels = {"kind": kind, "provider": "deepgram"}
        count = sample(metrics, "transcript_latency_seconds_count", **labels)
        total = sample(metrics, "transcript_latency_seconds_sum", **labels)
        assert count == len(reported)
        assert total / count == pytest.approx(statistics.mean(reported), abs=0.001)

    spoken: list[float] = []
    last: tuple[float, FinalEvent] | None = None
    for at, event in received:
        if isinstance(event, FinalEvent):
            last = at, event
        elif isinstance(event, TurnEvent) and event.event == "ended" and last is not None:
            spoken.append(delay_at(last[0], last[1].words[-1].end or 0.0))
            last = None
    assert spoken
    count = sample(metrics, "final_after_speech_seconds_count", provider="deepgram")
    total = sample(metrics, "final_after_speech_seconds_sum", provider="deepgram")
    assert count == len(spoken)
    assert total / count == pytest.approx(statistics.mean(spoken), abs=3 * tolerance)
    assert total / count > delay

    assert sample(metrics, "first_interim_seconds_count", provider="deepgram") == 1
    assert sample(metrics, "first_interim_seconds_sum", provider="deepgram") > delay
    assert sample(metrics, "provider_connect_seconds_count", provider="deepgram") == 1
    assert sample(metrics, "session_claim_delay_seconds_count") == 1
    count = sample(metrics, "capture_delay_seconds_count", tenant="t")
    assert count >= 3, "live audio is sampled each second"
    # Without a microphone, the edge publishes a chunk at its start time, one chunk length early. A
    # chunk that takes longer to arrive is no longer early.
    early = sample(metrics, "capture_delay_seconds_bucket", tenant="t", le="0.0")
    assert early > count / 2, "a clock that is ahead gives negative delays"


def account_of(transcript: Transcript) -> Account:
    account = transcript.closing[0].account
    assert account is not None
    return account


async def test_the_ledger_agrees_with_the_emulators_log(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    worker = await start_worker(
        **UNDISTURBED, WORKER_PRICES=f"deepgram={PRICE}", WORKER_USAGE_SECONDS="1"
    )
    speaker = Speaker(broker_settings, 60, tenant="acme")

    async def break_twice() -> None:
        for _ in range(2):
            await until(lambda: emulator.log and emulator.log[-1].audio_seconds > 5, "audio")
            dialed = len(emulator.log)
            emulator.drop()
            await until(lambda n=dialed: len(emulator.log) > n, "it is dialed again")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(break_twice())
        await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    transcript.audit(speaker)
    received = sum(entry.audio_seconds for entry in emulator.log)
    account = account_of(transcript)
    used = account.providers["deepgram"]
    assert used.connections == len(emulator.log) == 3
    assert account.sent_seconds == pytest.approx(used.sent_seconds, abs=0.01)
    # Audio in transit when the connection dropped was sent but not received.
    assert received - 0.01 <= used.sent_seconds <= received + 2 * 1.0
    assert used.billed_seconds == pytest.approx(used.sent_seconds, abs=0.1)
    assert used.cost == pytest.approx(used.billed_seconds * PRICE / 3600, abs=1e-5)
    assert used.replayed_seconds == pytest.approx(
        used.sent_seconds - account.captured_seconds, abs=0.1
    )
    assert used.replayed_seconds > 0.1
    assert 0 < used.recovery_cost < used.cost
    assert used.estimated_seconds == 0

    usage = [event for event in transcript.events if isinstance(event, UsageEvent)]
    assert len(usage) >= 3, "periodically and at the end"
    assert usage[-1].providers == account.providers
    assert usage[-1].cost == pytest.approx(used.cost)
    assert usage[-1].currency == "USD"
    assert not usage[-1].low
    costs = [event.cost for event in usage if event.cost is not None]
    assert costs == sorted(costs)

    metrics = await metrics_of(worker)
    sent = sample(metrics, "audio_sent_seconds_total", provider="deepgram")
    assert sent == pytest.approx(used.sent_seconds, abs=0.01)
    cost = sample(metrics, "credits_used_total", provider="deepgram", tenant="acme", currency="USD")
    assert cost == pytest.approx(used.cost, abs=1e-4)
    assert sample(metrics, "recovery_seconds_count", cause="dropped") == 2


@pytest.mark.slow
async def test_the_ledger_includes_a_killed_workers_audio_within_a_second(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    kills = 3
    workers = [await start_worker() for _ in range(2)]
    speaker = Speaker(broker_settings, 1000, speed=2, tenant="acme")

    async def kill() -> None:
        for _ in range(kills):
            await until(lambda: emulator.log and emulator.log[-1].audio_seconds > 4, "audio")
            seen = len(emulator.log)
            victim = await holder(workers)
            victim.signal(signal.SIGKILL)
            await victim.wait()
            workers.append(await start_worker())
            await until(lambda n=seen: len(emulator.log) > n, "another worker continues")
        speaker.end_soon()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kill())
        await speaker.speak()
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    used = account_of(transcript).providers["deepgram"]
    received = sum(entry.audio_seconds for entry in emulator.log)
    assert used.connections == len(emulator.log) == kills + 1
    # At twice real time, the audio missed by reports once a second and its estimate are doubled. On
    # a busy machine, reports are late.
    assert abs(used.sent_seconds - received) <= kills * 2 * bound(1) + 0.1, (used, received)
    assert 0.5 <= used.estimated_seconds <= kills * 0.5
    assert used.replayed_seconds > 0


async def test_max_seconds_gives_warnings(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    await start_worker(WORKER_BUDGET_WARNINGS="0.3,0.6")
    speaker = Speaker(broker_settings, 60, speed=1, max_seconds=12)
    await speaker.speak()
    transcript = await closed(broker, speaker.spec)
    warnings = [e for e in transcript.events if isinstance(e, UsageEvent) and e.low]
    left = [event.credits_remaining_seconds or 0.0 for event in warnings]
    assert len(left) == 2
    assert 12 * 0.7 >= left[0] > 12 * 0.4 >= left[1] > 0, left
    assert transcript.closing[0].reason == "budget"
    account = account_of(transcript)
    assert account.sent_seconds == pytest.approx(12, abs=0.1)
    assert transcript.words == speaker.words[: len(transcript.words)]
