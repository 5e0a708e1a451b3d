"""The file for launchd, which has never run on a Mac: its syntax, and what it starts."""

from __future__ import annotations

import plistlib

from edge_capture.__main__ import _END_SECONDS
from edge_capture.settings import EdgeSettings

from .names import ROOT
from .test_systemd import FOLDER, values


def test_launchd_starts_what_a_users_systemd_starts() -> None:
    with (ROOT / "deploy" / "launchd" / "org.natterjack.edge.plist").open("rb") as file:
        about = plistlib.load(file)
    (command,) = values(FOLDER / "user" / "natterjack-edge-run.service", "ExecStart")
    started = " ".join(about["ProgramArguments"])
    assert started == command.replace("%E", "/Users/USER/.config")
    assert set(about["EnvironmentVariables"]) == {"EDGE_SPOOL"}
    assert about["KeepAlive"]
    assert about["Umask"] == 0o077
    assert about["ExitTimeOut"] > EdgeSettings().finish_seconds + _END_SECONDS
