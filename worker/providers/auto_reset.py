"""An event for one waiting task that resets itself."""

from __future__ import annotations

import asyncio
import math


class AutoResetEvent:
    """An event that one task waits for, and that is cleared when `wait` returns.

    A stream has several of these and a worker has many streams: an `asyncio.Event` takes ten times
    the memory.
    """

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiting task; if no task waits, the next `wait` returns at once."""
        self._is_set = True
        if self._waiter is not None:
            _wake(self._waiter)

    async def wait(self, until: float = math.inf) -> None:
        """Wait until the event is set, or until `until` on the event loop's clock; then clear it.

        Cancelling a wait leaves the event as it is. Only one task may wait at a time.
        """
        assert self._waiter is None, "another task waits for this event"
        if not self._is_set:
            loop = asyncio.get_running_loop()
            self._waiter = waiter = loop.create_future()
            timer = None if until == math.inf else loop.call_at(until, _wake, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        self._is_set = False


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
