"""Waiting for conditions in tests: bounded, never a fixed sleep."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

SCALE = float(os.environ.get("TEST_TIMEOUT_SCALE", "1"))
"""Multiplies every bound, for slow machines."""
_LOOK_SECONDS = 0.05


def bound(seconds: float) -> float:
    return seconds * SCALE


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout with this bound, in time in which this process runs: what hangs in it is
    told from a machine that stands still for a moment."""
    loop, left = asyncio.get_running_loop(), bound(seconds)
    looking: asyncio.TimerHandle
    async with asyncio.timeout(None) as scope:

        def look(before: float) -> None:
            nonlocal left, looking
            now = loop.time()
            left -= min(now - before, 2 * _LOOK_SECONDS)
            if left <= 0:
                scope.reschedule(now)
            else:
                looking = loop.call_later(_LOOK_SECONDS, look, now)

        looking = loop.call_later(_LOOK_SECONDS, look, loop.time())
        try:
            yield
        finally:
            looking.cancel()


class Lateness:
    """How late this process was at most: what it measured meanwhile may be off by so much."""

    seconds = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Watched during the block."""
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


async def soon(awaited: Awaitable[T], seconds: float) -> T:
    """As asyncio.wait_for, but `within` this bound."""
    async with within(seconds):
        return await awaited


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]],
    what: str,
    timeout: float = 30,
) -> Any:
    """The first true value of `condition`; an AssertionError naming `what` when it stays false.

    The bound tells what hangs from what is slow; nothing is waited for that is there.
    """
    deadline = time.monotonic() + bound(timeout)
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {bound(timeout)} s: {what}")
        await asyncio.sleep(0.01)
