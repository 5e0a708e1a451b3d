"""State that all doors share: settings, the connection to NATS, sessions, metrics, the drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from natterjack.broker.connection import Broker
from natterjack.broker.login.attempts import Attempts

from .access import Access, AccessSettings, Credits
from .audio.decoder import Decoders
from .metrics import GatewayMetrics
from .session import Sessions
from .settings import GatewaySettings


class Gateway:
    """The state of one process. Each door gets it in `add_routes(app, gateway)`."""

    def __init__(self, settings: GatewaySettings, access: AccessSettings | None = None) -> None:
        """Raises UsageError if the file of keys, or the secret for tokens, is invalid."""
        self.settings = settings
        self.access = Access(access or AccessSettings())
        self.metrics = GatewayMetrics()
        self.attempts = Attempts()
        self.broker: Broker | None = None
        self.sessions: Sessions | None = None
        self.credits: Credits | None = None
        self.decoders = Decoders()
        self.draining = asyncio.Event()
        """Set when clients are to be sent away: doors wait for the next final, up to `drain_until`,
        and then close their connections with a code after which clients connect again."""
        self.drain_until = float("inf")
        """When connections are closed at the latest, on the monotonic clock."""
        self.connections = 0
        self._idle = asyncio.Event()
        self._idle.set()
        metrics = self.metrics
        metrics.connections_limit.set(self.access.settings.max_connections)
        metrics.ready.set_function(lambda: self.problem is None)
        metrics.nats_connected.set_function(
            lambda: self.broker is not None and self.broker.connected
        )

    @property
    def problem(self) -> str | None:
        """Why clients cannot be served now, or None. Connections that are open stay open."""
        if self.draining.is_set():
            return "draining"
        if self.broker is not None and self.sessions is not None and self.broker.connected:
            return None
        trouble = self.attempts.trouble
        return f"no NATS: {trouble}" if trouble else "no NATS"

    @contextlib.contextmanager
    def connection(self, door: str) -> Iterator[None]:
        """Count a connection of a client during the block; a drain waits for its end. Limits are
        those of `access`."""
        gauge = self.metrics.connections.labels(door)
        gauge.inc()
        self.connections += 1
        self._idle.clear()
        try:
            yield
        finally:
            gauge.dec()
            self.connections -= 1
            if not self.connections:
                self._idle.set()

    async def drain(self) -> None:
        """Send all clients away. Return when no connection is left, or soon after
        `drain_seconds`."""
        self.drain_until = time.monotonic() + self.settings.drain_seconds
        self.metrics.draining.set(1)
        self.draining.set()
        if self.sessions is not None:
            self.sessions.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds + _CLOSE_S):
                await self._idle.wait()


_CLOSE_S = 5.0
"""How long closing connections may take after `drain_seconds`."""
