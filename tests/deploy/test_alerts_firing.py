"""A real Prometheus with the shipped rules fires the alerts that a broken set-up must raise."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import session_subject

from ..waiting import until
from ..worker.programs import Speaker, StartWorker, WorkerProcess, closed
from .names import RULE_FILES
from .prometheus import Prometheus

pytestmark = pytest.mark.process


@pytest.fixture
def rule_files(tmp_path: Path) -> tuple[Path, ...]:
    """The rules, except that every alert is due after a second and looks back 15."""
    copies = []
    for path in RULE_FILES:
        text = re.sub(r"(?m)^(\s+for: )\w+$", r"\g<1>1s", path.read_text())
        copies.append(tmp_path / path.name)
        copies[-1].write_text(re.sub(r"\[(5m|10m|15m|30m|1h|6h)\]", "[15s]", text))
    return tuple(copies)


@pytest.fixture
async def waiting_worker(
    nats_server: EmbeddedServer, emulator: DeepgramEmulator
) -> AsyncIterator[WorkerProcess]:
    """A worker that has never reached NATS."""
    nats_server.stop()
    worker = WorkerProcess(nats_server.url, emulator.url)
    await worker.launch()
    try:
        await until(lambda: worker.find("waiting for NATS"), "its port is open", 60)
        yield worker
    finally:
        await worker.stop()


async def firing(prometheus: Prometheus) -> dict[str, str]:
    """The names of the alerts that fire now, with their severity."""
    alerts = (await prometheus.ask("alerts"))["alerts"]
    return {
        alert["labels"]["alertname"]: alert["labels"]["severity"]
        for alert in alerts
        if alert["state"] == "firing"
    }


async def test_a_worker_that_never_reached_nats_pages_somebody(
    waiting_worker: WorkerProcess, tmp_path: Path, rule_files: tuple[Path, ...]
) -> None:
    target = waiting_worker.http.removeprefix("http://")
    expected = {
        "NatterjackNoWorkerReady": "critical",
        "NatterjackWorkersNotReady": "critical",
        "NatterjackNatsDisconnected": "warning",
    }
    async with Prometheus(tmp_path / "prometheus", [target], rule_files) as prometheus:

        async def fired() -> bool:
            return expected.items() <= (await firing(prometheus)).items()

        await until(fired, "the alerts fire", 60)
    async with aiohttp.ClientSession() as http, http.get(f"{waiting_worker.http}/livez") as answer:
        assert answer.status == 200, "an orchestrator must not restart it"


@pytest.mark.slow
async def test_missing_streams_page_somebody_and_applying_them_resolves_it(
    start_worker: StartWorker, ready_broker: Broker, tmp_path: Path, rule_files: tuple[Path, ...]
) -> None:
    worker = await start_worker(NATTERJACK_CREATE_STREAMS="false")
    js = ready_broker.client.jetstream()
    spec = SessionSpec(tenant="t", conversation="c", speaker="s")
    await js.publish(session_subject(spec.key), spec.model_dump_json().encode())
    expected = {
        "NatterjackStreamMissing": "critical",
        "NatterjackConsumerMissing": "critical",
        "NatterjackWorkersNotReady": "critical",
        "NatterjackNoAudioReceived": "warning",
    }
    target = worker.http.removeprefix("http://")
    async with Prometheus(tmp_path / "prometheus", [target], rule_files) as prometheus:

        async def quiet() -> bool:
            return bool(await prometheus.query("natterjack_worker_ready == 1"))

        async def fired() -> bool:
            return expected.items() <= (await firing(prometheus)).items()

        async def resolved() -> bool:
            return not any("Missing" in name for name in await firing(prometheus))

        await until(quiet, "the worker is scraped", 30)
        assert await resolved()
        await js.delete_stream(streams.AUDIO)
        await js.delete_consumer(streams.SESSIONS, streams.CONSUMER)
        await until(fired, "the alerts fire", 60)
        await streams.ensure(ready_broker, StreamSettings())
        await until(resolved, "the alerts resolve", 60)


@pytest.mark.slow
async def test_speech_that_is_late_and_sessions_that_are_incomplete_page_somebody(
    start_worker: StartWorker,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    tmp_path: Path,
    rule_files: tuple[Path, ...],
) -> None:
    worker = await start_worker(WORKER_FINAL_GOAL_SECONDS="0.001", WORKER_HOLE_SECONDS="0.5")
    expected = {
        "NatterjackSpeechLateBurnFast": "critical",
        "NatterjackSpeechLateBurnSlow": "warning",
        "NatterjackSessionsIncompleteBurnFast": "critical",
        "NatterjackSessionsIncompleteBurnSlow": "warning",
    }
    seen: set[tuple[str, str]] = set()
    target = worker.http.removeprefix("http://")
    async with Prometheus(tmp_path / "prometheus", [target], rule_files) as prometheus:
        await until(lambda: prometheus.query("natterjack_worker_ready == 1"), "a scrape", 30)

        async def fired() -> bool:
            seen.update((await firing(prometheus)).items())
            return seen >= expected.items()

        async def speak(number: int) -> None:
            speaker = Speaker(broker_settings, 12, conversation=f"c{number}")
            speaker.left_out = {20}
            await speaker.speak()
            await closed(ready_broker, speaker.spec, 60)

        watching = asyncio.create_task(until(fired, "the alerts fire", 90))
        await asyncio.gather(*(speak(number) for number in range(4)))
        await watching
