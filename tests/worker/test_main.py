from __future__ import annotations

import signal
import time

from natterjack.local.embedded import EmbeddedServer

from ..waiting import bound
from .programs import WorkerProcess


class SlowWorker(WorkerProcess):
    """Its sessions are never given back."""

    arguments = ("-c", """
import asyncio, worker.__main__ as program
run = program.Claimer.run
async def never(self):
    await run(self)
    await asyncio.sleep(600)  # never ends within the test
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
