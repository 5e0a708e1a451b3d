"""The script of `helm test`, with a real broker, worker and edge."""

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

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from tests.nats_server import NatsServer
from tests.natterjack.cli.commands import Command

from ..waiting import soon
from ..worker.programs import UNDISTURBED, WorkerProcess
from .chart import CHART, container, find, given, pods, render

pytestmark = pytest.mark.process

RATE = 16_000


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator() as emulator:
        yield emulator


@pytest.fixture
async def worker(
    nats_server: NatsServer, emulator: DeepgramEmulator
) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(nats_server.url, emulator.url, **UNDISTURBED)
    await worker.start()
    yield worker
    await worker.stop()


async def session_test(NATS_URL: str, **settings: str) -> tuple[int, str, str]:
    """Run the script and return its exit status, standard output and standard error."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"  # as in the image
    process = await asyncio.create_subprocess_exec(
        sys.executable, CHART / "files" / "session_test.py",
        env={**os.environ, "PATH": path, "NATS_URL": NATS_URL, **settings},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await soon(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def recording(path: Path, pcm: bytes) -> str:
    with wave.open(str(path), "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(RATE)
        audio.writeframes(pcm)
    return str(path)


async def test_a_release_that_works(nats_server: NatsServer, worker: WorkerProcess) -> None:
    status, output, errors = await session_test(nats_server.url)
    assert status == 0, errors
    closing = json.loads(output.splitlines()[-1])
    assert closing["state"] == "closed"
    assert closing["account"]["received_seconds"] == closing["account"]["captured_seconds"] == 4


async def test_speech_is_transcribed(
    nats_server: NatsServer, worker: WorkerProcess, emulator: DeepgramEmulator, tmp_path: Path
) -> None:
    words = tones.sequence(5)
    speech = recording(tmp_path / "speech.wav", tones.encode(words, RATE, tail_seconds=0.5))
    status, _, errors = await session_test(nats_server.url, TEST_AUDIO=speech)
    assert status == 0, errors
    assert emulator.words == words


async def test_a_refusal_of_the_provider_is_reported(
    nats_server: NatsServer, worker: WorkerProcess, emulator: DeepgramEmulator
) -> None:
    emulator.api_key = "another"
    status, _, errors = await session_test(nats_server.url)
    assert status == 1
    assert "session test: no provider serves the session: queued: auth: deepgram: " in errors
    assert "401" in errors


async def test_a_release_without_workers_is_reported(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    status, _, errors = await session_test(nats_server.url, TEST_SECONDS="7")
    assert status == 1
    assert "is a worker ready" in errors


async def test_an_unreachable_broker_is_reported(nats_server: NatsServer) -> None:
    nats_server.stop()
    status, _, errors = await session_test(nats_server.url)
    assert status == 1
    assert f"session test: no NATS at {nats_server.url}" in errors


async def test_the_settings_and_users_of_each_role_suffice(
    tmp_path: Path, emulator: DeepgramEmulator
) -> None:
    """Run stream job, worker and test with a release's settings and users on a secured broker."""
    users = tmp_path / "users"
    for role in (["operator"], ["worker"], ["edge", "--tenant", "helm-test", "--name", "test"]):
        await natterjack("users", "add", "--dir", str(users), *role)
    (tmp_path / "nats.conf").write_text('include "users/users.conf"')
    server = NatsServer(tmp_path / "nats", extra_arguments=("-c", str(tmp_path / "nats.conf")))
    server.start()
    documents = render({"nats": {"auth": {"existingSecret": "users"}}, "streams": {"replicas": 1}})
    keys = {
        name.removeprefix("r-natterjack-"): volume["secret"]["items"][0]["key"]
        for name, pod in pods(documents)
        for volume in pod["spec"]["volumes"]
        if volume["name"] == "nats-user"
    }

    def settings(component: str) -> dict[str, str]:
        """Return the settings of the pod, adapted to the broker and files of the test."""
        seed = str(users / keys[component])
        return {**given(documents, component), "NATS_URL": server.url, "NATS_NKEY": seed}

    try:
        command = container(find(documents, "Job", "streams")["spec"]["template"])["command"]
        await natterjack(*command[1:], **settings("streams"))
        here = {"WORKER_HTTP_PORT": "0", "WORKER_SECRETS_DIR": None}
        worker = WorkerProcess(server.url, emulator.url, **{**settings("worker"), **here})
        try:
            await worker.start()
            status, output, errors = await session_test(**settings("test"))
            assert status == 0, errors
            assert json.loads(output.splitlines()[-1])["state"] == "closed"
            assert not [line for line in worker.log if "ermission" in str(line)]
        finally:
            await worker.stop()
    finally:
        server.stop()


async def natterjack(*arguments: str, **settings: str) -> None:
    """Run a natterjack command, which must succeed."""
    async with Command(*arguments, terminal=False, **settings) as command:
        assert await command.status() == 0, command.out + command.errors
