"""Reading a pull consumer message by message, without pauses between requests.

nats-py's `fetch` makes one request per call and waits for the whole batch. A Puller keeps a request
open at the server, so that a message arrives as soon as it is stored. Missing heartbeats reveal a
request that the server has lost, because it was killed or the connection moved.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .connection import Broker

_EXPIRES_S = 20.0
_HEARTBEAT_S = 1.0
_SILENCE_S = 3.0
"""How long heartbeats, one per second, may be missing before the request counts as lost."""


class ConsumerGone(Exception):
    """The consumer does not exist; create it again."""


class Puller:
    """The messages of one pull consumer. Not safe for concurrent use by several tasks."""

    def __init__(
        self,
        broker: Broker,
        stream: str,
        consumer: str,
        surplus: Callable[[Msg], Awaitable[None]] | None = None,
    ) -> None:
        """`surplus` receives messages that no open request accounts for. After a reconnect the
        server may still serve the earlier request beside the new one."""
        self._client = broker.client
        self._surplus = surplus
        self._broker = broker
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = self._client.new_inbox()
        self._messages: deque[Msg] = deque()
        self._subscription: Subscription | None = None
        self._wake = asyncio.Event()
        self._open = 0
        """Messages that the open request may still deliver; 0 if no request is open."""
        self._last_received = 0.0
        self._gone = False
        self._poked = False

    @property
    def waiting(self) -> bool:
        """True if received messages wait to be read."""
        return bool(self._messages)

    @property
    def busy(self) -> bool:
        """True if messages wait to be read, or may come because a request is open."""
        return bool(self._messages or self._open)

    def poke(self) -> None:
        """Make a waiting `next` return None at once."""
        self._poked = True
        self._wake.set()

    async def start(self) -> None:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._received)
        self._broker.on_reconnect.add(self._reconnected)

    def _reconnected(self) -> None:
        self._open = 0
        self._wake.set()

    async def _received(self, message: Msg) -> None:
        self._last_received = time.monotonic()
        # A stored message has a reply subject for its acknowledgement. Its own headers may contain
        # anything, even `Status`.
        stored = message.reply.startswith("$JS.ACK.")
        status = None if stored else (message.headers or {}).get("Status")
        if status is None:
            if not self._open and self._surplus is not None:
                await self._surplus(message)
                return
            self._open = max(0, self._open - 1)
            self._messages.append(message)
        elif status == "100":
            return  # heartbeat
        else:
            # 404, 408: the request has ended. 409: it exceeds limits, or the consumer was deleted.
            # 503: the consumer has no responder.
            self._open = 0
            description = (message.headers or {}).get("Description", "")
            if status == "503" or "Consumer Deleted" in description:
                self._gone = True
        self._wake.set()

    async def next(self, batch: int, timeout: float) -> Msg | None:
        """Return the next message, or None after `timeout` seconds or a `poke`. Cancel-safe.

        Requests at most `batch` messages at a time, so no more than that are ever buffered. With a
        batch of 0, nothing is requested: it returns what an open request still delivers, and None
        as soon as there is none. Raises: ConsumerGone.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._wake.clear()  # before the checks, so that nothing is missed while waiting below
            if self._messages:
                return self._messages.popleft()
            if self._poked:
                self._poked = False
                return None
            if self._gone:
                self._gone = False
                raise ConsumerGone
            now = time.monotonic()
            if self._open and now - self._last_received > _SILENCE_S:
                self._open = 0
            if not self._open and not batch:
                return None
            if not self._open and self._broker.connected:
                self._open, self._last_received = batch, now
                request = {
                    "batch": batch,
                    "expires": int(_EXPIRES_S * 1e9),
                    "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
                }
                await self._client.publish(
                    self._request_subject, json.dumps(request).encode(), reply=self._inbox
                )
            if now >= deadline:
                return None
            try:
                async with asyncio.timeout(min(deadline - now, _SILENCE_S)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def stop(self) -> list[Msg]:
        """Unsubscribe; return the messages that were received and not read, which the caller must
        give back."""
        self._broker.on_reconnect.discard(self._reconnected)
        if self._subscription is not None and self._broker.connected:
            await self._subscription.drain()  # type: ignore[no-untyped-call]
        left = list(self._messages)
        self._messages.clear()
        return left
