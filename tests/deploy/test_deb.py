"""The package for Debian: installed, used, upgraded, removed and purged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.program import only_recording

from .debs import Machine, machine, package

__all__ = ["machine", "package"]  # fixtures

pytestmark = [pytest.mark.timeout(600), pytest.mark.process, pytest.mark.slow]

CONFIG = "/etc/natterjack/edge.toml"
SPOOL = "/var/lib/natterjack-edge"


def install(machine: Machine, package: Path) -> str:
    return machine.run("dpkg", "--force-unsafe-io", "-i", str(package)).stdout


async def test_a_package_that_is_installed_used_and_purged_leaves_nothing(
    machine: Machine, package: Path, ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    def use() -> None:
        said = install(machine, package)
        assert "systemctl enable --now natterjack-edge-run" in said
        assert machine.run("natterjack-edge", "--version").stdout == "0.1.0\n"
        for unit in ("natterjack-edge", "natterjack-edge-run"):
            machine.run("systemctl", "enable", unit)
            found = machine.run("systemd-analyze", "verify", f"{unit}.service")
            assert found.stdout == "", "of the units and their drop-ins"
        assert machine.run("id", "-nG", "natterjack").stdout.split() == ["natterjack", "audio"]
        # As the unit starts it, with what it may write.
        machine.run("install", "-d", "-m", "700", "-o", "natterjack", SPOOL, f"{SPOOL}/identity")
        machine.run("touch", f"{SPOOL}/identity/edge.creds")
        audio = np.random.default_rng(1).integers(-9000, 9000, 16000, np.int16)
        soundfile.write(machine.files / "speech.wav", audio, 16000)
        machine.run(
            "runuser", "-u", "natterjack", "--", "natterjack-edge", "file", "/speech.wav",
            "--speed", "max", "--spool", SPOOL, NATS_URL=nats_server.url,
        )  # fmt: skip

    before = machine.found()
    await asyncio.to_thread(use)
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert len(recording.samples) == 16000
    await asyncio.to_thread(check_purged, machine, before)


def check_purged(machine: Machine, before: set[str]) -> None:
    machine.run("dpkg", "-r", "natterjack-edge")
    left = {path for path in machine.found() - before if not path.startswith("/var/lib/dpkg")}
    assert left == {
        SPOOL, f"{SPOOL}/identity", f"{SPOOL}/identity/edge.creds",
        "/etc/natterjack", CONFIG, "/etc/natterjack/edge.env",
    }  # fmt: skip
    assert "kept" not in machine.run("dpkg", "-P", "natterjack-edge").stdout
    assert machine.found() == before
    assert machine.run("getent", "passwd", "natterjack", check=False).returncode == 2


def test_a_purge_keeps_audio_keys_and_what_was_changed_and_says_so(
    machine: Machine, package: Path
) -> None:
    install(machine, package)
    files = machine.files
    (files / CONFIG[1:]).write_text("# mine\n")
    (files / "etc/natterjack/edge.nk").write_text("seed")
    install(machine, package)
    assert (files / CONFIG[1:]).read_text() == "# mine\n", "an upgrade keeps it"
    session = f"{SPOOL}/9f0d1b1e-0000-4000-8000-000000000000"
    machine.run("install", "-d", "-m", "700", "-o", "natterjack", SPOOL, session)
    machine.run("install", "-o", "natterjack", "/etc/hostname", f"{session}/000000000000.seg")
    machine.run("dpkg", "-r", "natterjack-edge")
    said = machine.run("dpkg", "-P", "natterjack-edge").stdout
    assert "/etc/natterjack has files of yours, such as keys, and is kept" in said
    assert f"{SPOOL} has audio that was not sent, and is kept; so is the user natterjack" in said
    assert (files / session[1:] / "000000000000.seg").exists()
    assert (files / "etc/natterjack/edge.nk").read_text() == "seed"
    assert machine.run("stat", "-c", "%U", session).stdout == "natterjack\n"
    assert not (files / "opt/natterjack").exists()
