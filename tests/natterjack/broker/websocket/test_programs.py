"""Edge, worker and command over wss://, with a certificate of a private authority."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings, StreamSettings
from tests.edge_capture.program import Edge, announced
from tests.identities import Authority
from tests.waiting import bound, until
from tests.worker.programs import WorkerProcess, stored

from .servers import WebSocketServer

pytestmark = pytest.mark.process

WORDS = tones.sequence(30)


@pytest.fixture
async def server(tmp_path: Path, processes: None) -> AsyncIterator[WebSocketServer]:
    server = WebSocketServer(tmp_path / "nats", Authority(tmp_path / "authority"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def broker(server: WebSocketServer) -> AsyncIterator[Broker]:
    settings = BrokerSettings(url=server.url, ca=server.ca)
    async with connected(settings, name="test", once=True) as broker:
        await ensure(broker, StreamSettings())
        yield broker


async def test_speech_is_transcribed_although_the_server_is_killed(
    tmp_path: Path, server: WebSocketServer, broker: Broker
) -> None:
    environment = {"NATS_URL": server.url, **server.trust()}
    async with DeepgramEmulator() as emulator:
        worker = WorkerProcess(server.url, emulator.url, **server.trust())
        (tmp_path / "speech.raw").write_bytes(tones.encode(WORDS, phrase_words=5))
        await worker.start()
        try:
            with (tmp_path / "speech.raw").open("rb") as speech:
                edge = Edge(
                    tmp_path / "edge", ("stdin", "--speed", "4", "--wait"), environment, speech
                )
            try:

                async def words() -> list[str]:
                    found = announced(edge.stdout)
                    return (await stored(broker, found[0])).words if found else []

                await until(words, "the first final", 60)
                server.kill()
                server.start()
                assert await edge.exit_code(60) == 0, edge.stderr
                assert await words() == WORDS
            finally:
                edge.end()
            worker.signal(signal.SIGTERM)
            assert await worker.wait(60) == 0
            assert not worker.stray_lines
        finally:
            await worker.stop()
    listed = subprocess.run(
        [sys.executable, "-m", "natterjack", "sessions"], env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    assert (listed.returncode, listed.stderr) == (0, "")
