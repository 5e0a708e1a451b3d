"""A backup of the broker's store, and a disaster after it, as docs/handbook.md tells them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from natterjack.connection import Broker
from natterjack.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.streams import ensure

from ..emulators import tones
from ..worker.conftest import emulator, provider_settings, start_worker
from ..worker.programs import Speaker, StartWorker, closed, queue_empty, spoken

__all__ = ["emulator", "provider_settings", "start_worker"]


async def test_a_broker_that_lost_its_disk_goes_on_from_a_backup(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """What was stored by then is there, sessions that were open by then go on, and what was stored
    after it is missing and said to be: nothing is doubled."""
    await start_worker()
    ended = Speaker(broker_settings, 8, conversation="ended")
    await ended.speak()
    await closed(broker, ended.spec)
    await queue_empty(broker)
    speaker = Speaker(broker_settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 8.0)
    kept = speaker.said_seconds

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
    said = [place.word for place in speaker.places if place.end < kept - 1.0]
    assert transcript.heard[: len(said)] == said
    counts = tones.compare(speaker.words, transcript.heard)
    assert counts.doubled == counts.out_of_order == 0, transcript.told()
    account = transcript.closing[-1].account
    assert account is not None
    assert account.gap_seconds.get("missing", 0.0) > 0
    await queue_empty(broker)


async def test_a_broker_that_lost_all_is_made_anew_and_serves(
    nats_server: EmbeddedServer,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    """Without a backup what was stored is gone; workers and subscribers go on with what comes."""
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
