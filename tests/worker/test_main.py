"""The worker's deadlines at shutdown."""

from __future__ import annotations

import signal
import time

import pytest

from natterjack.local.embedded import EmbeddedServer

from ..waiting import bound
from .programs import WorkerProcess

pytestmark = pytest.mark.process


class SlowWorker(WorkerProcess):
    """A worker that never hands over its sessions."""

    arguments = ("-c", """
import asyncio, worker.__main__ as program
run = program.Claimer.run
async def never(self):
    await run(self)
    await asyncio.sleep(600)  # never ends within the test
program.Claimer.run = never
program.main()
""")  # fmt: skip


async def test_handover_takes_at_most_the_configured_time(nats_server: EmbeddedServer) -> None:
    worker = SlowWorker(
        nats_server.url, "ws://127.0.0.1:9", WORKER_DRAIN_SECONDS="1", WORKER_HANDOVER_SECONDS="1.5"
    )
    await worker.start()
    try:
        worker.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await worker.wait() == 0
        assert 2.5 <= time.monotonic() - began < 1 + bound(9), (
            "the default handover time alone is 10 s"
        )
        assert worker.find("drain took too long")
    finally:
        await worker.stop()
