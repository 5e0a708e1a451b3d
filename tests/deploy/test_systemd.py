"""The units: valid for systemd, and confined."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.__main__ import _END_SECONDS
from worker.settings import WorkerSettings

from ..waiting import bound
from .names import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
THRESHOLD = 30
"""Limit in tenths of systemd-analyze's exposure level, which is "OK" below 4."""


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Copy a unit with the program of this environment, which must exist for the check."""
    original: Path = request.param
    text = original.read_text()
    assert "ExecStart=/opt/natterjack/bin/" in text
    copy = tmp_path / original.name
    copy.write_text(text.replace("/opt/natterjack/bin", str(Path(sys.executable).parent)))
    return copy


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing; Debian's package systemd has it")
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip


def test_there_is_one_for_each_program() -> None:
    assert [path.stem for path in UNITS] == ["natterjack-edge", "natterjack-worker"]


def test_comments_name_the_settings_of_least_privilege(unit: Path) -> None:
    assert "NATS_INBOX_PREFIX" in unit.read_text().partition("[Unit]")[0]


@pytest.mark.process
def test_systemd_accepts_the_unit(unit: Path) -> None:
    done = _analyze("verify", unit)
    assert done.stderr == "", "systemd-analyze exits with 0 for unknown keys"
    assert done.returncode == 0


@pytest.mark.process
def test_systemd_reports_unknown_keys(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in _analyze("verify", unit).stderr


@pytest.mark.process
def test_the_unit_is_confined(unit: Path) -> None:
    done = _analyze("security", "--offline=true", f"--threshold={THRESHOLD}", unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_waits_for_longer_than_a_worker_drains() -> None:
    text = (ROOT / "deploy" / "systemd" / "natterjack-worker.service").read_text()
    (seconds,) = [
        int(line.partition("=")[2])
        for line in text.splitlines()
        if line.startswith("TimeoutStopSec=")
    ]
    settings = WorkerSettings()
    assert seconds > settings.drain_seconds + settings.handover_seconds + _END_SECONDS
