"""Measure how long a session lacks transcripts after a fault: `python -m tests.faults.recovery`.

Everything runs in real time on one machine. Broker, workers and emulator have a process each; all
edges share one. Workers have default settings, except for the lease where a row names it. Times are
taken where events arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from natterjack.broker.connection import Broker, connected
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent
from natterjack.settings import BrokerSettings
from tests.nats_server import NatsServer

from ..emulators.process import RemoteEmulator, emulator_process
from ..waiting import until
from ..worker.programs import WorkerProcess
from .choir import Choir, Voice

_DEFAULT_RATE = "1.25"


class Row(NamedTuple):
    """A row of the table."""

    what: str
    goal: str
    figure: str
    met: bool
    samples: int
    """Number of samples in the figure."""

    def line(self) -> str:
        """Format the row for a Markdown table."""
        return f"| {self.what} | {self.goal} | {self.figure} | {self.samples} | " + (
            "yes |" if self.met else "**no** |"
        )


HEAD = "| measured | goal | figure | samples | met |\n| --- | --- | --- | --- | --- |"


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that at least `percent` percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def spread(values: list[float]) -> str:
    """Format the median, 95th and 99th percentiles and maximum, in seconds."""
    p50, p95, p99 = (percentile(values, percent) for percent in (50, 95, 99))
    return f"p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s, most {max(values):.2f} s"


class Bench:
    """A broker, an emulator, and the workers of a measurement."""

    def __init__(self, server: NatsServer, emulator: RemoteEmulator, broker: Broker) -> None:
        self.server = server
        self.emulator = emulator
        self.broker = broker
        self.workers: list[WorkerProcess] = []

    async def worker(self, **settings: str) -> WorkerProcess:
        worker = WorkerProcess(
            self.server.url, self.emulator.url,
            **{"DEEPGRAM_CATCH_UP_RATE": _DEFAULT_RATE, "WORKER_MAX_SESSIONS": "400", **settings},
        )  # fmt: skip
        self.workers.append(worker)
        await worker.start()
        return worker

    @contextlib.asynccontextmanager
    async def choir(self, name: str, voices: int, seconds: float) -> AsyncIterator[Choir]:
        """Start sessions and wait until each has a final."""
        async with Choir(self.broker, name, voices, seconds) as choir:
            await until(
                lambda: all(_any(voice, FinalEvent) for voice in choir.voices), "finals of all", 60
            )
            yield choir

    async def check(self, choir: Choir) -> None:
        """Wait for the end of all sessions and assert that no word is lost or doubled."""
        await choir.published()
        await until(
            lambda: all(
                any(isinstance(e, StatusEvent) and e.closing for _, e in v.received)
                for v in choir.voices
            ),
            "all are closed", 120,
        )  # fmt: skip
        found = choir.audit()
        assert found.clean, choir.describe_failure()


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory))
        server.start()
        try:
            async with (
                emulator_process("deepgram") as emulator,
                connected(BrokerSettings(url=server.url), name="bench") as broker,
            ):
                made = Bench(server, emulator, broker)
                try:
                    yield made
                finally:
                    for worker in made.workers:
                        await worker.stop()
        finally:
            server.stop()


def _any(voice: Voice, kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for _, event in voice.received)


def _transcript(event: Event) -> bool:
    return isinstance(event, InterimEvent | FinalEvent)


def first(voice: Voice, since: float, which: Callable[[Event], bool]) -> float | None:
    """Return the seconds from `since` (monotonic) to the first matching event, or None."""
    return next((at - since for at, event in voice.received if at > since and which(event)), None)


async def measure_all(
    choir: Choir, seconds: Callable[[Voice], float | None], what: str
) -> list[float]:
    """Wait until `seconds` returns a value for every session, and return the values."""

    def measure() -> list[float] | None:
        found = [seconds(voice) for voice in choir.voices]
        return None if None in found else [each for each in found if each is not None]

    return list(await until(measure, what, 60))


async def killed(lease: str, goal: float | None, rounds: int, voices: int) -> list[Row]:
    """Measure from a worker's SIGKILL to the first transcript, and to the first new words."""
    again: list[float] = []
    new: list[float] = []
    async with bench() as made:
        settings = {"NATTERJACK_LEASE_SECONDS": lease}
        holder = await made.worker(**settings)
        async with made.choir("kill", voices, 8 + rounds * 14) as choir:
            for _ in range(rounds):
                following = await made.worker(**settings)
                epochs = {id(v): max(event.epoch for _, event in v.received) for v in choir.voices}
                ends = {
                    id(v): max(
                        e.end for _, e in v.received if isinstance(e, InterimEvent | FinalEvent)
                    )
                    for v in choir.voices
                }
                since = time.monotonic()
                holder.signal(signal.SIGKILL)
                again += await measure_all(choir, partial(_of_next, since, epochs), "transcripts")
                new += await measure_all(choir, partial(_unseen, since, ends), "new words")
                holder = following
                await asyncio.sleep(3)  # moves the next kill to another place in the phrase
            await made.check(choir)
    p95 = percentile(again, 95)
    what = (
        f"worker SIGKILL → first transcript by the next holder, `NATTERJACK_LEASE_SECONDS={lease}` "
        f"({rounds} kills)"
    )
    goal_text = f"p95 ≤ {goal:g} s" if goal else "as low as possible"
    return [
        Row(what, goal_text, spread(again), goal is None or p95 <= goal, len(again)),
        Row("… → first new words (audio after the last final is sent again, at 1.25 times real "
            "time)", "none", spread(new), True, len(new)),
    ]  # fmt: skip


