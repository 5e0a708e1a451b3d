"""CPU time, delays, memory and start time of a worker, or of the bare relay, under load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from natterjack.process.table import table
from tests.waiting import within

from .processes import (
    Emulator,
    Program,
    broker,
    cpu_seconds,
    emulator,
    program,
    progress,
    resident_bytes,
)
from .processes import worker as worker_process

_SETTLE_S = 2.0
_BEGIN_S = 60.0
_LATE_MS, _BUSY_LATE_MS = 150.0, 1000.0
_MOST_MISSING = 0.02


@dataclass
class Point:
    """One measurement. Delays are in milliseconds by percentile, such as `p99`."""

    who: str
    sessions: int
    chunk_ms: int
    cpu_s_per_hour: float
    """CPU seconds of the process per hour of audio."""
    cpu_share: float
    """Share of one core."""
    audio_ms: dict[str, float]
    """Delay from the publication of a chunk to its arrival at the provider."""
    results_ms: dict[str, float]
    """Delay from the provider's message to its arrival at a NATS subscriber."""
    delivered: float
    """Share of the due audio that arrived: 1 without lag."""
    kb_per_session: float
    mb_idle: float
    start_s: float
    all_begun_s: float
    """Time from the requests to the first audio of the last session at the provider."""
    broker_cpu_s_per_hour: float
    runs: int = 1
    cpu_least: float = 0.0
    """Minimum of the runs' CPU seconds per hour of audio."""
    cpu_most: float = 0.0
    of_floor: float = 0.0
    """CPU time as a multiple of the bare relay's in the same run."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


CASES = ((1, 80, 1), (100, 80, 1), (300, 80, 3), (1000, 80, 3), (100, 20, 1), (100, 200, 1))
"""Sessions, milliseconds per chunk, and 1 for a single run or more for the requested number of runs
(points with a target)."""
CAPACITY = {80: (1250, 1500, 1750, 2000), 200: (2000, 2500, 3000)}
"""Numbers of sessions by milliseconds per chunk."""
_MOST_LATE_MS = 50.0


async def measure_all(seconds: float, runs: int) -> list[Point]:
    """Measure worker and bare relay in turn, and return medians of the runs."""
    points = []
    for sessions, chunk_ms, often in CASES:
        found: dict[str, list[Point]] = {"floor": [], "worker": []}
        for run in range(runs if often > 1 else 1):
            for who, measured in found.items():
                progress(f"{who}, {sessions} sessions, {chunk_ms} ms, run {run + 1}")
                measured.append(await measure(who, sessions, chunk_ms, seconds))
        floor = _median(found["floor"], 0.0)
        points += [floor, _median(found["worker"], floor.cpu_s_per_hour)]
    return points


async def measure_capacity(seconds: float) -> list[Point]:
    """Measure more and more sessions until delays rise or audio lags."""
    points = []
    for chunk_ms, counts in CAPACITY.items():
        for sessions in counts:
            progress(f"worker, {sessions} sessions, {chunk_ms} ms")
            try:
                point = await measure("worker", sessions, chunk_ms, seconds)
            except TimeoutError:
                progress(f"{sessions} sessions did not settle")
                break
            points.append(point)
            late = max(point.audio_ms["p99"], point.results_ms["p99"])
            if late > _MOST_LATE_MS or abs(point.delivered - 1) > _MOST_MISSING:
                break
    return points


def _median(points: list[Point], floor: float) -> Point:
    """Return the run with the median CPU time, and the spread of all runs."""
    ordered = sorted(points, key=lambda point: point.cpu_s_per_hour)
    point = ordered[len(ordered) // 2]
    point.runs = len(ordered)
    point.cpu_least, point.cpu_most = ordered[0].cpu_s_per_hour, ordered[-1].cpu_s_per_hour
    if floor:
        point.of_floor = point.cpu_s_per_hour / floor
    return point


def print_points(points: Sequence[Point]) -> None:
    head = (
        *("", "sessions", "chunk ms", "CPU s/h", "least-most", "of floor", "core"),
        *("audio p50/95/99 ms", "results p50/95/99 ms", "delivered", "KB/session", "MB idle"),
        *("start s", "all started s"),
    )
    rows = [
        (
            point.who,
            str(point.sessions),
            str(point.chunk_ms),
            f"{point.cpu_s_per_hour:.2f}",
            f"{point.cpu_least:.2f}-{point.cpu_most:.2f}" if point.runs > 1 else "",
            f"{point.of_floor:.2f}" if point.of_floor else "",
            f"{point.cpu_share:.2f}",
            _three(point.audio_ms),
            _three(point.results_ms),
            f"{point.delivered:.3f}",
            f"{point.kb_per_session:.0f}",
            f"{point.mb_idle:.0f}",
            f"{point.start_s:.2f}",
            f"{point.all_begun_s:.2f}" if point.who == "worker" else "",
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(1, len(head))), sep="\n")


def _three(delays: dict[str, float]) -> str:
    return "/".join(f"{delays[part]:.1f}" for part in ("p50", "p95", "p99")) if delays else "-"


async def measure(
    who: str, sessions: int, chunk_ms: int, seconds: float, slot_ms: float = 1
) -> Point:
    """Measure `who`: `worker` or `floor`.

    Chunks that are due within `slot_ms` are sent together.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(broker())
        provider = await stack.enter_async_context(emulator())
        if who == "worker":
            subject, start = await stack.enter_async_context(
                worker_process(server.url, provider.address, sessions)
            )
        else:
            began = time.monotonic()
            arguments = ("--nats", server.url, "--sessions", str(sessions))
            url = f"ws://{provider.address}/v1/listen"
            subject = await stack.enter_async_context(
                program("-m", "bench.floor", *arguments, "--provider", url)
            )
            await subject.line()
            start = time.monotonic() - began
        idle = resident_bytes(subject.pid)
        if who == "floor":
            async with asyncio.timeout(_BEGIN_S):
                await _until(provider, "open", sessions)
        load = await stack.enter_async_context(
            program(
                *("-m", "bench.load", "--nats", server.url, "--sessions", str(sessions)),
                *("--slot-ms", str(slot_ms), "--chunk-ms", str(chunk_ms)),
                *(("--bare",) if who == "floor" else ()),
            )
        )
        opened = (await load.read_json())["opened"]
        await load.read_json()
        first = await settled(provider, sessions)
        point = await _window(subject, server.pid, load, provider, seconds)
        loaded = resident_bytes(subject.pid)
        await load.ask("end")
    audio_s = sessions * seconds
    cpu, broker_cpu, took, received, results = point
    return Point(
        who=who,
        sessions=sessions,
        chunk_ms=chunk_ms,
        cpu_s_per_hour=cpu / (audio_s / 3600) * seconds / took,
        cpu_share=cpu / took,
        audio_ms=received["audio_delay_ms"],
        results_ms=results["result_delay_ms"],
        delivered=received["bytes"] / (received["seconds"] * sessions * 32_000),
        kb_per_session=(loaded - idle) / sessions / 1024,
        mb_idle=idle / 2**20,
        start_s=start,
        all_begun_s=(first["last_begun_ns"] - opened) / 1e9,
        broker_cpu_s_per_hour=broker_cpu / (audio_s / 3600) * seconds / took,
    )


