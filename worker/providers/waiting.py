"""The wait of a stream's iterator for the next message of its WebSocket."""

from __future__ import annotations

import asyncio

from natterjack.plugin.websocket import Closed, Socket


class Waiting:
    """Receives for one iterator, which has time limits and may be woken."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._limit: asyncio.Timeout | None = None
        """The time limit of the wait; None while the iterator does not wait."""

    async def receive(self, deadline: float | None) -> str | bytes | Closed | None:
        """Return the next message; None at the deadline, by the loop's clock, or after `wake`.

        Cancel-safe. Raises ProviderError.
        """
        try:
            # A `receive` that is cancelled loses no message.
            async with asyncio.timeout_at(deadline) as self._limit:
                return await self._socket.receive()
        except TimeoutError:
            return None
        finally:
            self._limit = None

    def wake(self) -> None:
        """End the wait, if the iterator waits."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())
