"""The package for Debian: installed, used, upgraded, removed and purged; and its units, run by a
systemd that is the first process of a machine of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.program import only_recording

from ..waiting import until
from .debs import Machine, booted, machine, package, unusable

__all__ = ["booted", "machine", "package"]  # fixtures

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
        machine.run("install", "-D", "/etc/hostname", f"{SPOOL}/muted/acme.room-12.mic")
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
        f"{SPOOL}/muted", f"{SPOOL}/muted/acme.room-12.mic",
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


def shown(machine: Machine, *command: str) -> dict[str, str]:
    """Return the properties of the unit, as systemd shows them."""
    done = machine.run(*command, "show", "natterjack-edge-run")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


async def boot(machine: Machine, package: Path) -> None:
    """Wait for systemd, and install the package."""

    def up() -> bool:
        done = machine.run("systemctl", "is-active", "basic.target", check=False)
        return done.stdout == "active\n"

    await until(up, "the machine is booted", 60)
    content = package.read_bytes()
    (machine.files / "package.deb").write_bytes(content)  # /tmp there is another one
    machine.run("dpkg", "--force-unsafe-io", "-i", "/package.deb")
    (machine.files / "etc/natterjack/edge.env").write_text("NATS_URL=nats://127.0.0.1:9\n")


async def test_systemd_runs_the_unit(booted: Machine, package: Path) -> None:
    await boot(booted, package)
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 60, np.int16)
    soundfile.write(booted.files / "speech.wav", audio, 16000)
    config = booted.files / CONFIG[1:]
    config.write_text('[[sources]]\nname = "a"\nkind = "file"\npath = "/speech.wav"\n')
    # As if root had enrolled the edge.
    booted.run("install", "-D", "-m", "600", "/etc/hostname", f"{SPOOL}/identity/edge.creds")
    booted.run("systemctl", "start", "natterjack-edge-run")
    about = shown(booted, "systemctl")
    assert (about["ActiveState"], about["User"]) == ("active", "natterjack")

    def owners() -> set[str]:
        return set(booted.run("find", SPOOL, "-printf", "%u %f\\n").stdout.splitlines())

    await until(lambda: "natterjack 000000000000.sent" in owners(), "audio is in the spool", 30)
    assert "natterjack edge.creds" in owners()
    assert all(each.startswith("natterjack ") for each in owners())

    booted.run("systemctl", "reload", "natterjack-edge-run")
    assert shown(booted, "systemctl")["MainPID"] == about["MainPID"]

    booted.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "natterjack-edge-run")

    def again() -> bool:
        now = shown(booted, "systemctl")
        return (now["NRestarts"], now["ActiveState"]) == ("1", "active")

    await until(again, "it is started again", 60)
    booted.run("systemctl", "stop", "natterjack-edge-run")
    assert shown(booted, "systemctl")["Result"] in ("success", "exit-code")
    config.write_text("tenant = 3\n")
    assert booted.run("systemctl", "start", "natterjack-edge-run", check=False).returncode
    about = shown(booted, "systemctl")
    assert (about["ActiveState"], about["Result"], about["ExecMainStatus"], about["NRestarts"]) == (
        "failed", "exit-code", "2", "0",
    )  # fmt: skip

    # The unit for one microphone needs no key, but says what is to be done without any identity.
    assert booted.run("systemctl", "start", "natterjack-edge", check=False).returncode
    status = booted.run("systemctl", "show", "natterjack-edge", "--property=ExecMainStatus").stdout
    assert status == "ExecMainStatus=2\n", "and not 243, which is systemd's for the credential"


async def test_the_unit_of_a_user_captures_from_the_users_sound_server(
    booted: Machine, package: Path
) -> None:
    """The sound server is what systemd starts for the user; a system service does not reach it."""
    if not list(Path("/usr/lib").glob("*/security/pam_systemd.so")):
        unusable("Debian's package libpam-systemd is missing")
    await boot(booted, package)
    booted.run("useradd", "-m", "-u", "1500", "ann")
    home = booted.files / "home" / "ann"
    booted.run("install", "-d", "-o", "ann", "/home/ann/.config", "/home/ann/.config/natterjack")
    # Without a sound card, all that the server has is the monitor of a loudspeaker of its own.
    config = '[[sources]]\nname = "table"\nkind = "microphone"\ndevice = "auto_null.monitor"\n'
    (home / ".config/natterjack/edge.toml").write_text(config)
    (home / ".config/natterjack/edge.env").write_text("NATS_URL=nats://127.0.0.1:9\n")
    booted.run("chown", "-R", "ann", "/home/ann/.config")
    booted.run("systemctl", "start", "user@1500")
    user = ("runuser", "-u", "ann", "--", "env", "XDG_RUNTIME_DIR=/run/user/1500", "systemctl",
            "--user")  # fmt: skip
    booted.run(*user, "start", "natterjack-edge-run")
    assert shown(booted, *user)["ActiveState"] == "active"
    spool = home / ".local/state/natterjack-edge"

    def captured() -> bool:
        try:
            return sum(path.stat().st_size for path in spool.glob("*/*.se*")) > 32_000
        except FileNotFoundError:  # a folder just got its name
            return False

    await until(captured, "a second of audio is in the spool", 60)
    booted.run(*user, "stop", "natterjack-edge-run")
