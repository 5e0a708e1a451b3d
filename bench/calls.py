"""Calls of Python functions in a worker per chunk: `python -m bench.calls`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from pathlib import Path

from tests.waiting import until

from .relay import streaming


async def measure(sessions: int = 20, chunks: int = 2000) -> dict[str, float]:
    """Return the number of calls per chunk of audio, by package.

    It includes calls for everything else that happens meanwhile.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "calls"
        async with streaming(sessions, "-m", "bench.counted", str(out)) as (subject, provider):
            os.kill(subject.pid, signal.SIGUSR1)
            await provider.stats(reset=True)
            received = 0
            while received < chunks:
                await asyncio.sleep(0.1)
                received = (await provider.stats())["messages"]
            os.kill(subject.pid, signal.SIGUSR2)
            await until(out.exists, "the worker has written its counts", 30)
            calls = json.loads(out.read_text())
    found = {"worker": 0.0, "natterjack": 0.0, "nats": 0.0, "aiohttp": 0.0, "others": 0.0}
    for file, count in calls.items():
        package = next((name for name in found if f"/{name}/" in file), "others")
        found[package] += count / received
    return {**found, "all": sum(found.values())}


if __name__ == "__main__":
    for name, count in asyncio.run(measure()).items():
        print(f"{name:12}{count:6.1f}")
