from __future__ import annotations

import asyncio

from tests.waiting import soon
from worker.session.flag import Flag


async def test_all_who_wait_are_woken_and_who_comes_later_does_not_wait() -> None:
    flag = Flag()
    waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert not flag.is_set()
    flag.set()
    flag.set()
    await soon(asyncio.gather(*waiting, flag.wait()), 5)
    assert flag.is_set()


async def test_who_is_cancelled_is_not_woken() -> None:
    flag = Flag()
    gone, waits = asyncio.create_task(flag.wait()), asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    flag.set()
    await soon(waits, 5)
    assert gone.cancelled()
