"""The process of a peer, which sends audio to the peer's sessions in real time.

bench.peer_pipecat and bench.peer_livekit run this in environments that have neither natterjack nor
its dependencies, so this module imports only the standard library. `python -m bench.peer` runs it
without a peer, to measure the cost of sending audio.

The audio is either chunks filled with the time at which they were sent, in each eight bytes, or a
file that each session receives once. A peer may split chunks differently: its messages still start
with such a time if it splits after multiples of four samples.

It prints JSON lines: `versions` when it is ready, and a reply to each line on standard input:
`open` (open all sessions and start sending), `reset` and `stats` (statistics since the last reply,
and whether the file has been sent: `given`), and `finish` (the finals of each session, once all
sessions have ended).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import re
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from .emulator import percentiles

RATE = 16_000
KEY = "a-bench-key"
_SLOT_S = 0.004
"""Sessions that are due within this time receive their audio together."""
_END_S = 20.0
_STAMP = re.compile(r"\bt(\d{9,})", re.IGNORECASE)
"""The first word of each message of the emulator: the time at which it was sent."""

OnTranscript = Callable[[str, bool], None]
"""Callback that receives the text of each transcript and whether it is final."""


class Session(Protocol):
    """One session of a peer."""

    async def send(self, chunk: bytes) -> None:
        """Send mono linear16 without waiting for the provider; raises the peer's errors."""
        ...

    async def end(self) -> None:
        """End the audio, and return when all transcripts have arrived."""
        ...


class Peer(Protocol):
    """An STT service of a peer with all its sessions."""

    async def open(self, on_transcript: OnTranscript) -> Session:
        """Open a session."""
        ...


class Transcripts:
    """Transcripts of one session."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._last = 0
        self.finals: list[str] = []
        self.error = ""
        """Error that the peer raised."""
        self.unended = False
        """Whether the provider did not end the session in time."""

    def add(self, text: str, final: bool) -> None:
        now = time.monotonic_ns()
        if final:
            self.finals.append(text)
        # A peer may repeat a transcript or prefix it with words of an earlier message.
        sent_at = max(map(int, _STAMP.findall(text)), default=0)
        if sent_at > self._last:
            self._last = sent_at
            self._statistics.delays_us.append((now - sent_at) // 1000)


class Statistics:
    """Statistics of all sessions since the last reply."""

    def __init__(self) -> None:
        self.delays_us = array("l")
        self.late_us = 0

    def report(self) -> dict[str, Any]:
        report = {"result_delay_ms": percentiles(self.delays_us), "late_ms": self.late_us / 1000}
        self.delays_us, self.late_us = array("l"), 0
        return report


class Feed:
    """Sends audio to all sessions, whose starts are spread over `spread_s`."""

    def __init__(
        self, statistics: Statistics, chunk_ms: int, speech: bytes | None, spread_s: float
    ) -> None:
        self._statistics = statistics
        self._period = chunk_ms / 1000
        self._size = RATE * 2 * chunk_ms // 1000
        self._speech = speech
        self._spread = spread_s
        self.sessions: list[Session] = []
        self.transcripts: list[Transcripts] = []

    async def run(self) -> None:
        """Send audio until the end of the speech; without speech, forever."""
        began, period, count = time.monotonic() + self._period, self._period, len(self.sessions)
        chunks = None if self._speech is None else -(-len(self._speech) // self._size)
        late = [self._spread * index / count for index in range(count)]
        slots: dict[int, list[tuple[int, int]]] = {}
        for index, behind in enumerate(late):
            whole, part = divmod(behind, period)
            slots.setdefault(round(part / _SLOT_S), []).append((index, int(whole)))
        order = sorted(slots.items())
        last = None if chunks is None else chunks + int(self._spread / period) + 1
        tick = 0
        while last is None or tick < last:
            for slot, members in order:
                due = began + tick * period + slot * _SLOT_S
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                else:
                    await asyncio.sleep(0)
                    self._statistics.late_us = max(self._statistics.late_us, round(-wait * 1e6))
                for index, behind in members:
                    number = tick - behind
                    if number >= 0 and (chunks is None or number < chunks):
                        await self._send(index, number)
            tick += 1

    async def _send(self, index: int, number: int) -> None:
        own = self.transcripts[index]
        if own.error:
            return
        if self._speech is None:
            chunk = time.monotonic_ns().to_bytes(8, "big") * (self._size // 8)
        else:
            chunk = self._speech[number * self._size : (number + 1) * self._size]
        try:
            await self.sessions[index].send(chunk)
        except Exception as error:  # noqa: BLE001 - a session that the peer ends is a result
            own.error = repr(error)

    async def end(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(self._end(*each) for each in zip(self.sessions, self.transcripts,
                                                                strict=True)))  # fmt: skip

    async def _end(self, session: Session, own: Transcripts) -> None:
        try:
            async with asyncio.timeout(_END_S) as bound:
                await session.end()
        except Exception as error:  # noqa: BLE001 - as above
            if bound.expired():
                own.unended = True
            else:
                own.error = own.error or repr(error)


class NoPeer:
    """A peer, and its session, that does nothing."""

    async def open(self, on_transcript: OnTranscript) -> Session:
        return self

    async def send(self, chunk: bytes) -> None:
        pass

    async def end(self) -> None:
        pass


def write(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def versions(names: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def parse(description: str | None, services: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--service", required=True, choices=services)
    parser.add_argument("--url", required=True, help="URL of the provider without a path")
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument("--speech", type=Path, help="file with mono linear16 at 16 kHz")
    parser.add_argument(
        "--spread", type=float, help="seconds from the first session's start to the last one's"
    )
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, peer: Peer, packages: Sequence[str]) -> None:
    """Execute the commands on standard input until it ends."""
    speech = arguments.speech.read_bytes() if arguments.speech else None
    statistics = Statistics()
    spread = arguments.chunk_ms / 1000 if arguments.spread is None else arguments.spread
    feed = Feed(statistics, arguments.chunk_ms, speech, spread)
    feeding: asyncio.Task[None] | None = None
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    write(versions=versions(packages))
    while line := (await commands.readline()).decode().strip():
        if line == "open":
            feed.transcripts = [Transcripts(statistics) for _ in range(arguments.sessions)]
            feed.sessions = await asyncio.gather(*(peer.open(own.add) for own in feed.transcripts))
            feeding = asyncio.create_task(feed.run())
            write(open=len(feed.sessions))
        elif line == "finish":
            assert feeding is not None
            await feeding
            await feed.end()
            write(
                finals=[own.finals for own in feed.transcripts],
                errors=[own.error for own in feed.transcripts],
                unended=sum(own.unended for own in feed.transcripts),
            )
        else:
            given = feeding is not None and feeding.done()
            write(
                **statistics.report(),
                given=given,
                broken=sum(bool(own.error) for own in feed.transcripts),
            )
    if feeding is not None:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


async def main() -> None:
    arguments = parse(__doc__, ["nothing"])
    await serve(arguments, NoPeer(), ())


if __name__ == "__main__":
    asyncio.run(main())
