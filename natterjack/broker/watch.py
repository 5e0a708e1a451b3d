"""Entries of a bucket, kept up to date: read once, then heard live, and read again after each
reconnect.

nats-py's own watch rests on its ordered consumer, which stays silent for good once the server was
killed and restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from . import streams
from .connection import Broker
from .stored import StoreUnavailable, StreamStore

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_AGAIN_S = 1.0
_DELETED = ("DEL", "PURGE")


class Watch:
    """Calls `changed(key, value)` for every entry that matches, whenever it is read or heard (so
    again after each reconnect, changed or not); None: deleted.

    Live values come from the subject, so one that the broker then refused (a compare-and-set that
    failed) is seen too: watch buckets that are written without conditions.
    """

    def __init__(
        self,
        broker: Broker,
        bucket: str,
        keys: str,
        changed: Callable[[str, bytes | None], None],
    ) -> None:
        """`keys`: a subject filter over the bucket's keys. `changed` must not raise."""
        self._broker = broker
        self._store = StreamStore(broker, f"KV_{bucket}")
        self._bucket = bucket
        self._prefix = streams.bucket_subject(bucket, "")
        self._subject = streams.bucket_subject(bucket, keys)
        self._changed = changed
        self._known: set[str] = set()
        self._live: set[str] = set()
        """Subjects heard live since reading began: what is read of them may be older."""
        self._stale = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once every entry has been read."""

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._store.start()
        subscription = await self._broker.client.subscribe(self._subject, cb=self._received)
        self._broker.on_reconnect.add(self._stale.set)
        # What is published while the subscription begins may be neither read nor heard.
        again, complained = True, False
        try:
            while True:
                self._stale.clear()
                try:
                    await self._read()
                    self.ready.set()
                except StoreUnavailable as error:
                    if not complained and self._broker.connected:
                        complained = True
                        log.warning("bucket %s cannot be read, trying on: %s", self._bucket, error)
                    await asyncio.sleep(_RETRY_S)
                    continue
                complained = False
                try:
                    async with asyncio.timeout(_AGAIN_S if again else None):
                        await self._stale.wait()
                    again = True
                except TimeoutError:
                    again = False
        finally:
            self._broker.on_reconnect.discard(self._stale.set)
            with contextlib.suppress(NatsError):
                await self._store.stop()
                await subscription.unsubscribe()

    async def _received(self, message: Msg) -> None:
        self._live.add(message.subject)
        self._take(message.subject, message.headers or {}, message.data)

    async def _read(self) -> None:
        self._live.clear()
        before, seen = set(self._known), set()
        for stored in await self._store.read_all(self._subject):
            seen.add(stored.subject)
            if stored.subject not in self._live:
                self._take(stored.subject, stored.headers, stored.data)
        for subject in before - seen - self._live:  # gone by age, or purged
            self._take(subject, {"KV-Operation": "PURGE"}, b"")

    def _take(self, subject: str, headers: dict[str, str], data: bytes) -> None:
        key = subject.removeprefix(self._prefix)
        if headers.get("KV-Operation") in _DELETED:
            if subject in self._known:
                self._known.discard(subject)
                self._changed(key, None)
        else:
            self._known.add(subject)
            self._changed(key, data)
