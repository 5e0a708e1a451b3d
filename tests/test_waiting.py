"""Bounds that tell what hangs from what is slow."""

from __future__ import annotations

import asyncio
import time

import pytest

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
    asyncio.get_running_loop().call_later(0.05, time.sleep, bound(0.6))  # nothing of it runs
    await soon(done.wait(), 0.5)
    async with within(0.5):
        pass
