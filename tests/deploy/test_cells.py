"""Two cells on one server: an installation with the same names per account.

docs/explanation/scaling.md describes cells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer

from ..worker.programs import Speaker, WorkerProcess, closed, queue_empty

pytestmark = pytest.mark.process

ACCOUNTS = """
accounts {
  NORTH { jetstream: enabled, users: [ { user: north, password: n } ] }
  SOUTH { jetstream: enabled, users: [ { user: south, password: s } ] }
}
"""
CELLS = {"north": "n", "south": "s"}


@pytest.fixture
def server(tmp_path: Path, processes: None) -> Iterator[NatsServer]:
    (tmp_path / "nats.conf").write_text(ACCOUNTS)
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(tmp_path / "nats.conf")))
    server.start()
    yield server
    server.stop()


async def test_the_same_names_in_two_accounts_are_two_installations(
    server: NatsServer, emulator: DeepgramEmulator
) -> None:
    """Run a session with the same key but different words in each account."""
    cells = {
        user: BrokerSettings(url=server.url, user=user, password=SecretStr(password))
        for user, password in CELLS.items()
    }
    workers = [
        WorkerProcess(
            server.url, emulator.url, NATS_USER=user, NATS_PASSWORD=password, WORKER_NAME=user
        )
        for user, password in CELLS.items()
    ]
    try:
        await asyncio.gather(*(worker.start() for worker in workers))
        speakers = [
            Speaker(cell, words) for cell, words in zip(cells.values(), (16, 24), strict=True)
        ]
        assert speakers[0].spec.key == speakers[1].spec.key
        await asyncio.gather(*(speaker.speak() for speaker in speakers))
        for (user, cell), speaker in zip(cells.items(), speakers, strict=True):
            async with connected(cell, name="auditor") as broker:
                transcript = await closed(broker, speaker.spec)
                transcript.audit(speaker)
                assert {event.worker for event in transcript.closing} == {user}
                await queue_empty(broker)
                stored = await broker.client.jetstream().stream_info(streams.TRANSCRIPTS)
                assert stored.state.messages == len(transcript.events), (
                    "events of the other account"
                )
        for worker in workers:
            assert not worker.stray_lines
    finally:
        for worker in workers:
            await worker.stop()
