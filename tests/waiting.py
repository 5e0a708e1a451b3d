"""Waiting for conditions in tests: bounded, never a fixed sleep."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

SCALE = float(os.environ.get("TEST_TIMEOUT_SCALE", "1"))
"""Multiplies every bound, for slow machines."""


def bound(seconds: float) -> float:
    return seconds * SCALE


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]],
    what: str,
    timeout: float = 30,
) -> Any:
    """The first true value of `condition`; an AssertionError naming `what` when it stays false."""
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
