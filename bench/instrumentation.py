"""What metrics, ledgers and the roster cost a worker: `python -m bench.instrumentation`.

A real worker process transcribes the same sessions in real time, as it is and with all
instrumentation taken out, by turns; broker and emulator are processes of their own. Compared is the
worker's own processor time, user and system, while all sessions stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from natterjack.connection import connected
from natterjack.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.emulators.process import emulator_process
from tests.faults.choir import Choir
from tests.waiting import until
from tests.worker.programs import WorkerProcess

BARE = """
import prometheus_client as p
from worker.__main__ import main
from worker.latency import Latencies
from worker.ledger import Ledger
from worker.relay import Relay
from worker.report import Report
from worker.session import Session

def nothing(self, *args, **kw): return None
for kind, names in (
    (p.Counter, ("inc",)), (p.Gauge, ("set", "inc", "dec")), (p.Histogram, ("observe",)),
    (Latencies, ("heard", "interim", "final", "turn_ended")),
    (Ledger, ("opened", "progress", "closed", "captured")), (Relay, ("count", "count_last")),
):
    for name in names:
        setattr(kind, name, nothing)
Session.record = lambda self, now: "{}"
async def idle(self, records, draining):
    import asyncio
    await asyncio.Event().wait()
Report.run = idle
main()
"""
"""The worker without: what it counts, times and tells of itself is taken out."""


class BareWorker(WorkerProcess):
    """A worker without instrumentation."""

    arguments = ("-c", BARE)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(kind: type[WorkerProcess], sessions: int, seconds: float) -> float:
    """Processor seconds of the worker for an hour of audio."""
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory))
        await asyncio.to_thread(server.start)
        try:
            async with (
                emulator_process("deepgram") as emulator,
                connected(BrokerSettings(url=server.url), name="bench") as broker,
            ):
                settings = {"WORKER_MAX_SESSIONS": str(sessions), "DEEPGRAM_CATCH_UP_RATE": "1.25"}
                worker = kind(server.url, emulator.url, **settings)
                await worker.start()
                try:
                    async with Choir(broker, "bench", sessions, seconds + 20) as choir:
                        await until(
                            lambda: all(voice.heard for voice in choir.voices), "all begin", 60
                        )
                        await asyncio.sleep(5)  # taking them over is not what is measured
                        before = cpu_seconds(worker.pid)
                        await asyncio.sleep(seconds)
                        used = cpu_seconds(worker.pid) - before
                finally:
                    await worker.stop()
        finally:
            await asyncio.to_thread(server.stop)
    return used / (sessions * seconds) * 3600


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20, help="measured, of each run")
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {"with": [], "without": []}
    for run in range(arguments.runs):
        for name, kind in (("with", WorkerProcess), ("without", BareWorker)):
            figure = await measure(kind, arguments.sessions, arguments.seconds)
            figures[name].append(figure)
            print(f"run {run + 1}, {name}: {figure:.3f} CPU s an hour of audio", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    share = medians["with"] / medians["without"] - 1
    print(
        f"{arguments.sessions} sessions, 80 ms chunks: {medians['with']:.3f} CPU s an hour of "
        f"audio with instrumentation, {medians['without']:.3f} without: {share:+.1%}"
    )
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
