"""Measures the cost of an edge that records one microphone all day: `python -m bench.edge_idle`.

It runs `natterjack-edge mic`, or with `--run` an agent with one source, on a real nats-server and a
PulseAudio server without hardware. The microphone of that server delivers as much at a time as it
is asked for, as hardware microphones do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from natterjack.broker.connection import connected
from natterjack.broker.streams import ensure
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, StreamSettings
from tests.edge_capture.conftest import SoundServer
from tests.waiting import until

from .processes import broker, cpu_seconds, resident_bytes

_SETTLE_S = 10.0
_CONFIG = """
[[sources]]
name = "room"
kind = "microphone"
device = "room"
"""


def wake_ups(pid: int) -> Counter[str]:
    """Return how often each thread of a process has waited so far, by its name."""
    found: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, status = (task / "comm").read_text().strip(), (task / "status").read_text()
        except FileNotFoundError:
            continue  # it has just exited
        found[name] += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


async def measure(seconds: float, arguments: list[str], *, configured: bool) -> list[list[str]]:
    """Return the rows of a table."""
    async with (
        broker() as nats,
        connected(BrokerSettings(url=nats.url), name="bench") as connection,
    ):
        await ensure(connection, StreamSettings())
        with tempfile.TemporaryDirectory(prefix="pulse") as directory:
            server = SoundServer(Path(directory))
            log = Path(directory) / "edge.log"
            try:
                await server.start()
                server.plug_in("room", "hall.monitor")
                command = ["mic", "--device", "room"]
                if configured:
                    config = Path(directory) / "edge.toml"
                    config.write_text(_CONFIG)
                    command = ["run", "--config", str(config)]
                with log.open("wb") as stderr:
                    edge = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
                        [sys.executable, "-m", "edge_capture", *command, *arguments],
                        env=os.environ | server.environment | {"NATS_URL": nats.url},
                        stderr=stderr, stdout=subprocess.DEVNULL,
                    )  # fmt: skip
                try:
                    await until(lambda: "capturing" in log.read_text(), "it captures", 30)
                    await asyncio.sleep(_SETTLE_S)
                    before, cpu = wake_ups(edge.pid), cpu_seconds(edge.pid)
                    await asyncio.sleep(seconds)
                    woken = wake_ups(edge.pid) - before
                    cpu = cpu_seconds(edge.pid) - cpu
                    megabytes = resident_bytes(edge.pid) / 1e6
                finally:
                    edge.terminate()
                    await asyncio.to_thread(edge.wait)
            finally:
                server.kill()
    return [
        ["wake-ups per second", f"{woken.total() / seconds:.1f}"],
        *([f"  {name}", f"{count / seconds:.1f}"] for name, count in woken.most_common()),
        ["share of a core", f"{cpu / seconds:.1%}"],
        ["resident memory, MB", f"{megabytes:.0f}"],
    ]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60, help="how long to measure")
    parser.add_argument("--run", action="store_true", help="measure `natterjack-edge run`")
    known, arguments = parser.parse_known_args()
    print(
        *table(asyncio.run(measure(known.seconds, arguments, configured=known.run)), right=(1,)),
        sep="\n",
    )


if __name__ == "__main__":
    main()
