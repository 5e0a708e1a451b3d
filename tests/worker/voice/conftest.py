"""A worker that speaks tone words, and a broker with the streams of voice sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings

from .tone_worker import ToneWorker

SHORT = {"NATTERJACK_LEASE_SECONDS": "1"}


Start = Callable[..., Awaitable[ToneWorker]]


@pytest.fixture
async def broker(broker_settings: BrokerSettings) -> AsyncIterator[Broker]:
    """A connection to a broker that has the streams of voice sessions."""
    async with connected(broker_settings, name="test") as broker:
        await ensure(broker, StreamSettings(kinds=("speak",), lease_seconds=1))
        yield broker


@pytest.fixture
async def start(nats_server: EmbeddedServer, processes: None) -> AsyncIterator[Start]:
    workers: list[ToneWorker] = []

    async def started(**settings: str) -> ToneWorker:
        common = {"WORKER_KINDS": "speak", "WORKER_VOICE": "tones", **SHORT}
        worker = ToneWorker(nats_server.url, "", **{**common, **settings})
        workers.append(worker)
        await worker.start()
        return worker

    yield started
    for worker in workers:
        await worker.stop()
    for worker in workers:
        assert not worker.stray_lines, "a stack trace or an interpreter warning"
