"""`asyncio.wait_for` as it is from Python 3.12 on.

That of Python 3.11 drops a cancellation that arrives together with the awaited result. A task that
loops, or that a task group has cancelled, then never ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


async def wait_for(awaitable: Awaitable[T], timeout: float | None) -> T:
    """Return the result of `awaitable`, which is cancelled after `timeout` seconds. Cancel-safe.

    Raises: TimeoutError; what `awaitable` raises.
    """
    async with asyncio.timeout(timeout):
        return await awaitable


def keep_cancellations(*modules: ModuleType) -> None:
    """Let other projects' modules, each of which has imported `asyncio`, use `wait_for` of this
    module, if Python needs it."""
    if sys.version_info >= (3, 12):
        return
    repaired = ModuleType("asyncio", asyncio.__doc__)
    vars(repaired).update(vars(asyncio), wait_for=wait_for)
    for module in modules:
        vars(module)["asyncio"] = repaired
