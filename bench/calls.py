"""Calls of Python functions per chunk, in a worker and in a gateway: `python -m bench.calls`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from pathlib import Path

from tests.waiting import until

from . import relay
from .gateway import cost

PACKAGES = {
    "worker": ("worker", "natterjack", "nats", "aiohttp"),
    "gateway": ("gateway", "edge_capture", "natterjack", "nats", "aiohttp"),
}
"""Packages that are counted apart, by program."""


async def measure(who: str = "worker", sessions: int = 20, chunks: int = 2000) -> dict[str, float]:
    """Return the number of calls per chunk of audio in a program, by package.

    It includes calls for everything else that happens meanwhile.
    """
    streaming = relay.streaming if who == "worker" else cost.streaming
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "calls"
        counted = "-m", "bench.counted", str(out), f"{who}.__main__"
        # Unlike times, calls may be counted on a machine that is busy with other programs.
        async with streaming(sessions, *counted, busy=True) as (subject, provider):
            os.kill(subject.pid, signal.SIGUSR1)
            await provider.stats(reset=True)
            received = 0
            while received < chunks:
                await asyncio.sleep(0.1)
                received = (await provider.stats())["messages"]
            os.kill(subject.pid, signal.SIGUSR2)
            await until(out.exists, f"the {who} has written its counts", 30)
            calls = json.loads(out.read_text())
    found = dict.fromkeys((*PACKAGES[who], "others"), 0.0)
    for file, count in calls.items():
        package = next((name for name in found if f"/{name}/" in file), "others")
        found[package] += count / received
    return {**found, "all": sum(found.values())}


if __name__ == "__main__":
    for program in PACKAGES:
        print(program)
        for name, count in asyncio.run(measure(program)).items():
            print(f"  {name:12}{count:6.1f}")
