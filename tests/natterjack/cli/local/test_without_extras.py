"""Commands of an installation without extras: `pip install natterjack`, and natterjack[worker]."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.ports import free_port

pytestmark = [pytest.mark.process, pytest.mark.interpreter]

EXTRAS = (
    "aiohttp", "numpy", "soxr", "prometheus_client", "uvloop", "sounddevice", "soundfile", "rich",
    "sherpa_onnx", "onnxruntime", "hibari", "av", "jsonschema", "yaml",
)  # fmt: skip
_RUN = (
    "import sys; sys.modules.update(dict.fromkeys({names})); "
    "from natterjack.cli.main import main; main({arguments})"
)


def run(*arguments: str, without: tuple[str, ...] = EXTRAS) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter in which those modules cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", _RUN.format(names=without, arguments=list(arguments))],
        env={**os.environ, "NATS_URL": f"nats://127.0.0.1:{free_port()}"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_doctor() -> None:
    done = run("doctor", "--timeout", "30")
    assert done.returncode == 1, done.stderr
    assert "FAILED   broker" in done.stdout
    assert "FAILED   provider sherpa" in done.stdout  # which is what a worker would use
    assert "pip install 'natterjack[worker]'" in done.stdout
    assert "defect" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_emulate() -> None:
    done = run("emulate", "deepgram")
    assert done.returncode == 2
    assert "pip install 'natterjack[emulators]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["deepgram", "deepgram-flux", "deepgram-aura", "managed"])
def test_emulators_need_only_the_extra_worker(name: str) -> None:
    dev = ("jsonschema", "yaml", "pytest", "hypothesis")
    done = run("emulate", name, "--faults", '{"port": 1}', without=dev)
    assert "are not faults" in done.stderr  # so it was imported


def test_those_of_speechmatics_name_what_they_need() -> None:
    done = run("emulate", "speechmatics", without=("jsonschema",))
    assert done.returncode == 2
    assert "the module jsonschema is missing: pip install 'natterjack[emulators]'" in done.stderr
