"""What all doors share: settings, the connection to NATS, sessions, metrics, the drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from aiohttp import web

from natterjack.broker.connection import Broker
from natterjack.broker.login.attempts import Attempts
from natterjack.fleet.keys import Door

from .access import Access, AccessSettings, Credits, Grant, Reason, Refused, secret_of
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
        self.draining = asyncio.Event()
        """Set when clients are to be sent away: doors wait for the next final, up to `drain_until`,
        and then close their connections with a code after which clients connect again."""
        self.drain_until = float("inf")
        """When connections are closed at the latest, on the monotonic clock."""
        self.connections = 0
        self._idle = asyncio.Event()
        self._idle.set()
        metrics = self.metrics
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

    def admit(self, request: web.Request, door: Door) -> Grant:
        """What the client that sent `request` may do at `door`. Raises Refused, which the door
        answers in its own way."""
        return self.admit_secret(request, door, secret_of(request, door))

    def admit_secret(self, request: web.Request, door: Door, secret: str | None) -> Grant:
        """As `admit`, for doors where the secret comes in a message. Raises Refused."""
        try:
            if self.draining.is_set():
                raise Refused(Reason.DRAINING, "this gateway is about to end; connect again")
            return self.access.admit_secret(request, door, secret)
        except Refused as refused:
            self.metrics.refused.labels(door, refused.reason.value).inc()
            raise

    @contextlib.contextmanager
    def connection(self, door: Door, grant: Grant | None = None) -> Iterator[None]:
        """Count a connection of a client during the block; a drain waits for its end.

        Raises: Refused if there are too many; without a grant only few at once are accepted.
        """
        with contextlib.ExitStack() as stack:
            access = self.access
            try:
                stack.enter_context(access.connection(grant) if grant else access.waiting())
            except Refused as refused:
                self.metrics.refused.labels(door, refused.reason.value).inc()
                raise
            stack.enter_context(self._counted(door))
            if grant is not None:
                self.metrics.accepted.labels(door).inc()
            yield

    @contextlib.contextmanager
    def _counted(self, door: Door) -> Iterator[None]:
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
