"""Half an hour without network: `python -m tests.faults.offline --minutes 31`.

Two edges that capture speech in real time lose the connection to the broker, with default limits.
One has a spool, the other buffers in memory. No word may be missing.
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
from pathlib import Path

from natterjack.emulators import tones
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from ..worker.programs import closed
from .audit import Audit, audit
from .fleet import PHRASE, RATE, TAIL_SECONDS, resident_bytes
from .proxy import NatsProxy
from .recovery import Bench, bench

_FRAMES = 1280
BEFORE_SECONDS, AFTER_SECONDS = 30.0, 30.0


@dataclass
class Absence:
    """The result of one session."""

    buffer: str
    """Where the audio was meanwhile: `spool` or `memory`."""
    minutes: float
    audit: Audit = field(default_factory=Audit)
    details: str = ""
    memory_bytes: int = 0
    """Growth of resident memory during the absence."""


async def _feed(process: asyncio.subprocess.Process, audio: bytes) -> None:
    assert process.stdin is not None
    started, size = time.monotonic(), 2 * _FRAMES
    for number, at in enumerate(range(0, len(audio), size)):
        await asyncio.sleep(max(0.0, started + number * _FRAMES / RATE - time.monotonic()))
        process.stdin.write(audio[at : at + size])
        await process.stdin.drain()
    process.stdin.close()


async def _absence(made: Bench, name: str, minutes: float, arguments: list[str]) -> Absence:
    found = Absence(name, minutes)
    seconds = BEFORE_SECONDS + minutes * 60 + AFTER_SECONDS
    words = tones.sequence(round(seconds / 0.41))
    audio = tones.encode(words, RATE, tail_seconds=TAIL_SECONDS, **PHRASE)
    places = tones.places(words, **PHRASE)
    async with NatsProxy(made.server.port) as line:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_capture", "stdin", "--live", "--conversation", name,
            "--quiet", "--catch-up-rate", "8", "--nats-url", line.url, *arguments,
            env={k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        feeding = asyncio.create_task(_feed(process, audio))
        assert process.stdout is not None
        key, session_id = (await process.stdout.readline()).decode().split()
        await asyncio.sleep(BEFORE_SECONDS)
        before = resident_bytes(process.pid)
        line.cut()
        await asyncio.sleep(minutes * 60)
        found.memory_bytes = resident_bytes(process.pid) - before
        line.heal()
        await feeding
        status = await process.wait()
    spec = SessionSpec(session_id=session_id, **SessionKey(*key.split("."))._asdict())
    transcript = await closed(made.broker, spec, 60 + minutes * 60)
    found.audit = audit(
        transcript.events, words, places, captured_seconds=len(audio) / 2 / RATE
    )  # fmt: skip
    if status != 0:
        found.audit.problems.append(f"the edge ended with {status}")
    if not found.audit.clean:
        found.details = transcript.describe()
    return found


async def offline(minutes: float, progress: Callable[[str], None]) -> list[Absence]:
    """Run an edge with a spool and one without at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = await stack.enter_async_context(bench())
        await made.worker(DEEPGRAM_CATCH_UP_RATE="8")
        progress(f"2 edges without network for {minutes:g} minutes")
        return list(
            await asyncio.gather(
                _absence(made, "spool", minutes, ["--spool", str(spool)]),
                _absence(made, "memory", minutes, []),
            )
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.offline", description=__doc__)
    parser.add_argument("--minutes", type=float, default=31)
    absences = asyncio.run(offline(parser.parse_args().minutes, lambda line: print(line)))
    for absence in absences:
        print(f"{absence.buffer}: {absence.audit}, memory {absence.memory_bytes / 1e6:+.1f} MB")
        print(absence.details, end="")
    sys.exit(not all(absence.audit.clean for absence in absences))
