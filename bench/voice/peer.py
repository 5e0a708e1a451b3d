"""The process of a client of a voice provider, which speaks an utterance every few seconds in each
session.

bench.voice.peer_livekit and bench.voice.peer_pipecat run this in environments that have neither
natterjack nor its dependencies, so this module imports only the standard library. bench.voice.floor
runs it with a bare client.

It prints JSON lines: `versions` when it is ready, and a reply to each line on standard input:
`open` (open all sessions and begin), and `reset` and `stats` (statistics since the last reply).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..emulator import percentiles

RATE = 24_000
KEY = "a-bench-key"
TEXT = "This answer has a length of eighty characters, and is spoken in about five secs."
PERIOD_S = 5.0
"""Each session begins an utterance so often. Its speech takes 4.8 s (bench.voice.emulator)."""
_PLAUSIBLE_NS = 100 * 1_000_000_000

OnAudio = Callable[[bytes], None]
"""Callback that receives audio in order: 16-bit samples of one channel."""


class Session(Protocol):
    """One session of a client."""

    async def say(self, text: str) -> None:
        """Speak an utterance; may return before it is spoken."""
        ...


class Peer(Protocol):
    """A client with all its sessions."""

    async def open(self, on_audio: OnAudio) -> Session:
        """Open a session."""
        ...


class Statistics:
    """Statistics of all sessions since the last reply."""

    def __init__(self) -> None:
        self.bytes = 0
        self.delays_us = array("l")
        self.late_us = 0
        self.errors: list[str] = []

    def report(self) -> dict[str, Any]:
        report = {
            "audio_seconds": self.bytes / 2 / RATE,
            "first_ms": percentiles(self.delays_us),
            "late_ms": self.late_us / 1000,
            "errors": self.errors,
        }
        self.bytes, self.delays_us, self.late_us = 0, array("l"), 0
        return report


class Ear:
    """The receiver of one session's audio."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self.waits = False
        """Whether the next audio is the first of an utterance."""

    def hear(self, audio: bytes) -> None:
        self._statistics.bytes += len(audio)
        if self.waits:
            self.waits = False
            delay = time.monotonic_ns() - int.from_bytes(audio[:8], "big")
            if 0 <= delay < _PLAUSIBLE_NS:
                self._statistics.delays_us.append(delay // 1000)


async def speak(sessions: Sequence[tuple[Session, Ear]], statistics: Statistics) -> None:
    """Speak forever. The utterances of all sessions are spread evenly."""
    began, count, number = time.monotonic(), len(sessions), 0
    while True:
        wait = began + number * PERIOD_S / count - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        else:
            statistics.late_us = max(statistics.late_us, round(-wait * 1e6))
            await asyncio.sleep(0)
        session, ear = sessions[number % count]
        ear.waits = True
        try:
            await session.say(TEXT)
        except Exception as error:  # noqa: BLE001 - a session that the peer ends is a result
            statistics.errors.append(repr(error))
        number += 1


def write(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def parse(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--url", required=True, help="URL of the provider without a path")
    parser.add_argument("--sessions", type=int, required=True)
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, peer: Peer, packages: Sequence[str]) -> None:
    """Execute the commands on standard input until it ends."""
    statistics = Statistics()
    speaking: asyncio.Task[None] | None = None
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    write(versions={name: importlib.metadata.version(name) for name in packages})
    while line := (await commands.readline()).decode().strip():
        if line == "open":
            ears = [Ear(statistics) for _ in range(arguments.sessions)]
            sessions = await asyncio.gather(*(peer.open(ear.hear) for ear in ears))
            pairs = list(zip(sessions, ears, strict=True))
            speaking = asyncio.create_task(speak(pairs, statistics))
            write(open=len(pairs))
        else:
            write(**statistics.report())
    if speaking is not None:
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking
