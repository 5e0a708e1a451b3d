"""Cost of metrics, ledgers and the roster in a worker: `python -m bench.instrumentation`.

A real worker (bench.metered) transcribes sessions in real time and sums up the CPU time of its
instrumentation. Both figures come from one process in one run, so the load of the machine matters
little. Broker and emulator are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from natterjack.broker.connection import connected
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.emulators.process import emulator_process
from tests.faults.choir import Choir
from tests.waiting import until
from tests.worker.programs import WorkerProcess


class MeteredWorker(WorkerProcess):
    """A worker that logs what its instrumentation has cost when it exits."""

    arguments = ("-m", "bench.metered")


def cpu_seconds(pid: int) -> float:
    """Return the user and system CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(sessions: int, seconds: float) -> tuple[float, float, float]:
    """Return CPU seconds of the instrumentation, of the whole worker, and per hour of audio.

    The first two count from the start of the worker, the third while all sessions stream.
    """
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory), tied=True)
        server.start()  # in the main thread, as it is tied
        try:
            async with (
                emulator_process("deepgram") as emulator,
                connected(BrokerSettings(url=server.url), name="bench") as broker,
            ):
                settings = {"WORKER_MAX_SESSIONS": str(sessions), "DEEPGRAM_CATCH_UP_RATE": "1.25"}
                worker = MeteredWorker(server.url, emulator.url, **settings)
                await worker.start()
                try:
                    async with Choir(broker, "bench", sessions, seconds + 10) as choir:
                        await until(
                            lambda: all(voice.received for voice in choir.voices), "all begin", 60
                        )
                        before = cpu_seconds(worker.pid)
                        await asyncio.sleep(seconds)
                        used = cpu_seconds(worker.pid) - before
                    worker.signal(signal.SIGTERM)
                    await worker.wait(60)
                finally:
                    await worker.stop()
        finally:
            await asyncio.to_thread(server.stop)
    cost = worker.find("metered")
    assert cost is not None, worker.log[-5:]
    return cost["spent"], cost["all"], used / (sessions * seconds) * 3600


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30, help="duration of each run")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    shares = []
    for run in range(arguments.runs):
        spent, total, hour = await measure(arguments.sessions, arguments.seconds)
        shares.append(spent / total)
        print(
            f"run {run + 1}: {spent:.2f} of {total:.2f} CPU s, {shares[-1]:.1%}; "
            f"{hour:.2f} CPU s per hour of audio"
        )
    print(f"{arguments.sessions} sessions: median {statistics.median(shares):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
