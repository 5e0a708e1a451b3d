"""Reading a pull consumer message by message, without pauses between requests.

nats-py's `fetch` makes one request a call and waits for a whole batch; here a request is always
open at the server, so that a message comes the moment it is stored, and a request that the
server forgot (it was killed, the connection moved) is noticed by its missing heartbeats.
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
_SILENCE_S = 3.0  # heartbeats come each second; after so long without any the request is gone


class ConsumerGone(Exception):
    """The consumer does not exist (any more); make it again."""


class Puller:
    """Messages of one pull consumer. Not for use by two tasks at once."""

    def __init__(
        self,
        broker: Broker,
        stream: str,
        consumer: str,
        surplus: Callable[[Msg], Awaitable[None]] | None = None,
    ) -> None:
        """`surplus` is given messages that were not asked for, or not any more: a request from
        before a reconnect is still in force at the server, and so is the one that followed."""
        self._client = broker.client
        self._surplus = surplus
        self._broker = broker
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = self._client.new_inbox()
        self._messages: deque[Msg] = deque()
        self._subscription: Subscription | None = None
        self._wake = asyncio.Event()
        self._open = 0
        """Messages that the request in force may still bring; 0: no request is in force."""
        self._heard = 0.0
        self._gone = False
        self._poked = False

    @property
    def waiting(self) -> bool:
        """Whether messages are at hand."""
        return bool(self._messages)

    def poke(self) -> None:
        """Let a waiting `next` return None at once."""
        self._poked = True
        self._wake.set()

    async def start(self) -> None:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._received)
        self._broker.on_reconnect.add(self._reconnected)

    def _reconnected(self) -> None:
        self._open = 0
        self._wake.set()

    async def _received(self, message: Msg) -> None:
        self._heard = time.monotonic()
        # What was stored has an address for its acknowledgement, whatever its own headers say.
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
            # 404, 408: the request has ended; 409: exceeded limits, or the consumer was deleted;
            # 503: nobody answers for the consumer.
            self._open = 0
            description = (message.headers or {}).get("Description", "")
            if status == "503" or "Consumer Deleted" in description:
                self._gone = True
        self._wake.set()

    async def next(self, batch: int, timeout: float) -> Msg | None:
        """The next message, or None after `timeout` seconds or a `poke`. Cancel-safe.

        At most `batch` messages are asked for at a time, so never more than that are at hand.
        Raises: ConsumerGone.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._wake.clear()  # before the checks: what comes while we await below is not missed
            if self._messages:
                return self._messages.popleft()
            if self._poked:
                self._poked = False
                return None
            if self._gone:
                self._gone = False
                raise ConsumerGone
            now = time.monotonic()
            if self._open and now - self._heard > _SILENCE_S:
                self._open = 0
            if not self._open and self._broker.connected:
                self._open, self._heard = batch, now
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
        """Withdraw the request; return what had arrived, for the caller to give back."""
        self._broker.on_reconnect.discard(self._reconnected)
        if self._subscription is not None and self._broker.connected:
            await self._subscription.drain()  # type: ignore[no-untyped-call]
        left = list(self._messages)
        self._messages.clear()
        return left
