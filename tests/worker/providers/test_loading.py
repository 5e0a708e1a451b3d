"""A plugin in a package of its own, as `docs/how-to/write-a-provider.md` builds it.

The page's code blocks are the package: installed, found, checked by the contract suite, and used by
a worker.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.local.embedded import EmbeddedServer
from natterjack.plugin.errors import PluginError
from natterjack.settings import BrokerSettings
from tests.emulators.process import RemoteEmulator, emulator_process
from tests.faults.audit import audit
from tests.waiting import bound
from tests.worker.programs import Speaker, WorkerProcess, closed
from worker.providers.loading import load_class

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-provider.md"
WORDS = tones.sequence(10)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def page_files() -> dict[str, str]:
    """The files that the page shows, by name."""
    blocks = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), re.M | re.S)
    return dict(blocks)


def test_the_provider_of_the_page_is_short() -> None:
    files = page_files()
    assert list(files) == ["pyproject.toml", "natterjack_vosk.py", "test_natterjack_vosk.py"]
    assert len(files["natterjack_vosk.py"].splitlines()) < 60


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the page's installed package, its test, and speech for the test."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, content in page_files().items():
        (source / name).write_text(content)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", target, source],
        check=True,
    )  # fmt: skip
    (source / "test_natterjack_vosk.py").rename(target / "test_natterjack_vosk.py")
    (target / "speech.txt").write_text(" ".join(WORDS))
    with wave.open(str(target / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tones.encode(WORDS, phrase_words=4, lead_seconds=0.3, tail_seconds=0.1))
    return target


@pytest.fixture
async def server() -> AsyncIterator[RemoteEmulator]:
    async with emulator_process("vosk") as server:
        yield server


@pytest.fixture
def run(installed: Path) -> Run:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=bound(120),
            check=False, cwd=installed, env={**os.environ, "PYTHONPATH": path, **environment},
        )  # fmt: skip

    return run


def run_suite(run: Run, file: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "pytest", "-q", "-p", "no:cacheprovider", file, **environment)


@pytest.mark.process
def test_the_plugin_is_listed_with_its_package_and_settings(run: Run) -> None:
    listed = run("-m", "natterjack", "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    about = next(p for p in json.loads(listed.stdout) if p["name"] == "vosk")
    assert (about["package"], about["version"]) == ("natterjack-vosk", "0.1.0")
    assert [setting["name"] for setting in about["settings"]] == ["VOSK_URL"]


@pytest.mark.process
async def test_the_plugin_passes_the_contract_suite(run: Run, server: RemoteEmulator) -> None:
    checked = run_suite(run, "test_natterjack_vosk.py", VOSK_URL=server.url)
    assert checked.returncode == 0, checked.stdout
    assert " passed" in checked.stdout


@pytest.mark.process
async def test_a_broken_plugin_fails_the_test_that_names_the_defect(
    run: Run, installed: Path, server: RemoteEmulator
) -> None:
    (installed / "test_broken.py").write_text("""
import pytest_asyncio
import test_natterjack_vosk as page
from natterjack_vosk import VoskProvider, VoskSettings, VoskStream


class Forgetful(VoskStream):
    def decode(self, message):
        events = super().decode(message)
        return [] if self.finishing else events  # the last words are lost


class Provider(VoskProvider):
    async def open(self, request):
        stream = await super().open(request)
        stream.__class__ = Forgetful
        return stream


class TestBroken(page.TestVosk):
    @pytest_asyncio.fixture
    async def provider(self):
        provider = Provider(VoskSettings())
        yield provider
        await provider.close()
""")
    named = "test_broken.py::TestBroken::test_transcribes_speech"
    checked = run_suite(run, named, VOSK_URL=server.url)
    assert checked.returncode == 1, checked.stdout
    assert f"FAILED {named}" in checked.stdout


def worker_with(
    installed: Path, nats: EmbeddedServer, server: RemoteEmulator, **settings: str
) -> WorkerProcess:
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    return WorkerProcess(
        nats.url, "", WORKER_PROVIDER="vosk", VOSK_URL=server.url, PYTHONPATH=path, **settings
    )


@pytest.mark.process
async def test_a_worker_uses_the_plugin(
    installed: Path,
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    server: RemoteEmulator,
) -> None:
    worker = worker_with(installed, nats_server, server)
    await worker.start()
    try:
        speaker = Speaker(broker_settings, 12, speed=4)
        await speaker.speak()
        transcript = await closed(ready_broker, speaker.spec)
        found = audit(transcript.events, speaker.words, speaker.places, gaps=())
        assert found.clean, f"{found}\n{transcript.describe()}"
    finally:
        await worker.stop()


@pytest.mark.process
async def test_a_worker_survives_a_plugin_that_raises_anything(
    installed: Path,
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    server: RemoteEmulator,
) -> None:
    """Its first streams fail in different ways; the words come from the last one."""
    (installed / "sitecustomize.py").write_text("""
import natterjack_vosk

opened = natterjack_vosk.VoskProvider.open
def raises(*_): raise KeyError("no such key")
async def nothing(self, request): return None
async def fails(self, request): raise ZeroDivisionError("in open")
async def sends(self, request):
    stream = await opened(self, request)
    stream.send = stream.send_nowait = raises
    return stream
async def iterates(self, request):
    stream = await opened(self, request)
    stream.decode = lambda message: [None]
    return stream

ways = [nothing, fails, sends, iterates]
async def open(self, request):
    return await (ways.pop(0) if ways else opened)(self, request)
natterjack_vosk.VoskProvider.open = open
""")
    settings = {"WORKER_BACKOFF_SECONDS": "0.1", "WORKER_BREAKER_FAILURES": "100"}
    worker = worker_with(installed, nats_server, server, **settings)
    try:
        await worker.start()
        speaker = Speaker(broker_settings, 12, speed=4)
        await speaker.speak()
        transcript = await closed(ready_broker, speaker.spec)
        assert tones.compare(speaker.words, transcript.words) == tones.Counts(), (
            transcript.describe()
        )
        account = transcript.closing[0].account
        assert account is not None
        assert account.recoveries == {"plugin": 4}, transcript.describe()
        reasons = " ".join(str(event) for event in transcript.events)
        for reason in ("open returned None", "ZeroDivisionError", "KeyError", "returned None"):
            assert reason in reasons
    finally:
        (installed / "sitecustomize.py").unlink()
        await worker.stop()


class StuckWorker(WorkerProcess):
    """A worker whose provider blocks the whole process when it is closed."""

    arguments = ("-c", """
import time, natterjack_vosk, worker.__main__ as program
program._END_SECONDS = 3
async def close(self): time.sleep(600)
natterjack_vosk.VoskProvider.close = close
program.main()
""")  # fmt: skip


@pytest.mark.process
async def test_a_plugin_cannot_prevent_shutdown(
    installed: Path, nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    worker = StuckWorker(
        nats_server.url, "", WORKER_PROVIDER="vosk", WORKER_DRAIN_SECONDS="0",
        WORKER_HANDOVER_SECONDS="1",
        PYTHONPATH=os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")]),
    )  # fmt: skip
    await worker.start()
    try:
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 1
        assert worker.find("shutdown hangs")
    finally:
        await worker.stop()


def test_the_error_for_an_unknown_provider_lists_the_available_ones() -> None:
    with pytest.raises(PluginError, match=r"unknown provider 'nope': installed are .*deepgram"):
        load_class("nope")
