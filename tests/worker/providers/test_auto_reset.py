"""The event that one task waits for."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import soon
from worker.providers.auto_reset import AutoResetEvent


async def test_set_wakes_the_waiting_task() -> None:
    event = AutoResetEvent()
    waiting = asyncio.create_task(event.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    event.set()
    event.set()
    await soon(waiting, 1)


async def test_an_event_set_before_the_wait_counts_once() -> None:
    event = AutoResetEvent()
    event.set()
    await soon(event.wait(), 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(event.wait(), 0.05)


async def test_a_deadline_ends_the_wait() -> None:
    event = AutoResetEvent()
    now = asyncio.get_running_loop().time
    until = now() + 0.05
    await soon(event.wait(until), 1)
    assert now() >= until - 0.01
    await soon(event.wait(now() - 1), 1)


async def test_a_cancelled_wait_has_no_effect() -> None:
    event = AutoResetEvent()
    waiting = asyncio.create_task(event.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    event.set()
    await soon(event.wait(), 1)


async def test_two_tasks_may_not_wait_for_one_event() -> None:
    event = AutoResetEvent()
    first = asyncio.create_task(event.wait())
    await asyncio.sleep(0)
    with pytest.raises(AssertionError):
        await event.wait()
    event.set()
    await soon(first, 5)
