"""Log lines on a terminal."""

from __future__ import annotations

import logging

import pytest

from natterjack.settings import LogSettings
from natterjack.telemetry import log


def test_text_of_others_cannot_control_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log.configure(LogSettings(log_format="text"))
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logging.getLogger("test").exception("\x9b2J said", extra=log.fields(name="\x07bell"))
    shown = capsys.readouterr().err
    assert "error   \\x9b2J said name=\\x07bell\nTraceback" in shown
    assert shown.endswith("ValueError: \\x1b[2J\n")
