"""What one task of a stream sleeps by."""

from __future__ import annotations

import asyncio
import math


class Alarm:
    """As an asyncio.Event that is cleared by waking: for one task, which may also sleep until a
    time. It takes a tenth of the memory, and there are many streams."""

    __slots__ = ("_rung", "_sleeper")

    def __init__(self) -> None:
        self._rung = False
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake who sleeps, else who sleeps next."""
        self._rung = True
        if self._sleeper is not None:
            _wake(self._sleeper)

    async def sleep(self, until: float = math.inf) -> None:
        """Until it rings, or rang since it last woke; or, on the loop's clock, until `until`."""
        assert self._sleeper is None, "one task alone may sleep by it"
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._sleeper = sleeper = loop.create_future()
            timer = None if until == math.inf else loop.call_at(until, _wake, sleeper)
            try:
                await sleeper
            finally:
                self._sleeper = None
                if timer is not None:
                    timer.cancel()
        self._rung = False


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
