"""Workers that die, freeze, are cut off or restarted, beyond the cases in test_program.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.login.attempts import Attempts
from natterjack.broker.streams import ensure
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import Event, InterimEvent, parse_event
from natterjack.settings import BrokerSettings, StreamSettings
from tests.nats_server import NatsServer
from worker.__main__ import _start as start
from worker.claim import Claimer
from worker.metrics import Metrics
from worker.providers.loading import Providers, Voices
from worker.settings import WorkerSettings
from worker.stream_watch import StreamWatch

from ..waiting import soon, until
from ..worker.programs import (
    RATE,
    Speaker,
    StartWorker,
    WorkerProcess,
    closed,
    holder,
    queue_empty,
    spoken,
)
from .audit import audit
from .proxy import NatsProxy

pytestmark = pytest.mark.process

StartBehind = Callable[..., Awaitable[tuple[WorkerProcess, NatsProxy]]]


@pytest.fixture
async def start_behind(
    nats_server: NatsServer, emulator: DeepgramEmulator
) -> AsyncIterator[StartBehind]:
    """Start workers that reach the broker through their own proxies."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: str) -> tuple[WorkerProcess, NatsProxy]:
            proxy = await stack.enter_async_context(NatsProxy(nats_server.port))
            worker = WorkerProcess(proxy.url, emulator.url, **settings)
            stack.push_async_callback(worker.stop)
            await worker.start()
            return worker, proxy

        yield start


async def requests(broker: Broker) -> int:
    """Return the number of requests in the queue, including those held by workers."""
    return (await broker.client.jetstream().stream_info(streams.SESSIONS)).state.messages


async def durable_events(broker: Broker, speaker: Speaker) -> AsyncIterator[Event]:
    """Yield a plain subscriber's events, including fenced ones that the stream refuses."""
    subscription = await broker.client.subscribe(f"stt.transcript.{speaker.spec.key}.>")
    async for message in subscription.messages:
        if not isinstance(event := parse_event(message.data), InterimEvent):
            yield event


