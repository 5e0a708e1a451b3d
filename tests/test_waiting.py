"""Bounds that tell what hangs from what is slow."""

from __future__ import annotations

import asyncio
import time

import pytest

from . import waiting
from .waiting import bound, soon, until, within


async def test_what_hangs_is_ended() -> None:
    with pytest.raises(TimeoutError):
        await soon(asyncio.Event().wait(), 0.1)
    with pytest.raises(TimeoutError):
        async with within(0.1):
            await asyncio.Event().wait()
    with pytest.raises(AssertionError, match="never"):
        await until(lambda: False, "never", 0.1)


async def test_a_process_that_stood_still_has_not_waited() -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, done.set)
    asyncio.get_running_loop().call_later(0.05, time.sleep, bound(0.3))  # nothing of it runs
    await soon(done.wait(), 0.25)
    async with within(0.25):
        pass


async def test_a_busy_machine_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SCALE", 1.0)
    monkeypatch.setattr(waiting, "slowdown", lambda: 4.0)
    assert bound(2) == 8
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await soon(asyncio.Event().wait(), 0.2)
    with pytest.raises(AssertionError, match="never"):
        await until(lambda: False, "never", 0.2)
    assert time.monotonic() - began >= 2 * 0.8


def test_the_slowdown_is_measured_within_limits() -> None:
    assert 1 <= waiting.slowdown() <= 20
