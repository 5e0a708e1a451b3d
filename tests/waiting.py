"""Waiting for conditions in tests. Each wait has a time limit that stretches while the machine is
slow or busy, so that a limit tells a hang from a slow machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SCALE = float(os.environ.get("TEST_TIMEOUT_SCALE", "1"))
"""Multiplies every limit, beside what is measured."""
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_LOADAVG = Path("/proc/loadavg")
_REFERENCE_SECONDS = 0.004
"""CPU time of `_spin` on the machine that the limits were chosen on."""
_MOST = 20.0
_LOOK_SECONDS = 0.05
_LONGEST_PAUSE = 0.5
"""Seconds between two looks at a condition, at most."""


def _spin() -> float:
    before, total = time.thread_time(), 0
    for number in range(100_000):
        total += number * number
    return time.thread_time() - before


@cache
def _slow_cores() -> float:
    """How many times slower a core is than the reference, at least 1."""
    return max(1.0, min(_spin() for _ in range(5)) / _REFERENCE_SECONDS)


def _runnable() -> float:
    """How many threads of the machine run or wait for a core: now, or on average over the last
    minute if that is more. The kernel counts them on Linux; elsewhere there is only the average."""
    average = os.getloadavg()[0]
    if not _LOADAVG.exists():
        return average
    return max(average, int(_LOADAVG.read_text().split()[3].partition("/")[0]))


def slowdown() -> float:
    """How many times longer things take now than on an idle machine, from 1 to 20."""
    return min(_MOST, max(1.0, _runnable() / _CORES) * _slow_cores())


def bound(seconds: float) -> float:
    """`seconds` of an idle machine, in seconds of this machine under its present load.

    For settings, and for limits that cannot be extended later; prefer `within`, `soon` and `until`,
    which go on measuring.
    """
    return seconds * SCALE * slowdown()


class Countdown:
    """A time limit in seconds of an idle machine. Call `expired` about every `interval` seconds.

    Time during which this process stood still does not count.
    """

    def __init__(self, seconds: float, interval: float = _LOOK_SECONDS) -> None:
        self._left = seconds * SCALE
        self._least, self._most = interval / 10, 2 * interval
        self._before = time.monotonic()

    def expired(self) -> bool:
        now = time.monotonic()
        if now - self._before < self._least:  # to measure the machine takes time, too
            return self._left <= 0
        self._left -= min(now - self._before, self._most) / slowdown()
        self._before = now
        return self._left <= 0


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Like asyncio.timeout, with a Countdown."""
    loop, countdown = asyncio.get_running_loop(), Countdown(seconds)
    timer: asyncio.TimerHandle
    async with asyncio.timeout(None) as scope:

        def look() -> None:
            nonlocal timer
            if countdown.expired():
                scope.reschedule(loop.time())
            else:
                timer = loop.call_later(_LOOK_SECONDS, look)

        timer = loop.call_later(_LOOK_SECONDS, look)
        try:
            yield
        finally:
            timer.cancel()


class Lateness:
    """The longest delay of this process's event loop: its measurements may be off by as much."""

    seconds = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Measures during the block."""
    late = Lateness()

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late.seconds = max(late.seconds, time.monotonic() - before - 0.01)

    watching = asyncio.create_task(watch())
    try:
        yield late
    finally:
        watching.cancel()


async def settle() -> None:
    """Let every task that can go on do so, as far as it waits for nothing outside this loop."""
    for _ in range(50):
        await asyncio.sleep(0)


async def soon(awaited: Awaitable[T], seconds: float) -> T:
    """Like asyncio.wait_for, with a Countdown."""
    async with within(seconds):
        return await awaited


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]],
    what: str,
    timeout: float = 30,
) -> Any:
    """Return the first true value of `condition`. One that awaits something, such as a reply of the
    broker, is asked less often the longer it stays false, and one that takes long, such as a list
    of all processes, for a third of the time at most.

    Raises: AssertionError naming `what` if it stays false; `timeout` is in seconds of an idle
    machine.
    """
    started, countdown = time.monotonic(), Countdown(timeout, interval=0.5)
    interval = 0.01
    while True:
        asked = time.monotonic()
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
            interval = min(0.1, interval * 1.1)
        if value:
            return value
        if countdown.expired():
            raise AssertionError(f"not within {time.monotonic() - started:.1f} s: {what}")
        await asyncio.sleep(max(interval, min(_LONGEST_PAUSE, 2 * (time.monotonic() - asked))))