async def test_a_zombie_publishes_and_acks_nothing_and_disconnects(
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """A worker frozen for longer than the lease resumes while its successor transcribes."""
    workers = [await start_worker(), await start_worker()]
    speaker = Speaker(broker_settings, 70, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 5.0)
    zombie = await holder(workers)
    successor = next(worker for worker in workers if worker is not zombie)
    zombie.freeze()
    await until(lambda: successor.find("session streaming"), "the other worker has it", 20)
    seen: list[Event] = []

    async def watch() -> None:
        async for event in durable_events(broker, speaker):
            seen.append(event)

    watching = asyncio.create_task(watch())
    await broker.client.flush()
    zombie.signal(signal.SIGCONT)
    await until(lambda: zombie.find("session lost"), "the zombie noticed", 20)
    await until(lambda: emulator.log[0].closed, "its provider connection is closed")
    await until(lambda: emulator.open_connections == 1, "only the successor's connection is open")
    assert await requests(broker) == 1, "the zombie acknowledged"
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    watching.cancel()
    stored = {event.sequence for event in transcript.events if event.epoch == 1}
    late = [e for e in seen if e.epoch == 1 and not isinstance(e, InterimEvent)]
    # The broker refuses the event that was in the socket when the worker was frozen.
    assert all(event.sequence not in stored for event in late)
    assert len(late) <= 1, late
    await queue_empty(broker)


@pytest.mark.parametrize("how", ["cut", "stall"])
@pytest.mark.parametrize("longer_than_the_lease", [False, True])
async def test_a_worker_that_is_cut_off_from_the_broker(
    how: str,
    longer_than_the_lease: bool,
    start_behind: StartBehind,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    lines = dict([await start_behind(), await start_behind()])
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4.0)
    old = await holder(list(lines))
    (other,) = (worker for worker in lines if worker is not old)
    at = speaker.spoken_seconds
    lines[old].cut() if how == "cut" else lines[old].stall()
    if longer_than_the_lease:
        await until(lambda: other.find("session streaming"), "the other worker has it", 20)
    else:
        await spoken(speaker, at + 2)  # a second
    lines[old].heal()
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    transcript.audit(speaker)
    if longer_than_the_lease:
        assert transcript.states.count("assigned") > 1
    await queue_empty(broker)
    for worker in lines:
        assert not worker.stray_lines


async def test_a_gap_stays_on_the_account_after_a_kill(
    start_behind: StartBehind, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """The worker is killed between a final that ends in the gap and its checkpoint. The next worker
    resumes at the end of that final and does not see the gap again."""
    quick = {"WORKER_HOLE_SECONDS": "0.5", "NATTERJACK_LEASE_SECONDS": "1"}
    worker, line = await start_behind(**quick)
    speaker = Speaker(broker_settings, 60, speed=4)
    speaker.left_out = set(range(60, 80))
    start, end = 60 * 0.08, 80 * 0.08
    trigger = line.before(
        f"$KV.{streams.CHECKPOINTS_BUCKET}.{speaker.spec.key}",
        lambda: worker.signal(signal.SIGKILL),
        where=lambda message: json.loads(message.payload)["position"] > start * RATE,
    )  # fmt: skip
    speaking = asyncio.create_task(speaker.speak())
    await soon(trigger.fired.wait(), 30)
    await start_behind(**quick)
    await speaking
    transcript = await closed(broker, speaker.spec, 60)
    kept = [place for place in speaker.places if place.end <= start or place.start >= end]
    found = audit(
        transcript.events, [place.word for place in kept], kept,
        captured_seconds=speaker.seconds, gaps=[(start, end, "missing")],
    )  # fmt: skip
    assert found.clean, f"{found}\n{transcript.describe()}"


async def test_a_rolling_restart_under_load(
    start_worker: StartWorker, broker: Broker, broker_settings: BrokerSettings
) -> None:
    """Every worker is replaced during six sessions; no session lacks a worker for long."""
    lease = {"NATTERJACK_LEASE_SECONDS": "60"}  # no worker is killed here
    workers = [await start_worker(**lease) for _ in range(3)]
    speakers = [Speaker(broker_settings, 60, speed=2, conversation=f"c{n}") for n in range(6)]
    speaking = asyncio.gather(*(speaker.speak() for speaker in speakers))
    await spoken(speakers[-1], 3.0)
    for old in workers:
        await start_worker(**lease)
        old.signal(signal.SIGTERM)
        assert await old.wait(30) == 0
    await speaking
    for speaker in speakers:
        transcript = await closed(broker, speaker.spec, 60)
        transcript.audit(speaker)
        # Each was handed over in order: no lease had to run out.
        assert transcript.states.count("handed_over") == transcript.states.count("assigned") - 1


async def test_a_slow_consumer_is_cut_off_and_loses_nothing(
    tmp_path: Path, emulator: DeepgramEmulator
) -> None:
    """The server disconnects a worker that does not read; it reads the audio from the stream."""
    (tmp_path / "nats.conf").write_text("write_deadline: 500ms\nmax_pending: 1MB\n")
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(tmp_path / "nats.conf")))
    server.start()
    worker = WorkerProcess(server.url, emulator.url, DEEPGRAM_CATCH_UP_RATE="100")
    try:
        settings = BrokerSettings(url=server.url)
        async with connected(settings, name="test") as broker:
            await worker.start()
            await ensure(broker, StreamSettings())
            speaker = Speaker(settings, 1500, speed=40, sample_rate=48_000)
            speaking = asyncio.create_task(speaker.speak())
            await spoken(speaker, 10)
            worker.freeze()
            await until(
                lambda: "Slow Consumer" in server.log_path.read_text(),
                "the server disconnects it",
                60,
            )
            worker.signal(signal.SIGCONT)
            speaker.end_soon()
            await speaking
            (await closed(broker, speaker.spec, 120)).audit(speaker)
    finally:
        await worker.stop()
        server.stop()


async def test_sessions_leave_no_tasks_or_connections(
    emulator: DeepgramEmulator,
    broker_settings: BrokerSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After sessions with faults, tasks, subscriptions and connections are as before."""
    monkeypatch.setenv("DEEPGRAM_URL", emulator.url)
    monkeypatch.setenv("DEEPGRAM_API_KEY", "a-key")
    monkeypatch.setenv("DEEPGRAM_CATCH_UP_RATE", "8")
    settings = WorkerSettings(provider="deepgram")
    providers = Providers(settings)
    metrics = Metrics(1)
    watch = StreamWatch(StreamSettings(), metrics)
    services, _ = await start(
        settings,
        broker_settings,
        StreamSettings(),
        providers,
        Voices(settings),
        metrics,
        watch,
        Attempts(),
        once=True,
    )
    claimer = Claimer(services)
    claiming = asyncio.create_task(claimer.run())

    async def sessions(count: int, name: str) -> None:
        speakers = [
            Speaker(broker_settings, 16, speed=4, conversation=f"{name}{n}") for n in range(count)
        ]
        await asyncio.gather(*(speaker.speak() for speaker in speakers))
        async with connected(broker_settings, name="auditor") as broker:
            for speaker in speakers:
                (await closed(broker, speaker.spec, 60)).audit(speaker)
            await queue_empty(broker)
        await until(lambda: not claimer.sessions, "no session is held")

    def left() -> Counter[str]:
        tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
        return tasks + Counter(subscriptions=services.broker.client.subscription_count)

    await sessions(1, "first")
    await until(lambda: emulator.open_connections == 0, "the provider's connection is closed")
    before = left()
    await emulator.set(drop_mid_word=3, connections=4)
    await sessions(8, "more")
    await until(lambda: emulator.open_connections == 0, "the provider's connections are closed")
    await until(lambda: not left() - before, f"{left()} has no more than {before}")
    claimer.drain()
    await soon(claiming, 20)
    await services.broker.close()
    await providers.close()
