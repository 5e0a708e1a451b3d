from __future__ import annotations

import asyncio

from worker.__main__ import _cancel

from ..waiting import bound


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    """As one does that awaits NATS when the answer and the cancellation come together."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rounds = 0

    async def ask_for_ever() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.wait_for(answer if rounds == 1 else asyncio.Event().wait(), 600)

    task = asyncio.create_task(ask_for_ever())
    await asyncio.sleep(0)  # it has begun to wait
    await asyncio.sleep(0)
    answer.set_result(None)
    task.cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(bound(10)):
        await _cancel([task])
    assert task.cancelled()
