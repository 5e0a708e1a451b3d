from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_capture.__main__ import _run_under_systemd
from edge_capture.errors import KeyTaken
from tests.waiting import soon, until


async def refused() -> int:
    raise KeyTaken("t.c.s is being captured by agent b")


async def test_an_agent_that_is_refused_ends_later_under_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else systemd starts it again every 2 s, for ever. A stop ends it at once."""
    stop = asyncio.Event()
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with pytest.RaisesGroup(KeyTaken):
        await soon(_run_under_systemd(refused(), stop, 1), 10)
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    ending = asyncio.create_task(_run_under_systemd(refused(), stop, 1))
    await until(lambda: "for systemd to try again" in caplog.text, "it says so")
    assert "captured by agent b" in caplog.text
    assert not ending.done()
    stop.set()
    with pytest.RaisesGroup(KeyTaken):
        await soon(ending, 10)
