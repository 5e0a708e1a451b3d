"""The interface of an edge for the center: the state that it reports and the requests that it
obeys."""

from __future__ import annotations

import asyncio
from typing import Protocol

from natterjack.fleet.edges import EdgePresence


class Steered(Protocol):
    """One edge process, as the center sees and steers it."""

    changed: asyncio.Event
    """Set by the edge when a state in its presence has changed, so that it is written soon; cleared
    by the reader."""

    @property
    def tenant(self) -> str:
        """The tenant of all its sources."""

    @property
    def agent(self) -> str:
        """The name of the edge, unique within its tenant."""

    def presence(self) -> EdgePresence:
        """Return its state now. Cheap: called every few seconds, and for each request.

        What the reporter knows itself is left unset: `instance`, `version`, `host`, `seen_at`,
        `interval_seconds`, `clock_offset_seconds`."""

    async def act(self, op: str, source: str | None) -> str:
        """Carry out a request for one source, or for all if it is None. Returns what was done, for
        people. Raises: SteeringError if it cannot. Cancel-safe."""
