"""Running and ending tasks."""

from __future__ import annotations

import asyncio

from natterjack.process.run import end_tasks, run_loop
from tests.waiting import within


async def test_a_task_that_drops_a_cancellation_ends() -> None:
    """A task that awaits NATS can drop it if the reply arrives at the same time."""
    reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rounds = 0

    async def request_repeatedly() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.wait_for(reply if rounds == 1 else asyncio.Event().wait(), 600)

    task = asyncio.create_task(request_repeatedly())
    await asyncio.sleep(0)  # let the task start waiting
    await asyncio.sleep(0)
    reply.set_result(None)
    task.cancel()
    await asyncio.sleep(0)
    async with within(10):
        await end_tasks([task])
    assert task.cancelled()


def test_run_loop_returns_the_result() -> None:
    async def main() -> int:
        return 7

    assert run_loop(main()) == 7
