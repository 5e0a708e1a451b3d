"""A worker, or the floor, under a load: processor time, delays, memory, and time to start."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any

from .processes import Emulator, Program, broker, cpu_seconds, emulator, program, resident_bytes
from .processes import worker as worker_process

_SETTLE_S = 2.0
_BEGIN_S = 60.0
_LATE_MS = 150.0


@dataclass
class Point:
    """One measurement. Delays are in milliseconds; `p99` and the like, by percentile."""

    who: str
    sessions: int
    chunk_ms: int
    cpu_s_per_hour: float
    """Processor seconds of the process an hour of audio."""
    cpu_share: float
    """Of one core."""
    audio_ms: dict[str, float]
    """Chunk published → on the provider's socket."""
    results_ms: dict[str, float]
    """Provider's message → on NATS, at a subscriber."""
    delivered: float
    """Audio that arrived of that which was due: 1 when nothing lags."""
    kb_per_session: float
    mb_idle: float
    start_s: float
    all_begun_s: float
    """From the requests to the first audio of the last session at the provider."""
    broker_cpu_s_per_hour: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure(who: str, sessions: int, chunk_ms: int, seconds: float) -> Point:
    """`who`: `worker` or `floor`."""
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
            await _until(provider, "open", sessions)
        load = await stack.enter_async_context(
            program(
                *("-m", "bench.load", "--nats", server.url, "--sessions", str(sessions)),
                *("--chunk-ms", str(chunk_ms), *(("--bare",) if who == "floor" else ())),
            )
        )
        opened = (await load.told())["opened"]
        await load.told()
        begun = await _until(provider, "begun", sessions)
        await _settled(provider)
        point = await _window(subject, server.pid, load, provider, seconds)
        loaded = resident_bytes(subject.pid)
        await load.ask("end")
    audio_s = sessions * seconds
    cpu, broker_cpu, took, heard, said = point
    return Point(
        who=who,
        sessions=sessions,
        chunk_ms=chunk_ms,
        cpu_s_per_hour=cpu / (audio_s / 3600) * seconds / took,
        cpu_share=cpu / took,
        audio_ms=heard["audio_delay_ms"],
        results_ms=said["result_delay_ms"],
        delivered=heard["bytes"] / (heard["seconds"] * sessions * 32_000),
        kb_per_session=(loaded - idle) / sessions / 1024,
        mb_idle=idle / 2**20,
        start_s=start,
        all_begun_s=(begun["last_begun_ns"] - opened) / 1e9,
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


async def _settled(provider: Emulator) -> None:
    """Return when audio arrives as it is published: what waited at the start has been sent."""
    async with asyncio.timeout(_BEGIN_S):
        while True:
            await provider.stats(reset=True)
            await asyncio.sleep(_SETTLE_S)
            if (await provider.stats())["audio_delay_ms"].get("p95", _LATE_MS) < _LATE_MS:
                return


async def _until(provider: Emulator, what: str, count: int) -> dict[str, Any]:
    async with asyncio.timeout(_BEGIN_S):
        while (told := await provider.stats())[what] < count:
            await asyncio.sleep(0.1)
    return told
