"""Processor time, memory and delays of clients through the gateway, beside the same ones alone.

The clients are streams of the Deepgram SDK in one process (bench.gateway.client). `straight`: they
are connected to the provider (bench.emulator), which is the floor of all. `gateway`: they are
connected to a gateway, whose sessions a worker transcribes with that provider.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from ..processes import (
    Emulator,
    Program,
    broker,
    busy_seconds,
    cpu_seconds,
    emulator,
    gateway,
    program,
    progress,
    resident_bytes,
    worker,
)
from ..relay import settled

WHO = ("straight", "gateway")
PARTS = ("client", "gateway", "worker", "broker")
SESSIONS = (1, 50, 100, 300)
CHUNK_MS = 80


@dataclass
class Cost:
    """One measurement. Delays are in milliseconds by percentile, such as `p99`."""

    who: str
    sessions: int
    cpu_s_per_hour: dict[str, float] = field(default_factory=dict)
    """CPU seconds per hour of audio of each process."""
    kb_per_session: dict[str, float] = field(default_factory=dict)
    """Memory of each process beyond what it had before the sessions, per session."""
    mb_idle: dict[str, float] = field(default_factory=dict)
    audio_ms: dict[str, float] = field(default_factory=dict)
    """Delay from the client's call that sends a chunk to its arrival at the provider."""
    results_ms: dict[str, float] = field(default_factory=dict)
    """Delay from the provider's message to the transcript in the client's hands."""
    delivered: float = 0.0
    """Share of the due audio that arrived: 1 without lag."""
    late_ms: float = 0.0
    """Maximum delay of the client's audio because its process was busy."""
    broken: int = 0
    """Streams that ended."""
    settled: bool = True
    """Whether the delays had become small before the measurement."""
    cores: float = 0.0
    """Processor time of everything measured and of the provider, in cores."""
    other_cores: float = 0.0
    """Processor time of all other programs of the machine meanwhile, in cores."""
    versions: dict[str, str] = field(default_factory=dict)
    runs: int = 1
    least: float = 0.0
    """Minimum of the runs' CPU seconds per hour of audio."""
    most: float = 0.0
    of_straight: float = 0.0
    """CPU time of all processes as a multiple of the client's when it is straight on the provider
    in the same run."""

    @property
    def total(self) -> float:
        """CPU seconds per hour of audio of all processes."""
        return sum(self.cpu_s_per_hour.values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure_all(seconds: float, runs: int, sessions: Sequence[int] = SESSIONS) -> list[Cost]:
    """Measure both in turn, `runs` times. Returns the runs with the median CPU time."""
    costs = []
    for count in sessions:
        found: dict[str, list[Cost]] = {who: [] for who in WHO}
        for run in range(runs):
            for who, measured in found.items():
                progress(f"{who}, {count} sessions, run {run + 1}")
                measured.append(await measure(who, count, seconds))
        medians = [_median(found[who]) for who in WHO]
        for cost in medians:
            cost.of_straight = cost.total / medians[0].total
        costs += medians
    return costs


def _median(costs: list[Cost]) -> Cost:
    ordered = sorted(costs, key=lambda cost: cost.total)
    median = ordered[len(ordered) // 2]
    median.runs, median.least, median.most = len(ordered), ordered[0].total, ordered[-1].total
    return median


async def measure(who: str, sessions: int, seconds: float) -> Cost:
    """Measure `who`. Raises: RuntimeError if a process ends, TimeoutError if one does not start."""
    cost = Cost(who, sessions)
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(emulator())
        pids, address = {}, provider.address
        if who == "gateway":
            server = await stack.enter_async_context(broker())
            subject, _ = await stack.enter_async_context(
                worker(server.url, provider.address, sessions)
            )
            door, address = await stack.enter_async_context(_gateway(server.url))
            pids = {"gateway": door.pid, "worker": subject.pid, "broker": server.pid}
        client = await stack.enter_async_context(_clients(address, sessions))
        cost.versions = (await client.read_json())["versions"]
        pids = {"client": client.pid, **pids}
        idle = {name: resident_bytes(pid) for name, pid in pids.items()}
        await client.ask("open")
        try:
            await settled(provider, sessions)
        except TimeoutError:
            cost.settled = False
        await client.ask("reset")
        await provider.stats(reset=True)
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        emulated, busy, began = cpu_seconds(provider.process.pid), busy_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        ours = sum(used.values()) + cpu_seconds(provider.process.pid) - emulated
        cost.cores, cost.other_cores = ours / took, (busy_seconds() - busy - ours) / took
        received, results = await provider.stats(), await client.ask("stats")
        loaded = {name: resident_bytes(pid) for name, pid in pids.items()}
    cost.cpu_s_per_hour = {name: used[name] / took / sessions * 3600 for name in pids}
    cost.kb_per_session = {n: (loaded[n] - idle[n]) / sessions / 1024 for n in pids}
    cost.mb_idle = {name: idle[name] / 2**20 for name in pids}
    cost.audio_ms, cost.results_ms = received["audio_delay_ms"], results["result_delay_ms"]
    cost.delivered = received["bytes"] / (received["seconds"] * sessions * 32_000)
    cost.late_ms, cost.broken = results["late_ms"], results["broken"]
    return cost


def _gateway(nats_url: str, *arguments: str) -> AbstractAsyncContextManager[tuple[Program, str]]:
    return gateway(
        nats_url,
        arguments=arguments or ("-m", "gateway"),
        GATEWAY_PROVIDER="deepgram",
        GATEWAY_MAX_CONNECTIONS="1000",
    )


def _clients(address: str, sessions: int) -> AbstractAsyncContextManager[Program]:
    """The process of the clients."""
    return program(
        *("-m", "bench.gateway.client", "--service", "deepgram", "--url", f"ws://{address}"),
        *("--sessions", str(sessions), "--chunk-ms", str(CHUNK_MS)),
    )


@contextlib.asynccontextmanager
async def streaming(
    sessions: int, *arguments: str, busy: bool = False
) -> AsyncIterator[tuple[Program, Emulator]]:
    """Run a gateway, `python <arguments>`; yield it and the provider once all clients stream, as
    `settled` has it."""
    async with (
        emulator() as provider,
        broker() as server,
        worker(server.url, provider.address, sessions),
        _gateway(server.url, *arguments) as (subject, address),
        _clients(address, sessions) as client,
    ):
        await client.read_json()
        await client.ask("open")
        await settled(provider, sessions, busy=busy)
        yield subject, provider


def rows(costs: Sequence[Cost]) -> list[list[str]]:
    """Lines of a table; the first has the names of the columns."""
    head = ["", "sessions", *(f"{part}: CPU s/h, KB" for part in PARTS), "all: CPU s/h"]
    lines = [[*head, "of straight", "audio p50/95/99 ms", "results p50/95/99 ms", ""]]
    for cost in costs:
        spread = f" ({cost.least:.1f}-{cost.most:.1f})" if cost.runs > 1 else ""
        notes = [f"other programs {cost.other_cores:.1f} cores"]
        if abs(cost.delivered - 1) > 0.02:
            notes.append(f"{cost.delivered:.1%} of audio delivered")
        if not cost.settled:
            notes.append("delays never became small")
        if cost.broken:
            notes.append(f"{cost.broken} streams broke")
        lines.append(
            [
                cost.who, str(cost.sessions),
                *(
                    f"{cost.cpu_s_per_hour[part]:.2f}, {cost.kb_per_session[part]:.0f}"
                    if part in cost.cpu_s_per_hour else "" for part in PARTS
                ),
                f"{cost.total:.2f}{spread}", f"{cost.of_straight:.2f}", three(cost.audio_ms),
                three(cost.results_ms), ", ".join(notes),
            ]
        )  # fmt: skip
    return lines


def three(delays: dict[str, float]) -> str:
    """p50, p95 and p99."""
    return "/".join(f"{delays[part]:.1f}" for part in ("p50", "p95", "p99")) if delays else "-"
