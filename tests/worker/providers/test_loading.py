"""A stranger's plugin, in a package of its own: installed, found, checked, and used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from natterjack.plugin.errors import PluginError
from natterjack.settings import BrokerSettings
from tests.worker.programs import Speaker, WorkerProcess, closed
from worker.providers.loading import load_class

SAMPLE = Path(__file__).parents[2] / "sample_plugin"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Path:
    """A directory with the sample package installed in it."""
    target = tmp_path_factory.mktemp("plugins")
    source = tmp_path_factory.mktemp("source") / "beeps"
    # Building leaves files beside the sources.
    subprocess.run(["cp", "-r", SAMPLE, source], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", target, source],
        check=True,
    )  # fmt: skip
    return target


@pytest.fixture
def run(installed: Path) -> Run:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False,
            cwd=installed, env={**os.environ, "PYTHONPATH": str(installed), **environment},
        )  # fmt: skip

    return run


def test_it_is_listed_with_its_package_and_settings(run: Run) -> None:
    listed = run("-m", "natterjack", "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    beeps = next(p for p in json.loads(listed.stdout) if p["name"] == "beeps")
    assert (beeps["package"], beeps["version"]) == ("natterjack-beeps", "1.2.3")
    assert "BEEPS_LOUDNESS" in [setting["name"] for setting in beeps["settings"]]


def test_it_passes_the_contract_suite(run: Run) -> None:
    checked = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_beeps_provider.py"
    )
    assert checked.returncode == 0, checked.stdout
    assert " passed" in checked.stdout


def test_a_broken_one_fails_on_the_case_that_names_it(run: Run, installed: Path) -> None:
    broken = installed / "test_broken.py"
    broken.write_text(
        "import test_beeps_provider, beeps_provider\n"
        "class Forgetful(beeps_provider.BeepsStream):\n"
        "    async def finish(self):\n"
        "        self._start = None  # the last word is lost\n"
        "        await super().finish()\n"
        "class Provider(beeps_provider.BeepsProvider):\n"
        "    async def open(self, request):\n"
        "        await super().open(request)\n"
        "        return Forgetful(1)\n"
        "import pytest, pytest_asyncio\n"
        "class TestBroken(test_beeps_provider.ProviderContract):\n"
        "    @pytest.fixture\n"
        "    def provider(self):\n"
        "        return Provider(beeps_provider.BeepsSettings())\n"
        "    @pytest.fixture\n"
        "    def speech(self):\n"
        "        speech = test_beeps_provider.beeps(3)\n"
        "        return type(speech)(speech.audio[:-8000], speech.format, speech.words)\n"
    )
    checked = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", broken.name)
    assert checked.returncode == 1, checked.stdout
    assert "FAILED test_broken.py::TestBroken::test_hears_speech" in checked.stdout


async def test_a_worker_uses_it(
    installed: Path,
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = WorkerProcess(nats_server.url, "", WORKER_PROVIDER="beeps", PYTHONPATH=str(installed))
    await worker.start()
    try:
        speaker = Speaker(broker_settings, 6, speed=8)  # words of tones, with pauses: beeps
        await speaker.speak()
        transcript = await closed(ready_broker, speaker.spec)
        assert transcript.heard == ["beep"] * 6
    finally:
        await worker.stop()


class StuckWorker(WorkerProcess):
    """Its provider stops the whole process when it is to let go."""

    arguments = ("-c", """
import time, beeps_provider, worker.__main__ as program
program._END_SECONDS = 3
async def close(self): time.sleep(600)
beeps_provider.BeepsProvider.close = close
program.main()
""")  # fmt: skip


async def test_a_plugin_cannot_keep_a_worker_from_ending(
    installed: Path, nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    worker = StuckWorker(
        nats_server.url, "", WORKER_PROVIDER="beeps", WORKER_DRAIN_SECONDS="0",
        WORKER_HANDOVER_SECONDS="1", PYTHONPATH=str(installed),
    )  # fmt: skip
    await worker.start()
    try:
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 1
        assert worker.find("shutdown hangs")
    finally:
        await worker.stop()


def test_unknown_ones_are_named_with_those_that_are_there() -> None:
    with pytest.raises(PluginError, match=r"unknown provider 'nope': installed are .*deepgram"):
        load_class("nope")
