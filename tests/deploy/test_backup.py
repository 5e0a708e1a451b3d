"""Backup of the broker's store and disaster recovery (docs/how-to/back-up-and-restore.md)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.broker.control import control_session
from natterjack.broker.streams import ensure
from natterjack.control import ControlRequest
from natterjack.emulators import tones
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from tests.natterjack.cli.commands import Command

from ..waiting import bound, until
from ..worker.conftest import emulator, provider_settings, start_worker
from ..worker.programs import Speaker, StartWorker, closed, holder, queue_empty, spoken

pytestmark = pytest.mark.process

__all__ = ["emulator", "provider_settings", "start_worker"]


async def test_a_broker_that_lost_its_disk_resumes_from_a_backup(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """Data and sessions of the backup are there; later data is reported as missing.

    Nothing is duplicated.
    """
    await start_worker()
    ended = Speaker(broker_settings, 8, conversation="ended")
    await ended.speak()
    await closed(broker, ended.spec)
    await queue_empty(broker)
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 8.0)
    kept = speaker.spoken_seconds

    nats_server.stop()
    store = nats_server.store / "jetstream"
    shutil.copytree(store, tmp_path / "backup")
    nats_server.start()
    await spoken(speaker, kept + 8.0)

    nats_server.kill()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "backup", store)
    nats_server.start()
    await speaking

    (await closed(broker, ended.spec)).audit(ended)
    transcript = await closed(broker, speaker.spec, 60)
    expected = [place.word for place in speaker.places if place.end < kept - 1.0]
    assert transcript.words[: len(expected)] == expected
    counts = tones.compare(speaker.words, transcript.words)
    assert counts.doubled == counts.out_of_order == 0, transcript.describe()
    account = transcript.closing[-1].account
    assert account is not None
    assert account.gap_seconds.get("missing", 0.0) > 0
    await queue_empty(broker)


@pytest.mark.parametrize("cure", ["stop", "a short WORKER_IDLE_SECONDS"])
async def test_a_session_that_ended_after_the_backup_returns_until_it_is_stopped(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
    tmp_path: Path,
    cure: str,
) -> None:
    """No edge ends the session, which would hold a slot for WORKER_IDLE_SECONDS."""
    worker = await start_worker()
    speaker = Speaker(broker_settings, 20, conversation="gone")
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 3.0)
    nats_server.stop()
    store = nats_server.store / "jetstream"
    shutil.copytree(store, tmp_path / "backup")
    nats_server.start()
    await speaking
    before = await closed(broker, speaker.spec)
    await queue_empty(broker)

    nats_server.kill()
    await worker.stop()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "backup", store)
    nats_server.start()
    # The state is "no audio" once the provider's connection is closed, after 30 s by default.
    shown = {"WORKER_PARK_SECONDS": "1"} if cure == "stop" else {"WORKER_IDLE_SECONDS": "2"}
    again = await start_worker(**shown)
    if cure == "stop":
        await holder([again])
        await _shown(broker_settings, speaker)
        answer = await control_session(
            broker, speaker.spec.key, ControlRequest(command="stop", reason="restored"),
            timeout=bound(10),
        )  # fmt: skip
        assert answer.ok, answer
    after = await closed(broker, speaker.spec)
    await queue_empty(broker)
    assert len(after.words) < len(before.words)
    assert after.words == before.words[: len(after.words)]


async def _shown(settings: BrokerSettings, speaker: Speaker) -> None:
    """Whether `natterjack sessions` shows the session as having no audio."""

    async def look() -> bool:
        async with Command("sessions", "--no-words", NATS_URL=settings.url, terminal=False) as one:
            assert await one.status() == 0, one.errors
        return any(str(speaker.spec.key) in x and "no audio" in x for x in one.out.splitlines())

    await until(look, "`natterjack sessions` shows no audio", 30)


async def test_a_broker_that_lost_everything_is_recreated_and_works(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    """Without a backup the stored data is lost; workers and subscribers continue with new data."""
    await start_worker()
    before = Speaker(broker_settings, 8, conversation="before")
    await before.speak()
    await closed(broker, before.spec)
    nats_server.kill()
    shutil.rmtree(nats_server.store / "jetstream")
    nats_server.start()
    after = Speaker(broker_settings, 8, conversation="after")
    await after.speak()
    (await closed(broker, after.spec, 60)).audit(after)
    await ensure(broker, StreamSettings(create_streams=False))
