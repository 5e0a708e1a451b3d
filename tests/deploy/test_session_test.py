"""What `helm test` runs, on a real broker, with a real worker and a real edge."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import sysconfig
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from natterjack.connection import Broker
from natterjack.embedded import EmbeddedServer

from ..emulators import tones
from ..emulators.deepgram import DeepgramEmulator
from ..waiting import bound
from ..worker.programs import WorkerProcess
from .chart import CHART

RATE = 16_000


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator() as emulator:
        yield emulator


@pytest.fixture
async def worker(
    nats_server: EmbeddedServer, emulator: DeepgramEmulator
) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(nats_server.url, emulator.url)
    await worker.start()
    yield worker
    await worker.stop()


async def session_test(nats_url: str, **settings: str) -> tuple[int, str, str]:
    """Exit status, and what it said, on both outputs."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"  # as in the image
    process = await asyncio.create_subprocess_exec(
        sys.executable, CHART / "files" / "session_test.py",
        env={**os.environ, "PATH": path, "NATS_URL": nats_url, **settings},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, complained = await asyncio.wait_for(process.communicate(), bound(60))
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


def recording(path: Path, pcm: bytes) -> str:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(pcm)
    return str(path)


async def test_a_release_that_works(nats_server: EmbeddedServer, worker: WorkerProcess) -> None:
    status, said, complained = await session_test(nats_server.url)
    assert status == 0, complained
    closing = json.loads(said.splitlines()[-1])
    assert closing["state"] == "closed"
    assert closing["account"]["received_seconds"] == closing["account"]["captured_seconds"] == 4


async def test_speech_is_understood(
    nats_server: EmbeddedServer, worker: WorkerProcess, emulator: DeepgramEmulator, tmp_path: Path
) -> None:
    words = tones.sequence(5)
    speech = recording(tmp_path / "speech.wav", tones.encode(words, RATE, tail_seconds=0.5))
    status, _, complained = await session_test(nats_server.url, TEST_AUDIO=speech)
    assert status == 0, complained
    assert emulator.words == words


async def test_a_provider_that_refuses_is_said(
    nats_server: EmbeddedServer, worker: WorkerProcess, emulator: DeepgramEmulator
) -> None:
    emulator.api_key = "another"
    status, _, complained = await session_test(nats_server.url)
    assert status == 1
    assert "session test: it ended as failed" in complained
    assert "401" in complained


async def test_a_release_without_workers_is_said(
    nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    status, _, complained = await session_test(nats_server.url, TEST_SECONDS="7")
    assert status == 1
    assert "is a worker ready" in complained


async def test_a_broker_that_is_not_there_is_said(nats_server: EmbeddedServer) -> None:
    nats_server.stop()
    status, _, complained = await session_test(nats_server.url)
    assert status == 1
    assert f"session test: no NATS at {nats_server.url}" in complained
