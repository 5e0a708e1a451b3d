"""Reading the events of one key: durable ones from the stream, interims from the live subject.

A durable event that arrives live says that there is something to read, and no more: a worker that
has lost its lease can publish to the live subject, but the stream refuses its events. The stream is
read by direct get from the last event on, which keeps no state on the server and finds also what
was published while there was no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque

from nats.errors import Error as NatsError

from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StoreUnavailable, StreamStore
from natterjack.decoding import AnyEvent, decode_event
from natterjack.errors import BadEvent
from natterjack.events import InterimEvent
from natterjack.subjects import SessionKey, transcript_filter

from ..metrics import GatewayMetrics

log = logging.getLogger(__name__)

_BATCH, _BATCH_BYTES = 100, 1024 * 1024
_POLL_S = 5.0
"""How often the stream is read without a reason: a route between two servers may fail, so that
nothing arrives live."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.5
"""Pauses between attempts to read what has arrived live: a replica may lag behind."""
_REFUSED_S = 3.0
"""After so long, what has arrived live and is not in the stream was refused."""
_MAX_HINTS = 64


class EventReader:
    """The events of one key in the order of the stream. For one task."""

    def __init__(
        self,
        broker: Broker,
        store: StreamStore,
        key: SessionKey,
        metrics: GatewayMetrics,
        *,
        session_id: str,
        from_start: bool,
    ) -> None:
        """Without `from_start`, the events of earlier sessions than `session_id` are left out, as
        far as possible."""
        self._broker = broker
        self._store = store
        self._subject = transcript_filter(*key)
        self._metrics = metrics
        self._session_id = session_id.encode()
        self._next: int | None = 1 if from_start else None
        """Sequence in the stream of the first message that was not read; None if unknown."""
        self._read: deque[AnyEvent] = deque()
        self._hints: dict[bytes, float] = {}
        """Durable events that have arrived live and were not read yet, with the time of arrival."""
        self._interim: bytes | None = None
        self._due = True
        self._retry_at = 0.0
        self._pause = _FIRST_PAUSE_S
        self._poll_at = 0.0
        self._wake = asyncio.Event()
        self._looks = 0
        """How many times the stream was read."""
        self._returned = False
        """Whether `next` has returned an event, and was not called again since."""
        self._settled = asyncio.Event()
        self._subscription: DirectSubscription | None = None

    async def start(self) -> None:
        """Subscribe."""
        self._broker.on_reconnect.add(self._reconnected)
        self._subscription = await self._broker.client.listen(self._subject, self._received)

    async def stop(self) -> None:
        """Unsubscribe. Idempotent."""
        self._broker.on_reconnect.discard(self._reconnected)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(NatsError):
                await subscription.end()

    async def caught_up(self) -> None:
        """Return once everything that is stored now was returned by `next`, which another task
        calls. Cancel-safe."""
        looks = self._looks
        self._due, self._retry_at = True, 0.0
        self._wake.set()
        while self._looks <= looks or self._due or self._hints or self._read or self._returned:
            self._settled.clear()
            await self._settled.wait()

    def poke(self) -> None:
        """Make a waiting `next` return None at once."""
        self._wake.set()

    def _reconnected(self) -> None:
        self._due, self._retry_at = True, 0.0
        self._wake.set()

    def _received(self, subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        if subject.endswith(b".interim"):
            self._interim = data
        elif len(self._hints) < _MAX_HINTS:
            self._hints.setdefault(data, time.monotonic())
            self._pause, self._retry_at = _FIRST_PAUSE_S, 0.0
        else:
            self._due = True
        self._wake.set()

    async def next(self, timeout: float) -> AnyEvent | None:
        """Return the next event, or None after `timeout` seconds or a `poke`. Cancel-safe.

        Of the interims that have arrived since the last call, only the newest is returned, and none
        while durable events are still to be read.
        """
        deadline = time.monotonic() + timeout
        self._returned = False
        while True:
            self._wake.clear()
            self._settled.set()
            if self._read:
                self._returned = True
                return self._read.popleft()
            now = time.monotonic()
            wanted = self._due or bool(self._hints) or now >= self._poll_at
            if wanted and now >= self._retry_at and self._broker.connected:
                await self._look(now)
                continue
            if not (self._hints or self._due) and (interim := self._take_interim()) is not None:
                return interim
            if now >= deadline:
                return None
            until = min(deadline, self._retry_at if wanted else self._poll_at)
            poked = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, until - now)):
                    poked = await self._wake.wait()
            if poked and not (self._due or self._hints or self._interim):
                return None

    def _take_interim(self) -> InterimEvent | None:
        data, self._interim = self._interim, None
        event = None if data is None else self._decode(data)
        return event if isinstance(event, InterimEvent) else None

    def _decode(self, data: bytes) -> AnyEvent | None:
        try:
            return decode_event(data)
        except BadEvent as error:
            log.warning("%s: %s", self._subject, error)
            return None

    async def _look(self, now: float) -> None:
        """Read what is stored."""
        try:
            if self._next is None:
                newest = await self._store.last(self._subject)
                earlier = newest is not None and self._session_id not in newest.data
                self._next = newest.sequence + 1 if newest is not None and earlier else 1
            messages, left = await self._store.read(
                self._subject, self._next, batch=_BATCH, max_bytes=_BATCH_BYTES
            )
        except StoreUnavailable as error:
            log.debug("%s", error)
            self._due = True
            self._wait(now)
            return
        self._looks += 1
        self._poll_at = now + _POLL_S
        self._due = bool(left and messages)
        for message in messages:
            self._take(message)
        if not self._hints:
            self._pause, self._retry_at = _FIRST_PAUSE_S, 0.0
            return
        self._wait(now)
        oldest = next(iter(self._hints.values()))
        if now - oldest > _REFUSED_S:
            await self._give_up(now)

    def _wait(self, now: float) -> None:
        self._retry_at = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_S)

    def _take(self, message: Stored) -> None:
        self._next = message.sequence + 1
        self._hints.pop(message.data, None)
        event = self._decode(message.data)
        if event is not None and not isinstance(event, InterimEvent):
            self._read.append(event)

    async def _give_up(self, now: float) -> None:
        """Drop what the stream does not have; begin again if it is another stream."""
        with contextlib.suppress(StoreUnavailable):
            if await self._store.newest_sequence() < (self._next or 1) - 1:
                log.warning("the stream of events was replaced: it is read from its start")
                self._next, self._due, self._retry_at = 1, True, 0.0
        old = [data for data, arrived in self._hints.items() if now - arrived > _REFUSED_S]
        for data in old:
            del self._hints[data]
        self._metrics.refused_events.inc(len(old))
