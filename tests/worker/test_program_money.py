"""Budgets and limits combined with other faults."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.stored import StreamStore
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.fleet.budgets import read_usage
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer
from worker.metering.tally import today

from ..waiting import until
from .programs import RATE, Speaker, StartWorker, WorkerProcess, closed, stored

pytestmark = pytest.mark.process

LIMITED_USER = """
accounts { A { jetstream: enabled, users: [
  { user: admin, password: x }
  { user: worker, password: x, permissions: {
      subscribe: ">",
      publish: { allow: ">", deny: ["$JS.API.DIRECT.GET.KV_stt_budgets"] } } }
] } }
"""


async def test_a_limit_does_not_keep_an_abandoned_session_alive(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    """Audio stops within a word, and the limit is far away."""
    await start_worker(WORKER_PARK_SECONDS="1", WORKER_IDLE_SECONDS="8")
    speaker = Speaker(broker_settings, 4, max_seconds=3600)
    speaker.pcm = speaker.pcm[: 2 * int((speaker.places[-1].start + 0.12) * RATE)]
    await speaker.speak(end=False)
    transcript = await closed(broker, speaker.spec, 30)
    assert "idle" in (transcript.closing[0].reason or "")
    assert len(emulator.log) <= 2


async def test_audio_sent_before_a_budget_ended_is_still_transcribed(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    """The connection breaks after the budget is exhausted and before the last finals."""
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.t")
    await ready_broker.client.jetstream().publish(subject, b"8")
    await emulator.set(latency_seconds=4)
    worker = await start_worker()
    speaker = Speaker(broker_settings, 60, speed=1)
    speaking = asyncio.create_task(speaker.speak())

    async def finishing() -> bool:
        return '"finishing"' in (await worker.get("/sessions"))[1]

    await until(finishing, "the budget is used up", 40)
    received = emulator.log[-1].audio_seconds
    await emulator.set(latency_seconds=0)
    emulator.drop()
    transcript = await closed(ready_broker, speaker.spec)
    speaking.cancel()
    due = [
        word
        for word, place in zip(speaker.words, speaker.places, strict=True)
        if place.end < received - 0.3
    ]
    assert transcript.closing[0].reason == "budget"
    assert transcript.words[: len(due)] == due


async def test_the_daily_use_includes_all_captured_audio(
    start_worker: StartWorker, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    """Short sessions end between two reports."""
    await start_worker()
    captured = sent = 0.0
    for number in range(3):
        speaker = Speaker(broker_settings, 3, conversation=f"c{number}")
        await speaker.speak()
        account = (await closed(ready_broker, speaker.spec)).closing[0].account
        assert account is not None
        captured += account.captured_seconds
        sent += account.sent_seconds
    store = StreamStore(ready_broker, f"KV_{streams.USAGE_BUCKET}")
    await store.start()

    async def written() -> bool:
        days = (await read_usage(store, today(), "t")).get("t", [])
        return sum(day.sent_seconds for day in days) == pytest.approx(sent, abs=0.01)

    await until(written, "the daily use includes all audio sent")
    (day,) = (await read_usage(store, today(), "t"))["t"]
    assert day.captured_seconds == pytest.approx(captured, abs=0.01)


async def test_unreadable_budgets_and_limits_do_not_block_sessions(
    tmp_path: Path, emulator: DeepgramEmulator
) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text(LIMITED_USER)
    server = NatsServer(tmp_path / "store", extra_arguments=("-c", str(configuration)))
    await asyncio.to_thread(server.start)
    try:
        admin = BrokerSettings.model_validate({"url": server.url, "user": "admin", "password": "x"})
        async with connected(admin, name="admin", once=True) as broker:
            worker = WorkerProcess(server.url, emulator.url, NATS_USER="worker", NATS_PASSWORD="x")
            try:
                await worker.start()
                speaker = Speaker(admin, 8)
                await speaker.speak()
                transcript = await closed(broker, speaker.spec)
                transcript.audit(speaker)
                await until(
                    lambda: worker.find("account limits cannot be read"), "the error is logged"
                )
                began = time.monotonic()
                again = Speaker(admin, 8, conversation="again")
                await again.speak()
                (await closed(broker, again.spec)).audit(again)
                complaints = [
                    e for e in worker.log if "cannot be read, sessions start" in e["message"]
                ]
                assert len(complaints) == 2, "one for budgets, one for limits"
                assert time.monotonic() - began < 30
            finally:
                await worker.stop()
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_waiting_session_shows_its_lag(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, "account.deepgram")
    await ready_broker.client.jetstream().publish(subject, b'{"connections": 1}')
    worker = await start_worker()
    first = Speaker(broker_settings, 30, speed=1, conversation="first")
    second = Speaker(broker_settings, 12, conversation="second")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first.speak())
        await until(lambda: emulator.log, "the first session has the connection")
        tasks.create_task(second.speak())

        async def late() -> bool:
            text = (await worker.get("/metrics"))[1]
            (line,) = [x for x in text.splitlines() if x.startswith("natterjack_session_lag_sec")]
            return float(line.split()[1]) > 3

        await until(late, "the lag is shown")
        assert '"queued"' in (await worker.get("/sessions"))[1]
    for speaker in (first, second):
        (await closed(ready_broker, speaker.spec)).audit(speaker)
    states = (await stored(ready_broker, second.spec)).states
    assert states == ["assigned", "assigned", "streaming", "closed"]
