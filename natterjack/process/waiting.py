"""`asyncio.wait_for` as it is from Python 3.12 on, and a time limit that waits for this process.

`wait_for` of Python 3.11 drops a cancellation that arrives together with the awaited result. A task
that loops, or that a task group has cancelled, then never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")

_STEPS = 5


async def wait_for(awaitable: Awaitable[T], timeout: float | None) -> T:
    """Return the result of `awaitable`, which is cancelled after `timeout` seconds. Cancel-safe.

    Raises: TimeoutError; what `awaitable` raises.
    """
    async with asyncio.timeout(timeout):
        return await awaitable


@contextlib.asynccontextmanager
async def timeout_of_others(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout, for what others do: time in which this process was stopped, or its loop
    was blocked, counts as a fifth of `seconds` at most. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def step(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_later(seconds / _STEPS, step, left - 1)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        step(_STEPS)
        assert timer is not None
        try:
            yield
        finally:
            timer.cancel()


def keep_cancellations(*modules: ModuleType) -> None:
    """Let other projects' modules, each of which has imported `asyncio`, use `wait_for` of this
    module, if Python needs it."""
    if sys.version_info >= (3, 12):
        return
    repaired = ModuleType("asyncio", asyncio.__doc__)
    vars(repaired).update(vars(asyncio), wait_for=wait_for)
    for module in modules:
        vars(module)["asyncio"] = repaired
