"""The units: valid for systemd, and confined."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_capture.__main__ import _END_SECONDS as edge_end_seconds
from edge_capture.config.load import parse_config
from edge_capture.settings import EdgeSettings
from gateway.__main__ import _END_SECONDS as gateway_end_seconds
from gateway.settings import GatewaySettings
from worker.__main__ import _END_SECONDS
from worker.settings import WorkerSettings

from ..waiting import bound
from .names import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
USER_UNITS = sorted((FOLDER / "user").glob("*.service"))
EDGES = [unit for unit in UNITS + USER_UNITS if "edge" in unit.stem]
THRESHOLD = 30
"""Limit in tenths of systemd-analyze's exposure level, which is "OK" below 4."""


def values(unit: Path, key: str) -> list[str]:
    """Return the values of a key of a unit, in order."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), flags=re.M)


def installed(original: Path, folder: Path) -> Path:
    """Copy a unit with the program of this environment, which must exist for the check."""
    text = original.read_text()
    assert "ExecStart=/opt/natterjack/bin/" in text
    copy = folder / original.name
    copy.write_text(text.replace("/opt/natterjack/bin", str(Path(sys.executable).parent)))
    return copy


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Copy a unit with the program of this environment, which must exist for the check."""
    return installed(request.param, tmp_path)


@pytest.fixture(params=USER_UNITS, ids=lambda path: path.stem)
def user_unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return installed(request.param, tmp_path)


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing; Debian's package systemd has it")
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=bound(60),
        env={**os.environ, "XDG_RUNTIME_DIR": str(Path(arguments[-1]).parent)},  # --user needs it
    )  # fmt: skip


def test_there_is_one_for_each_program() -> None:
    assert [path.stem for path in UNITS] == [
        "natterjack-edge-run", "natterjack-edge", "natterjack-gateway", "natterjack-worker",
    ]  # fmt: skip
    assert [path.stem for path in USER_UNITS] == ["natterjack-edge-run", "natterjack-edge"]


@pytest.mark.parametrize("path", EDGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_edge_is_started_again_unless_a_setting_is_wrong(path: Path) -> None:
    """Faults that another start does not cure, and no others, have exit status 2."""
    assert values(path, "Restart") == ["always"]
    assert values(path, "RestartPreventExitStatus") == ["2"]
    assert "StartLimitIntervalSec=0" in path.read_text().partition("\n[Service]\n")[0]
    assert values(path, "MemoryMax")
    assert values(path, "WatchdogSec")


@pytest.mark.parametrize("path", USER_UNITS, ids=lambda path: path.stem)
def test_a_unit_of_a_user_has_no_files_of_root(path: Path) -> None:
    """And no option that needs privileges, with which a user's systemd would not start it."""
    text = path.read_text()
    assert "/etc/" not in text
    for option in ("DynamicUser", "SupplementaryGroups", "ProtectSystem", "PrivateTmp", "DeviceA"):
        assert option not in text
    assert values(path, "WantedBy") == ["default.target"]


def test_comments_name_the_settings_of_least_privilege(unit: Path) -> None:
    assert "NATS_INBOX_PREFIX" in unit.read_text().partition("[Unit]")[0]


@pytest.mark.process
def test_systemd_accepts_the_unit(unit: Path) -> None:
    done = _analyze("verify", unit)
    assert done.stderr == "", "systemd-analyze exits with 0 for unknown keys"
    assert done.returncode == 0


@pytest.mark.process
def test_a_users_systemd_accepts_the_unit(user_unit: Path) -> None:
    done = _analyze("--user", "verify", user_unit)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "NATS_INBOX_PREFIX" in user_unit.read_text().partition("[Unit]")[0]


@pytest.mark.process
def test_systemd_reports_unknown_keys(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in _analyze("verify", unit).stderr


@pytest.mark.process
def test_the_unit_is_confined(unit: Path) -> None:
    done = _analyze("security", "--offline=true", f"--threshold={THRESHOLD}", unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_waits_for_longer_than_a_worker_drains() -> None:
    (seconds,) = values(FOLDER / "natterjack-worker.service", "TimeoutStopSec")
    settings = WorkerSettings()
    assert int(seconds) > settings.drain_seconds + settings.handover_seconds + _END_SECONDS


def test_systemd_waits_for_longer_than_a_gateway_drains() -> None:
    (seconds,) = values(FOLDER / "natterjack-gateway.service", "TimeoutStopSec")
    assert int(seconds) > GatewaySettings().drain_seconds + gateway_end_seconds


@pytest.mark.parametrize("path", EDGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_systemd_waits_for_longer_than_an_edge_finishes(path: Path) -> None:
    (seconds,) = values(path, "TimeoutStopSec")
    assert int(seconds) > EdgeSettings().finish_seconds + edge_end_seconds


@pytest.mark.parametrize("all_of_it", [False, True])
def test_the_example_of_sources_is_valid(all_of_it: bool) -> None:
    """Also with what is commented out."""
    text = (ROOT / "deploy" / "deb" / "edge.toml").read_text()
    if all_of_it:
        text = re.sub(r"^#(\w+ =)", r"\1", text, flags=re.M)
    config = parse_config(text.encode(), "edge.toml", host="pc-7")
    names = ("acme", "room-12") if all_of_it else ("default", "pc-7")
    assert (config.tenant, config.agent) == names
    assert str(config.spool.directory) == "/var/lib/natterjack-edge"
