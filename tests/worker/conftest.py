"""Fixtures of the worker's tests: a minimal edge, stores, an emulator and worker processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from nats.js import JetStreamContext

from natterjack.audio import ChunkHeader, encode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.server import Emulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject
from tests.loops import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories

from .programs import StartWorker, WorkerProcess


class PlainEdge:
    """Publishes chunks of 100 frames at 8 kHz. All bytes of chunk n are n."""

    FRAMES = 100

    def __init__(self, broker: Broker, spec: SessionSpec | None = None) -> None:
        self.spec = spec or SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=8000)
        self._js: JetStreamContext = broker.client.jetstream()
        self._subject = audio_subject(self.spec.key)

    async def publish(
        self, *seqs: int, pos: int | None = None, end: bool = False, frames: int = FRAMES
    ) -> None:
        for seq in seqs:
            header = ChunkHeader(
                self.spec.session_id,
                seq,
                seq * self.FRAMES if pos is None else pos,
                1_000_000_000 + seq * self.FRAMES * 125_000,
                end,
            )
            await self._js.publish(
                self._subject,
                bytes([seq % 251]) * (2 * frames),
                headers=encode_chunk_headers(header),
            )

    async def raw(self, headers: dict[str, str] | None, payload: bytes) -> None:
        await self._js.publish(self._subject, payload, headers=headers)


@pytest.fixture
def edge(ready_broker: Broker) -> PlainEdge:
    return PlainEdge(ready_broker)


@pytest.fixture
async def audio_store(ready_broker: Broker) -> StreamStore:
    store = StreamStore(ready_broker, streams.AUDIO)
    await store.start()
    return store


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator() as emulator:
        yield emulator


@pytest.fixture
def provider_settings() -> dict[str, str]:
    """Settings for the emulator's provider, in addition to those for Deepgram."""
    return {}


@pytest.fixture
async def start_worker(
    nats_server: EmbeddedServer, emulator: Emulator, provider_settings: dict[str, str]
) -> AsyncIterator[StartWorker]:
    """Start workers that use `emulator`, and check at the end that none wrote a stack trace."""
    workers: list[WorkerProcess] = []

    async def start(**settings: str | None) -> WorkerProcess:
        worker = WorkerProcess(nats_server.url, emulator.url, **{**provider_settings, **settings})
        workers.append(worker)
        await worker.start()
        return worker

    yield start
    for worker in workers:
        await worker.stop()
    secrets = {
        value for name, value in provider_settings.items() if name.endswith(("_KEY", "_TOKEN"))
    }
    for worker in workers:
        assert not worker.stray_lines, "a stack trace or an interpreter warning"
        assert not [line for line in worker.log for secret in secrets if secret in str(line)]
