"""Processor time and memory of many utterances at once: a worker, bare clients, other programs.

All speak the same text through the same emulator, at the same pace: each session is silent for a
twenty-fifth of the time. `client` is a bare WebSocket client, the floor of all; `relay` is a bare
relay from NATS and back to it, which is what a worker does at least.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..peer_venvs import NotInstalled, installed
from ..processes import Emulator, Program, broker, cpu_seconds, emulator, program, resident_bytes
from ..processes import worker as worker_process
from .latency import VOICES, WORKER, worker_settings
from .peer import PERIOD_S

WHO = ("client", "relay", "natterjack", "livekit", "pipecat")
SESSIONS = (1, 50)
_SETTLE_S = 2 * PERIOD_S
_FULL = 0.9
"""Share of a core above which a program is too slow rather than expensive."""


@dataclass
class Cost:
    """One measurement, or why it was `skipped`."""

    who: str
    sessions: int
    skipped: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    cpu_s_per_hour: float = 0.0
    """CPU seconds of the process per hour of speech."""
    cpu_share: float = 0.0
    """Share of one core."""
    of_client: float = 0.0
    """CPU time as a multiple of the bare client's in the same run."""
    of_relay: float = 0.0
    """The same of the bare relay's."""
    broker_cpu_s_per_hour: float = 0.0
    first_ms: dict[str, float] = field(default_factory=dict)
    """Delay from the provider's first audio of an utterance to whoever receives it: inside of a
    peer, and beyond the broker otherwise."""
    kb_per_session: float = 0.0
    mb_idle: float = 0.0
    delivered: float = 0.0
    """Speech that arrived, as a share of what the provider made."""
    errors: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure_all(
    seconds: float, runs: int = 1, sessions: Sequence[int] = SESSIONS, who: Sequence[str] = WHO
) -> list[Cost]:
    """Measure all programs in turn, `runs` times. Returns the run with the median CPU time of
    each."""
    points: list[Cost] = []
    for count in sessions:
        found: dict[str, list[Cost]] = {name: [] for name in who}
        for _ in range(runs):
            for name, measured in found.items():
                measured.append(await measure(name, count, seconds))
        medians = {
            name: sorted(each, key=lambda one: one.cpu_s_per_hour)[len(each) // 2]
            for name, each in found.items()
        }
        for cost in medians.values():
            if "client" in medians:
                cost.of_client = cost.cpu_s_per_hour / medians["client"].cpu_s_per_hour
            if "relay" in medians:
                cost.of_relay = cost.cpu_s_per_hour / medians["relay"].cpu_s_per_hour
        points += medians.values()
    return points


async def measure(who: str, sessions: int, seconds: float, settle_s: float = _SETTLE_S) -> Cost:
    """Measure a program for a number of whole periods, after `settle_s`."""
    periods = max(1, round(seconds / PERIOD_S))
    try:
        async with (
            emulator(module="bench.voice.emulator") as provider,
            _running(who, sessions, provider) as (subject, driver, server),
        ):
            ready = await driver.read_json()
            idle = resident_bytes(subject.pid)
            await driver.ask("open")
            await asyncio.sleep(settle_s)
            cost = await _window(who, sessions, provider, subject, driver, server, periods)
            if who != "relay":  # which has opened its sessions before
                cost.kb_per_session = (resident_bytes(subject.pid) - idle) / sessions / 1024
            cost.mb_idle = idle / 2**20
            cost.versions = ready.get("versions", {})
            return cost
    except (NotInstalled, RuntimeError, TimeoutError) as error:
        return Cost(who, sessions, skipped=str(error) or type(error).__name__)


async def _window(
    who: str, sessions: int, provider: Emulator, subject: Program, driver: Program,
    server: int | None, periods: int,
) -> Cost:  # fmt: skip
    await driver.ask("reset")
    made = await provider.stats(reset=True)
    before, server_before = cpu_seconds(subject.pid), cpu_seconds(server) if server else 0.0
    await asyncio.sleep(periods * PERIOD_S)
    cpu = cpu_seconds(subject.pid) - before
    server_cpu = cpu_seconds(server) - server_before if server else 0.0
    heard, made = await driver.ask("stats"), await provider.stats()
    hours = made["bytes"] / 48_000 / 3600
    if not hours:
        raise RuntimeError("nothing was spoken")
    return Cost(
        who=who,
        sessions=sessions,
        cpu_s_per_hour=cpu / hours,
        cpu_share=cpu / made["seconds"],
        broker_cpu_s_per_hour=server_cpu / hours,
        first_ms=heard["first_ms"],
        delivered=heard["audio_seconds"] / (made["bytes"] / 48_000),
        errors=len(heard["errors"]),
    )


@contextlib.asynccontextmanager
async def _running(
    who: str, sessions: int, provider: Emulator
) -> AsyncIterator[tuple[Program, Program, int | None]]:
    """Run a program. Yields it, the program that makes it speak, and the broker's process."""
    url, count = f"ws://{provider.address}", str(sessions)
    if who not in ("natterjack", "relay"):
        module = "floor" if who == "client" else f"peer_{who}"
        python = sys.executable if who == "client" else str(await installed(who))
        arguments = ("-m", f"bench.voice.{module}", "--url", url, "--sessions", count)
        async with program(*arguments, python=python) as subject:
            yield subject, subject, None
        return
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(broker())
        bare = who == "relay"
        if bare:
            subject = await stack.enter_async_context(
                program(
                    *("-m", "bench.voice.floor", "--url", url, "--sessions", count),
                    *("--nats", server.url),
                )
            )
            await subject.line()
        else:
            subject, _ = await stack.enter_async_context(
                worker_process(
                    server.url,
                    provider.address,
                    sessions,
                    arguments=WORKER,
                    **worker_settings(VOICES[0]),
                )
            )
        load = ("-m", "bench.voice.load", "--nats", server.url, "--sessions", count)
        driver = await stack.enter_async_context(program(*load, *(("--bare",) if bare else ())))
        yield subject, driver, server.pid


_HEAD = (
    *("", "sessions", "CPU s/h", "of client", "of relay", "core", "first p50/p95/p99 ms"),
    *("KB/session", "MB idle", "broker CPU s/h", "note"),
)


def rows(costs: Sequence[Cost]) -> list[list[str]]:
    """Return the lines of a table, the first of them with the names of its columns."""
    return [list(_HEAD), *(_row(cost) for cost in costs)]


def _row(cost: Cost) -> list[str]:
    name = [cost.who, str(cost.sessions)]
    if cost.skipped:
        return [*name, *[""] * (len(_HEAD) - 3), f"not measured: {cost.skipped}"]
    notes = [f"{cost.errors} errors"] if cost.errors else []
    if cost.cpu_share >= _FULL:
        notes.append("the core is full")
    if abs(cost.delivered - 1) > 0.02:
        notes.append(f"{cost.delivered:.1%} of the speech arrived")
    delays = cost.first_ms
    return [
        *name,
        f"{cost.cpu_s_per_hour:.2f}",
        f"{cost.of_client:.2f}" if cost.of_client else "",
        f"{cost.of_relay:.2f}" if cost.of_relay else "",
        f"{cost.cpu_share:.3f}",
        "/".join(f"{delays[part]:.1f}" for part in ("p50", "p95", "p99") if delays),
        f"{cost.kb_per_session:.0f}" if cost.kb_per_session else "",
        f"{cost.mb_idle:.0f}",
        f"{cost.broker_cpu_s_per_hour:.2f}" if cost.broker_cpu_s_per_hour else "",
        ", ".join(notes),
    ]


def summary(costs: Sequence[Cost]) -> str:
    """Return the versions of the programs."""
    versions = {name: v for cost in costs for name, v in cost.versions.items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
