"""A timer that wakes a task in time."""

from __future__ import annotations

import asyncio


class WakeTimer:
    """Sets an event within a time that may change."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> None:
        """Set the event in `seconds` at the latest.

        A timer that fires early enough is kept: setting one for each chunk would be costly.
        """
        due = asyncio.get_running_loop().time() + seconds
        if self._timer is None or self._timer.when() > due:
            self.clear()
            self._timer = asyncio.get_running_loop().call_at(due, self._fired)

    def _fired(self) -> None:
        self._timer = None
        self._wake.set()

    def clear(self) -> None:
        """Set nothing any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
