"""What one task of a stream sleeps by."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import soon
from worker.session.alarm import Alarm


async def test_ringing_wakes_who_sleeps() -> None:
    alarm = Alarm()
    sleeping = asyncio.create_task(alarm.sleep())
    await asyncio.sleep(0)
    assert not sleeping.done()
    alarm.ring()
    alarm.ring()
    await soon(sleeping, 1)


async def test_ringing_before_is_heard_once() -> None:
    alarm = Alarm()
    alarm.ring()
    await soon(alarm.sleep(), 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(alarm.sleep(), 0.05)


async def test_a_time_wakes_too() -> None:
    alarm = Alarm()
    now = asyncio.get_running_loop().time
    until = now() + 0.05
    await soon(alarm.sleep(until), 1)
    assert now() >= until - 0.01
    await soon(alarm.sleep(now() - 1), 1)


async def test_a_sleeper_that_is_cancelled_leaves_no_trace() -> None:
    alarm = Alarm()
    sleeping = asyncio.create_task(alarm.sleep())
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    alarm.ring()
    await soon(alarm.sleep(), 1)


async def test_two_may_not_sleep_by_one_alarm() -> None:
    alarm = Alarm()
    first = asyncio.create_task(alarm.sleep())
    await asyncio.sleep(0)
    with pytest.raises(AssertionError):
        await alarm.sleep()
    alarm.ring()
    await soon(first, 5)