async def _window(
    subject: Program, server: int, load: Program, provider: Emulator, seconds: float
) -> tuple[float, float, float, dict[str, Any], dict[str, Any]]:
    await load.ask("reset")
    await provider.stats(reset=True)
    before, broker_before, began = cpu_seconds(subject.pid), cpu_seconds(server), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    cpu, broker_cpu = cpu_seconds(subject.pid) - before, cpu_seconds(server) - broker_before
    return cpu, broker_cpu, took, await provider.stats(), await load.ask("stats")


async def settled(provider: Emulator, sessions: int, *, busy: bool = False) -> dict[str, Any]:
    """Wait until all sessions have started and audio arrives without lag.

    On a machine that may be `busy` with other programs, more delay counts as none, and the limits
    of the wait follow the load. Returns the provider's statistics at the moment when all sessions
    had started.
    """
    limit, late_ms = (within, _BUSY_LATE_MS) if busy else (asyncio.timeout, _LATE_MS)
    async with limit(_BEGIN_S):
        first = await _until(provider, "begun", sessions)
    async with limit(_BEGIN_S):
        while True:
            await provider.stats(reset=True)
            await asyncio.sleep(_SETTLE_S)
            if (await provider.stats())["audio_delay_ms"].get("p95", late_ms) < late_ms:
                return first


@contextlib.asynccontextmanager
async def streaming(
    sessions: int, *arguments: str, busy: bool = False
) -> AsyncIterator[tuple[Program, Emulator]]:
    """Run a worker, `python <arguments>`; yield it and its provider once all sessions stream, as
    `settled` has it."""
    async with (
        broker() as server,
        emulator() as provider,
        worker_process(server.url, provider.address, sessions, arguments=arguments) as (subject, _),
        program(*("-m", "bench.load", "--nats", server.url, "--sessions", str(sessions))) as load,
    ):
        await load.read_json()
        await load.read_json()
        await settled(provider, sessions, busy=busy)
        yield subject, provider
        await load.ask("end")


async def _until(provider: Emulator, what: str, count: int) -> dict[str, Any]:
    stats = await provider.stats()
    while stats[what] < count:
        await asyncio.sleep(0.1)
        stats = await provider.stats()
    return stats
