"""The one connection to NATS that everything of this process uses."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from natterjack.broker.connection import Broker, connect
from natterjack.broker.login.attempts import Attempts
from natterjack.settings import BrokerSettings

_CLOSED_CHECK_S = 1.0


class Connected(NamedTuple):
    """A connection, which nats-py keeps up over failures of the network and the server."""

    broker: Broker
    outage: bool
    """Whether the server was unreachable at first."""
    closed: asyncio.Event
    """Set once it is closed permanently."""


class Link:
    """Connects, and connects anew when a connection was closed permanently."""

    def __init__(self, settings: BrokerSettings, *, once: bool = False) -> None:
        """`once`: give up if the first attempt to reach NATS fails."""
        self.broker: Broker | None = None
        """The newest connection, or None before the first one."""
        self.attempts = Attempts()
        self._settings = settings
        self._once = once
        self._connected: Connected | None = None
        self._change = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self.broker is not None and self.broker.connected

    async def connect(self) -> None:
        """Connect before `run`. Raises: BrokerError, UsageError."""
        self.broker = await connect(
            self._settings,
            name="natterjack-edge",
            once=self._once,
            echo=False,  # so that it does not answer itself
            attempts=self.attempts,
        )

    async def run(self) -> None:
        """Keep a connection until cancelled, and close it. Raises: BrokerError, UsageError."""
        try:
            while True:
                outage = False
                # nats-py closes a connection permanently on some errors, such as expired
                # credentials.
                if self.broker is None or self.broker.client.is_closed:
                    await self.connect()
                    outage = self.attempts.failures.total() > 0
                assert self.broker is not None
                closed = asyncio.Event()
                self._connected = Connected(self.broker, outage, closed)
                self._change.set()
                while not self.broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event
                    await asyncio.sleep(_CLOSED_CHECK_S)
                self._connected = None
                self._change.clear()
                closed.set()
                await self.broker.close()
        finally:
            if self.broker is not None:
                await self.broker.close()

    async def opened(self) -> Connected:
        """Return the connection, once there is one that is not closed permanently. Cancel-safe."""
        while self._connected is None:
            await self._change.wait()
        return self._connected
