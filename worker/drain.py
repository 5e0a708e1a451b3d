"""The drain of one session: a request to hand itself over, which ends every wait."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_CHECK_SECONDS = 0.5
_CANCEL_SECONDS = 2.0
"""How long a session waits for a plugin to stop opening a stream that is no longer wanted."""
_unfinished: set[asyncio.Task[Any]] = set()
"""Keeps tasks alive that no session waits for any longer: asyncio does not."""


class HandOver(Exception):
    """Give the session back to the queue."""

    def __init__(self, reason: str = "drain", seconds: float = 0.0) -> None:
        """`reason` is for subscribers. No worker claims the session for `seconds`."""
        super().__init__(reason)
        self.seconds = seconds


class Drain:
    """A flag that asks one session to hand itself over. It ends every wait of the session."""

    __slots__ = ("_deadline", "_waiter", "requested")

    def __init__(self) -> None:
        self.requested = False
        self._deadline = math.inf
        self._waiter: asyncio.Future[None] | None = None

    def request(self, deadline: float) -> None:
        """Hand the session over at the next final, or at `deadline` on the monotonic clock."""
        self.requested, self._deadline = True, deadline
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def overdue(self, now: float) -> bool:
        return now > self._deadline

    def _wait(self) -> asyncio.Future[None]:
        """A future that is done when the drain is requested. One task at a time may wait."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        if self.requested:
            waiter.set_result(None)
        return waiter

    async def pause(self, seconds: float) -> None:
        """Sleep. Raises HandOver as soon as the drain is requested."""
        try:
            await asyncio.wait({self._wait()}, timeout=seconds)
        finally:
            self._waiter = None
        if self.requested:
            raise HandOver

    async def wait_for(
        self,
        wanted: Coroutine[Any, Any, T],
        *,
        discard: Callable[[T], Awaitable[None]],
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Return the result of `wanted`. Raises HandOver if the drain is requested before that.

        `check` is called twice a second, and may raise to end the wait. When the wait ends without
        the result (this task may be cancelled, too), `wanted` is cancelled and awaited for two
        seconds; a result that still arrives, or arrives later, is given to `discard`.
        """
        taken = abandoned = False

        async def owned() -> T:
            result = await wanted
            if abandoned:
                await discard(result)
            return result

        task = asyncio.ensure_future(owned())
        try:
            draining = self._wait()
            either: set[asyncio.Future[Any]] = {task, draining}
            while True:
                await asyncio.wait(
                    either,
                    timeout=None if check is None else _CHECK_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if task.done():
                    taken = True
                    return task.result()
                if draining.done():
                    raise HandOver
                if check is not None:
                    await check()
        finally:
            self._waiter = None
            if not taken:
                abandoned = not task.done()
                task.cancel()
                task.add_done_callback(_retrieve)
                if abandoned:
                    _unfinished.add(task)
                    await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
                elif not task.cancelled() and task.exception() is None:
                    await discard(task.result())


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Forget a task that no session waits for, and mark its error as retrieved."""
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()
