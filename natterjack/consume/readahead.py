"""Reading a pull consumer without acknowledgments, ahead of the program that takes the messages.

A Puller makes the next request when the last one is used up, so that a worker claims no more than
it has room for. Here, messages cost nothing while they wait: the next request is made when half of
the last one is left, and the server need not be waited for.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import NamedTuple

from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.client.wire import parse_headers, parse_status
from natterjack.broker.connection import Broker
from natterjack.broker.pull import ConsumerGone
from natterjack.position import Position

_MESSAGES = 512
"""At most so many messages wait or are due."""
_BYTES = 4 * 1024 * 1024
"""Each request, for half of them or for all, ends after so many bytes, or after the largest
possible message."""
_EXPIRES_S = 20.0
_HEARTBEAT_S = 1.0
_REFUSED_S = 0.2
"""How long after a request that the server has refused the next one is made."""
_SILENCE_S = 3.0
"""How long heartbeats, one per second, may be missing before all requests count as lost."""


class StoredMessage(NamedTuple):
    """A message of a stream, as a consumer delivers it."""

    subject: bytes
    data: bytes
    position: Position
    number: int
    """Its number among the consumer's messages: 1, 2, 3 ..."""
    pending: int
    """Messages of the consumer that were stored after it, and not delivered yet."""

    @property
    def kind(self) -> str:
        """The last token of the subject."""
        return self.subject.rpartition(b".")[2].decode()


def decode_message(subject: bytes, reply: bytes, data: bytes) -> StoredMessage:
    """A message from what the server sends. The reply subject has its place (NATS ADR-15)."""
    # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream sequence>.
    # <consumer sequence>.<time>.<pending>[.<token>]
    words = reply.split(b".")
    first = 5 if len(words) == 9 else 7
    return StoredMessage(
        subject, data, Position(int(words[first]), int(words[first + 2])),
        int(words[first + 1]), int(words[first + 3]),
    )  # fmt: skip


class ReadAhead:
    """The messages of one pull consumer. For one task."""

    def __init__(self, broker: Broker, stream: str, consumer: str) -> None:
        self._broker = broker
        self._client = broker.client
        self.request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = self._client.new_inbox()
        self._messages: deque[tuple[bytes, bytes, bytes]] = deque()
        self._subscription: DirectSubscription | None = None
        self._wake = asyncio.Event()
        self._requests = 0
        self._due = 0
        """Messages that the open requests may still deliver."""
        self._last_received = 0.0
        self._refused = 0.0
        """When the server last refused a request, or ended it for reasons of its own."""
        self._gone = False
        self._poked = False

    @property
    def waiting(self) -> bool:
        """True if received messages wait to be read."""
        return bool(self._messages)

    def poke(self) -> None:
        """Make a waiting `next` return None at once."""
        self._poked = True
        self._wake.set()

    async def start(self) -> None:
        """Subscribe and make the first request."""
        self._subscription = await self._client.listen(f"{self._inbox}.*", self._received)
        self._ask()

    async def stop(self) -> None:
        """Unsubscribe. Idempotent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.end()

    def _received(self, subject: bytes, reply: bytes, raw: bytes | None, data: bytes) -> None:
        self._last_received = time.monotonic()
        # A stored message has a reply subject for its acknowledgment. Its own headers may contain
        # anything, even a status.
        if reply.startswith(b"$JS.ACK."):
            self._due = max(0, self._due - 1)
            self._messages.append((subject, reply, data))
        else:
            status, description = parse_status(raw or b"")
            if status == "100":
                return  # heartbeat
            # 408, 409: a request has ended: of age, its limits, or because the consumer was
            # deleted. 503: the consumer has no responder.
            left = parse_headers(raw or b"").get("Nats-Pending-Messages", "")
            self._due = max(0, self._due - int(left)) if left.isdecimal() else 0
            if status == "503" or "Consumer Deleted" in description:
                self._gone = True
            elif status != "408" and "MaxBytes" not in description:
                self._refused = self._last_received
        self._wake.set()

    def _ask(self) -> None:
        """Request as many messages as there is room for, if that is at least half of them."""
        room = _MESSAGES - self._due - len(self._messages)
        if room < _MESSAGES // 2 or not self._broker.connected:
            return
        request = {
            "batch": room,
            "max_bytes": max(_BYTES, 2 * self._client.max_payload),
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
        }
        self._client.post(
            self.request_subject, json.dumps(request).encode(),
            reply=f"{self._inbox}.{self._requests}",
        )  # fmt: skip
        self._due += room
        self._requests += 1
        self._last_received = time.monotonic()

    async def next(self, timeout: float) -> StoredMessage | None:
        """Return the next message, or None after `timeout` seconds or a `poke`. Cancel-safe.

        Raises: ConsumerGone; NATS's errors.
        """
        if not self._messages:
            await self._wait(timeout)
            if not self._messages:
                return None
        if len(self._messages) + self._due <= _MESSAGES // 2:
            self._ask()
            # Let the request be written, and read what has arrived: a program that takes messages
            # without ever waiting leaves no other opportunity.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return decode_message(*self._messages.popleft())

    async def _wait(self, timeout: float) -> None:
        """Wait for a message, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        while True:
            self._wake.clear()  # before the checks, so that nothing is missed while waiting below
            if self._messages:
                return
            if self._poked:
                self._poked = False
                return
            if self._gone:
                self._gone = False
                raise ConsumerGone
            now = time.monotonic()
            if self._due and now - self._last_received > _SILENCE_S:
                self._due = 0
            refused = now - self._refused < _REFUSED_S
            if not refused:
                self._ask()
            if now >= deadline:
                return
            try:
                pause = _REFUSED_S if refused else _SILENCE_S
                async with asyncio.timeout(min(deadline - now, pause)):
                    await self._wake.wait()
            except TimeoutError:
                continue
