from __future__ import annotations

import asyncio
import signal
import time

from natterjack.embedded import EmbeddedServer
from worker.__main__ import _cancel

from ..waiting import bound
from .programs import WorkerProcess


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


class SlowWorker(WorkerProcess):
    """Its sessions are never given back."""

    arguments = ("-c", """
import asyncio, worker.__main__ as program
run = program.Claimer.run
async def never(self):
    await run(self)
    await asyncio.sleep(600)
program.Claimer.run = never
program.main()
""")  # fmt: skip


async def test_the_time_for_handing_over_is_as_long_as_is_said(nats_server: EmbeddedServer) -> None:
    worker = SlowWorker(
        nats_server.url, "ws://127.0.0.1:9", WORKER_DRAIN_SECONDS="1", WORKER_HANDOVER_SECONDS="1.5"
    )
    await worker.start()
    try:
        worker.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await worker.wait() == 0
        assert 2.5 <= time.monotonic() - began < 1 + bound(9), "10 s were for that alone"
        assert worker.find("drain took too long")
    finally:
        await worker.stop()
