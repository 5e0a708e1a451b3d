"""Log lines."""

from __future__ import annotations

import asyncio
import logging

import pytest

from natterjack.settings import LogSettings
from natterjack.telemetry import log


def write_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have log lines go to standard error alone, as text, until the end of the test."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log.configure(LogSettings(log_format="text"))


def test_text_of_others_cannot_control_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(monkeypatch)
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logging.getLogger("test").exception("\x9b2J said", extra=log.fields(name="\x07bell"))
    shown = capsys.readouterr().err
    assert "error   \\x9b2J said name=\\x07bell\nTraceback" in shown
    assert shown.endswith("ValueError: \\x1b[2J\n")


async def test_a_task_names_its_source_in_its_lines_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(monkeypatch)

    async def run(source: str) -> None:
        log.bind(source=source)
        await asyncio.create_task(say("below"))
        logging.getLogger("test").warning("own", extra=log.fields(source="other"))

    async def say(words: str) -> None:
        logging.getLogger("test").warning(words)

    await asyncio.gather(run("a"), run("b"), say("beside"))
    lines = [line.split(maxsplit=2)[2] for line in capsys.readouterr().err.splitlines()]
    assert sorted(lines) == [
        "below source=a", "below source=b", "beside", "own source=other", "own source=other"
    ]  # fmt: skip
