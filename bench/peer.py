"""The process of a peer, whatever the peer: sessions that are given audio in real time.

bench.peer_pipecat and bench.peer_livekit run this, in environments of their own, which have neither
natterjack nor what it needs: only the standard library may be imported here. `python -m bench.peer`
is the process without a peer, to know what giving the audio costs.

Audio is either chunks that hold the time at which they were given, over and over in each eight
bytes (a peer may cut audio anew: each of its messages begins with such a time as long as it cuts
after whole samples by fours), or a file, once to each session.

Says JSON lines: `versions` when it is ready, and an answer for each line that comes in: `open` (all
sessions open, and audio is given), `reset` and `stats` (what was seen since the last of them; the
file is `given`, or not yet), and `finish` (the finals of each session, once the sessions have
ended).
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
"""Sessions that are due so close together are given their audio at once."""
_END_S = 20.0
_STAMP = re.compile(r"\bt(\d{9,})", re.IGNORECASE)
"""The first word of each of the emulator's messages: when it was said."""

OnTranscript = Callable[[str, bool], None]
"""Called with the text of each transcript, and whether it is final."""


class Session(Protocol):
    """One session of a peer."""

    async def send(self, chunk: bytes) -> None:
        """Mono linear16. Must not wait for the provider; raises what the peer raises."""
        ...

    async def end(self) -> None:
        """No more audio; return when all transcripts are in."""
        ...


class Peer(Protocol):
    """One STT service of a peer, with all its sessions."""

    async def open(self, on_transcript: OnTranscript) -> Session:
        """Begin a session."""
        ...


class Transcripts:
    """What the transcripts of one session say."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._last = 0
        self.finals: list[str] = []
        self.error = ""
        """What the peer raised."""
        self.unended = False
        """It waits for the provider to end the session, which does not."""

    def add(self, text: str, final: bool) -> None:
        now = time.monotonic_ns()
        if final:
            self.finals.append(text)
        # A peer may say again what it said, and words of an earlier message before those of a new.
        sent_at = max(map(int, _STAMP.findall(text)), default=0)
        if sent_at > self._last:
            self._last = sent_at
            self._seen.delays_us.append((now - sent_at) // 1000)


class Seen:
    """What all sessions saw since the last answer."""

    def __init__(self) -> None:
        self.delays_us = array("l")
        self.late_us = 0

    def report(self) -> dict[str, Any]:
        report = {"result_delay_ms": percentiles(self.delays_us), "late_ms": self.late_us / 1000}
        self.delays_us, self.late_us = array("l"), 0
        return report


class Feed:
    """Gives all sessions their audio, spread over `spread_s`."""

    def __init__(self, seen: Seen, chunk_ms: int, speech: bytes | None, spread_s: float) -> None:
        self._seen = seen
        self._period = chunk_ms / 1000
        self._size = RATE * 2 * chunk_ms // 1000
        self._speech = speech
        self._spread = spread_s
        self.sessions: list[Session] = []
        self.transcripts: list[Transcripts] = []

    async def run(self) -> None:
        """Until the speech is over; without speech, for ever."""
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
                    self._seen.late_us = max(self._seen.late_us, round(-wait * 1e6))
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
        except Exception as error:  # noqa: BLE001 - the peer has ended the session: that is a result
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
    """A peer that does nothing, and its session."""

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
    parser.add_argument("--url", required=True, help="the provider, without a path")
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument("--speech", type=Path, help="file of mono linear16 at 16 kHz")
    parser.add_argument("--spread", type=float, help="seconds that the last session is behind the "
                        "first (default: a chunk)")  # fmt: skip
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, peer: Peer, packages: Sequence[str]) -> None:
    """Do what standard input says, until it ends."""
    speech = arguments.speech.read_bytes() if arguments.speech else None
    seen = Seen()
    spread = arguments.chunk_ms / 1000 if arguments.spread is None else arguments.spread
    feed = Feed(seen, arguments.chunk_ms, speech, spread)
    feeding: asyncio.Task[None] | None = None
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    write(versions=versions(packages))
    while line := (await commands.readline()).decode().strip():
        if line == "open":
            feed.transcripts = [Transcripts(seen) for _ in range(arguments.sessions)]
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
                **seen.report(),
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
