"""Cost of the edge: `python -m bench.edge`.

Runs several real `natterjack-edge` processes that read audio from a pipe in real time and publish
it to a real nats-server. The result is the median and the spread of their CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pty
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from nats.js import JetStreamContext
from nats.js.api import StreamState

from edge_capture.settings import PublishSettings
from natterjack.broker.connection import connected
from natterjack.broker.streams import AUDIO, ensure
from natterjack.errors import NatterjackError, UsageError
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, StreamSettings

from .processes import broker, cpu_seconds, resident_bytes

_BLOCK_MS = 20
"""Milliseconds of audio per write into the pipe."""
_COPIES = 3
_NOISE_BLOCKS = 25
_START_S = 30.0
_SETTLE_S = 1.0
_END_S = 10.0


class Case(NamedTuple):
    """Configuration of an edge."""

    channels: int = 1
    """Number of channels, each of which is a session."""
    rate: int = 16_000
    """Sample rate of the input in hertz; the edge publishes 16 kHz."""
    spool: bool = False
    terminal: bool = False
    """Whether the edge displays its table on a terminal."""


CASES = (
    Case(),
    Case(rate=48_000),
    Case(spool=True),
    Case(terminal=True),
    Case(channels=4),
    Case(channels=16),
    Case(channels=16, rate=48_000),
    Case(channels=16, spool=True),
)


@dataclass
class Point:
    """Result of one case: medians over the edges that ran concurrently."""

    channels: int
    rate: int
    spool: bool
    terminal: bool
    cpu_s_per_hour: float
    """CPU seconds per hour of audio of one channel."""
    least: float
    most: float
    """CPU seconds per hour of the edges that used the least and the most."""
    core_share: float
    """Share of one core for all channels of an edge."""
    mb: float
    """Resident memory of an edge."""
    published: float
    """Share of the due audio that was stored: 1 without lag."""
    agents: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Agent(NamedTuple):
    """A running natterjack-edge."""

    process: asyncio.subprocess.Process
    log: Path

    def check(self) -> None:
        """Check that the edge still runs.

        Raises: UsageError with the last line of its log if it has exited.
        """
        if self.process.returncode is not None:
            words = self.log.read_text().strip().split("\n")[-1]
            raise UsageError(f"natterjack-edge exited with {self.process.returncode}: {words}")


async def measure(seconds: float = 4.0, cases: Sequence[Case] = CASES) -> list[Point]:
    """Measure each case for `seconds`.

    Raises: UsageError, BrokerError.
    """
    return [await _measured(case, seconds) for case in cases]


async def _measured(case: Case, seconds: float) -> Point:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(broker())
        settings = BrokerSettings(url=server.url)
        connection = await stack.enter_async_context(connected(settings, name="bench"))
        stream = await ensure(connection, StreamSettings())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        agents = [
            await stack.enter_async_context(_agent(case, number, server.url, directory))
            for number in range(_COPIES)
        ]
        await _all_publish(stream, agents, case.channels * _COPIES)
        await asyncio.sleep(_SETTLE_S)
        stored = (await _stored(stream)).messages
        before, began = [cpu_seconds(agent.process.pid) for agent in agents], time.monotonic()
        await asyncio.sleep(seconds)
        after, took = [cpu_seconds(agent.process.pid) for agent in agents], time.monotonic() - began
        stored = (await _stored(stream)).messages - stored
        for agent in agents:
            agent.check()
        memory = [resident_bytes(agent.process.pid) for agent in agents]
    used = [(end - start) / took for start, end in zip(before, after, strict=True)]
    hours = [share / case.channels * 3600 for share in used]
    chunks_due = took * 1000 / PublishSettings().chunk_ms * case.channels * _COPIES
    return Point(
        **case._asdict(),
        cpu_s_per_hour=statistics.median(hours),
        least=min(hours),
        most=max(hours),
        core_share=statistics.median(used),
        mb=statistics.median(memory) / 2**20,
        published=stored / chunks_due,
        agents=_COPIES,
    )


async def _stored(stream: JetStreamContext) -> StreamState:
    return (await stream.stream_info(AUDIO, subjects_filter=">")).state


async def _all_publish(stream: JetStreamContext, agents: Sequence[_Agent], sessions: int) -> None:
    """Wait until audio of all sessions is stored."""
    try:
        async with asyncio.timeout(_START_S):
            while len((await _stored(stream)).subjects or {}) < sessions:
                for agent in agents:
                    agent.check()
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise UsageError(f"natterjack-edge published nothing in {_START_S:.0f} s") from None


@contextlib.asynccontextmanager
async def _agent(case: Case, number: int, url: str, directory: Path) -> AsyncIterator[_Agent]:
    speakers = ",".join(f"channel{channel}" for channel in range(case.channels))
    log = directory / f"agent{number}.log"
    arguments = [
        *("--live", "--sample-rate", str(case.rate), "--channels", str(case.channels)),
        *("--split-channels", speakers, "--conversation", f"agent{number}", "--nats-url", url),
        *(("--spool", str(directory / f"spool{number}")) if case.spool else ()),
    ]
    with contextlib.ExitStack() as stack:
        readable, pipe = os.pipe()
        stack.callback(os.close, readable)
        writable = stack.enter_context(os.fdopen(pipe, "wb", 0))
        errors: int | IO[bytes] = (
            stack.enter_context(_terminal())
            if case.terminal
            else stack.enter_context(log.open("wb"))
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_capture", "stdin", *arguments,
            env=_environment(), stdin=readable, stdout=asyncio.subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        delay = _BLOCK_MS / 1000 * number / _COPIES
        feeding = asyncio.create_task(_feed(case, writable, delay), name=f"feed {number}")
        try:
            yield _Agent(process, log)
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})
            await _end(process)


def _environment() -> dict[str, str]:
    foreign = ("EDGE_", "NATS_", "NATTERJACK_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**ours, "COLUMNS": "120", "TERM": "xterm-256color"}


async def _feed(case: Case, pipe: FileIO, delay: float) -> None:
    """Write audio in real time until cancelled or until the pipe has no reader."""
    size = case.rate * _BLOCK_MS // 1000 * case.channels * 2
    # As loud as speech: the edge examines noise at full scale, which may be another encoding.
    noise = np.random.default_rng(1).integers(-4096, 4096, (_NOISE_BLOCKS, size // 2), np.int16)
    blocks = [block.tobytes() for block in noise]
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, pipe)
    due, written = time.monotonic() + delay, 0
    try:
        while not transport.is_closing():
            await asyncio.sleep(due - time.monotonic())
            transport.write(blocks[written % _NOISE_BLOCKS])
            due, written = due + _BLOCK_MS / 1000, written + 1
    finally:
        transport.abort()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM, and SIGKILL if the process does not exit in time."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """Open a pseudo-terminal for the edge; its output is read and discarded."""
    screen, own = pty.openpty()
    loop = asyncio.get_running_loop()
    loop.add_reader(screen, os.read, screen, 2**16)
    try:
        yield own
    finally:
        loop.remove_reader(screen)
        os.close(screen)
        os.close(own)


def print_points(points: Sequence[Point]) -> None:
    head = ("channels", "kHz", "CPU s/h", "least", "most", "core", "MB", "published", "with")
    rows = [
        (
            str(point.channels),
            str(point.rate // 1000),
            f"{point.cpu_s_per_hour:.2f}",
            f"{point.least:.2f}",
            f"{point.most:.2f}",
            f"{point.core_share:.2%}",
            f"{point.mb:.0f}",
            f"{point.published:.2f}",
            "spool" if point.spool else "terminal" if point.terminal else "",
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(len(head) - 1)), sep="\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each case")
    arguments = parser.parse_args()
    try:
        points = await measure(arguments.seconds)
    except NatterjackError as error:
        sys.exit(f"bench.edge: {error}")
    print_points(points)


if __name__ == "__main__":
    asyncio.run(main())
