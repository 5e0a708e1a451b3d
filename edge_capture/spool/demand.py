"""The requests of a spool's sessions to the task that maintains the spool."""

from __future__ import annotations

import asyncio
import time

INTERVAL_S = 1.0
"""Interval of syncs to the disk while audio waits for the broker. A power cut loses at most this
much audio not yet sent."""
_EARLY = 0.9
"""A sync that a chunk asks for may be earlier than the interval: the process is awake."""


class Demand:
    """Whether the spool has to be synced or tidied now."""

    def __init__(self) -> None:
        self.now = asyncio.Event()
        self._due = 0.0

    def served(self) -> None:
        """Record that everything was synced just now."""
        self._due = time.monotonic() + _EARLY * INTERVAL_S

    def soon(self) -> None:
        """Ask for a sync, an interval after the last one."""
        if time.monotonic() >= self._due:
            self.now.set()