async def drained(voices: int) -> list[Row]:
    """Measure from SIGTERM until the next worker streams all sessions."""
    async with bench() as made:
        holder = await made.worker()
        async with made.choir("drain", voices, 45) as choir:
            await made.worker()
            since = time.monotonic()
            holder.signal(signal.SIGTERM)
            assert await holder.wait(60) == 0
            took = time.monotonic() - since
            await measure_all(choir, partial(_streaming, since), "all stream again")
            gaps = []
            for voice in choir.voices:
                handed_over = next(at for at, e in voice.received if _state(e, "handed_over"))
                gap = _streaming(handed_over, voice)
                assert gap is not None
                gaps.append(gap)
            await made.check(choir)
    return [
        Row("drain: handed over → streaming at the next worker", "p99 ≤ 1 s", spread(gaps),
            percentile(gaps, 99) <= 1, len(gaps)),
        Row(f"drain of {voices} sessions: SIGTERM → the worker exits", "≤ 10 s",
            f"{took:.1f} s", took <= 10, 1),
    ]  # fmt: skip


def _of_next(since: float, epochs: dict[int, int], voice: Voice) -> float | None:
    """Return the seconds to the first transcript of a later holder."""
    epoch = epochs[id(voice)]
    return first(voice, since, lambda event: _transcript(event) and event.epoch > epoch)


def _unseen(since: float, ends: dict[int, float], voice: Voice) -> float | None:
    """Return the seconds to the first transcript that ends after all earlier ones."""
    end = ends[id(voice)] + 0.3
    return first(
        voice, since, lambda e: isinstance(e, InterimEvent | FinalEvent) and e.end > end
    )  # fmt: skip


def _streaming(since: float, voice: Voice) -> float | None:
    return first(voice, since, lambda event: _state(event, "streaming"))


def _recovered(since: float, voice: Voice) -> float | None:
    """Return the seconds to the first transcript of the next stream."""
    opened = _streaming(since, voice)
    delay = None if opened is None else first(voice, since + opened, _transcript)
    return None if opened is None or delay is None else opened + delay


def _state(event: Event, state: str) -> bool:
    return isinstance(event, StatusEvent) and event.state == state


async def dropped(rounds: int, voices: int) -> list[Row]:
    """Measure from dropped provider connections to the first transcript, and the detection time of
    a mute provider."""
    times: list[float] = []
    mutes: list[float] = []
    async with bench() as made:
        await made.worker()
        async with made.choir("drop", voices, 30 + rounds * 7) as choir:
            own = statistics.median(
                first(voice, at, _transcript) or 0.0
                for voice in choir.voices
                for at in [next(at for at, event in voice.received if _state(event, "streaming"))]
            )
            for number in range(rounds):
                await asyncio.sleep(2 + 0.37 * (number % 7))  # varies the place in the phrase
                since = time.monotonic()
                assert await made.emulator.drop() == voices
                times += await measure_all(choir, partial(_recovered, since), "transcripts")
            await asyncio.sleep(3)  # separates the two measurements: streams settle first
            since = time.monotonic()
            await made.emulator.set(mute_after_seconds=0, connections=voices)
            mutes += await measure_all(choir, partial(_mute, since), "mute is detected")
            await made.check(choir)
    return [
        Row("provider drops → first transcript of the next stream (in an undisturbed session: "
            f"{own:.2f} s after the connection)", "p95 ≤ 1 s above the emulator's own time",
            spread(times), percentile(times, 95) <= 1 + own, len(times)),
        Row("provider goes mute → detected", "≤ 8 s", spread(mutes), max(mutes) <= 8, len(mutes)),
    ]  # fmt: skip


def _mute(since: float, voice: Voice) -> float | None:
    return first(
        voice, since, lambda e: isinstance(e, StatusEvent) and (e.reason or "").startswith("mute")
    )


async def rows(scale: float, progress: Callable[[str], None]) -> list[Row]:
    """Run all measurements. `scale` shortens them for a quick try."""
    rounds = max(1, round(8 * scale))
    measurements: list[Callable[[], Awaitable[list[Row]]]] = [
        lambda: killed("3", 4, rounds, 12),
        lambda: killed("1", None, rounds, 12),
        lambda: drained(max(10, round(200 * scale))),
        lambda: dropped(rounds, 12),
    ]
    found: list[Row] = []
    for measurement in measurements:
        for row in await measurement():
            progress(row.line())
            found.append(row)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.recovery", description=__doc__)
    parser.add_argument(
        "--scale",
        type=float,
        default=1,
        help="factor for the number of rounds; 0.1 for a quick try",
    )
    print(HEAD, flush=True)
    made = asyncio.run(rows(parser.parse_args().scale, lambda line: print(line, flush=True)))
    sys.exit(not all(row.met for row in made))
