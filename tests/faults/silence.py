"""An hour of silence: `python -m tests.faults.silence --minutes 60`.

Each provider gets a session with real-time silence, alternately digital zero and faint noise, and a
few words at the end. No fault may be reported, and memory must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from natterjack.broker.connection import connected
from natterjack.emulators import tones
from natterjack.events import StatusEvent
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey
from tests.nats_server import NatsServer

from ..emulators.process import emulator_process
from ..waiting import until
from ..worker.programs import Transcript, WorkerProcess, closed
from .fleet import resident_bytes, worker_environment

GROUPS = (
    ("deepgram", "deepgram-rest", "managed"),
    ("deepgram-flux", "speechmatics", "speechmatics-agent"),
)
"""Groups of providers. Each group has one worker."""
_RATE = 16_000
_FRAMES = 1280
_WORDS = 5


@dataclass
class Quiet:
    """The result of one session."""

    provider: str
    minutes: float
    alarms: list[str] = field(default_factory=list)
    """The reason of each recovery."""
    words: int = 0
    """Words at the end that were transcribed."""
    edge_memory: list[int] = field(default_factory=list)
    """Samples of resident bytes."""
    worker_memory: list[int] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.alarms and self.words == _WORDS


def growth(samples: list[int]) -> float:
    """Return the growth from the second tenth to the last tenth, as a fraction."""
    tenth = max(1, len(samples) // 10)
    before, after = samples[tenth : 2 * tenth] or samples, samples[-tenth:]
    return sum(after) / len(after) / (sum(before) / len(before)) - 1


async def _feed(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Send silence in real time, then the words."""
    assert process.stdin is not None
    noise = np.random.default_rng(1).integers(-20, 20, 60 * _RATE, np.int16).tobytes()
    words = tones.encode(tones.sequence(_WORDS), _RATE, lead_seconds=0.3, tail_seconds=0.5)
    started, sent, size = time.monotonic(), 0, 2 * _FRAMES
    while sent * _FRAMES / _RATE < seconds:
        at = sent * size
        faint = at // len(noise) % 2  # a minute of noise, a minute of zeros
        process.stdin.write(noise[at % len(noise) :][:size] if faint else bytes(size))
        sent += 1
        await process.stdin.drain()
        await asyncio.sleep(max(0.0, started + sent * _FRAMES / _RATE - time.monotonic()))
    process.stdin.write(words)
    process.stdin.close()


async def _session(
    settings: BrokerSettings, worker: WorkerProcess, provider: str, minutes: float, spool: Path
) -> Quiet:
    quiet = Quiet(provider, minutes)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge_capture", "stdin", "--conversation", provider,
        "--provider", provider, "--spool", str(spool), "--quiet", "--nats-url", settings.url,
        env={k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    feeding = asyncio.create_task(_feed(process, minutes * 60))
    assert process.stdout is not None
    key, session_id = (await process.stdout.readline()).decode().split()
    spec = SessionSpec(session_id=session_id, **SessionKey(*key.split("."))._asdict())

    async def measure() -> None:
        while True:
            quiet.edge_memory.append(resident_bytes(process.pid))
            quiet.worker_memory.append(resident_bytes(worker.pid))
            await asyncio.sleep(5)  # sampling interval

    measuring = asyncio.create_task(measure())
    await feeding
    measuring.cancel()
    assert await process.wait() == 0
    async with connected(settings, name="auditor") as broker:
        transcript: Transcript = await closed(broker, spec, 60)
    quiet.alarms = [
        event.reason or ""
        for event in transcript.events
        if isinstance(event, StatusEvent) and event.state == "recovering"
    ]
    quiet.words = _WORDS - tones.compare(tones.sequence(_WORDS), transcript.words).lost
    return quiet


async def silence(minutes: float, progress: Callable[[str], None]) -> list[Quiet]:
    """Run one session for each provider, all at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = NatsServer(directory / "nats")
        server.start()
        stack.callback(server.stop)
        settings = BrokerSettings(url=server.url)
        sessions: list[asyncio.Task[Quiet]] = []
        for group in GROUPS:
            emulators = {
                name: await stack.enter_async_context(emulator_process(name)) for name in group
            }
            environment = worker_environment(emulators)
            # A full worker leaves the other sessions to the next worker.
            environment["WORKER_MAX_SESSIONS"] = str(len(group))
            worker = WorkerProcess(server.url, "", **environment)
            stack.push_async_callback(worker.stop)
            await worker.start()
            sessions += [
                asyncio.create_task(_session(settings, worker, name, minutes, directory / name))
                for name in group
            ]
            await until(partial(_full, worker, len(group)), "all are taken", 30)
        progress(f"{len(sessions)} sessions of silence, {minutes:g} minutes")
        return list(await asyncio.gather(*sessions))


def _full(worker: WorkerProcess, sessions: int) -> bool:
    taken = [entry for entry in worker.log if entry["message"] == "session waiting"]
    return len(taken) == sessions


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.silence", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    found = asyncio.run(silence(parser.parse_args().minutes, lambda line: print(line, flush=True)))
    for quiet in found:
        print(
            f"{quiet.provider}: alarms {quiet.alarms}, {quiet.words} of {_WORDS} words, edge "
            f"{growth(quiet.edge_memory):+.1%}, worker {growth(quiet.worker_memory):+.1%}"
        )
    sys.exit(not all(quiet.passed for quiet in found))
