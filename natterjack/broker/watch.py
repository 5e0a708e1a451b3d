"""Watching the entries of a bucket: read once, updated live, and read again after each reconnect.

nats-py's own watch uses an ordered consumer, which stays silent forever once the server was killed
and restarted.
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
_REREAD_S = 1.0
_DELETED = ("DEL", "PURGE")


class Watch:
    """Calls `changed(key, value)` for every matching entry whenever it is read or updated; a value
    of None means that it was deleted. Each reconnect repeats all entries, changed or not.

    Updates are the messages published on the bucket's subjects, including those that the broker
    then refuses (a failed compare-and-set). Watch only buckets that are written unconditionally.
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
        """Subjects updated since reading began: their stored values may be older."""
        self._stale = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once all entries have been read."""

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._store.start()
        subscription = await self._broker.client.subscribe(self._subject, cb=self._received)
        self._broker.on_reconnect.add(self._stale.set)
        # A value published while the subscription takes effect may be missed by both, so all
        # entries are read twice.
        reread, warned = True, False
        try:
            while True:
                self._stale.clear()
                try:
                    await self._read()
                    self.ready.set()
                except StoreUnavailable as error:
                    if not warned and self._broker.connected:
                        warned = True
                        log.warning("bucket %s cannot be read, retrying: %s", self._bucket, error)
                    await asyncio.sleep(_RETRY_S)
                    continue
                warned = False
                try:
                    async with asyncio.timeout(_REREAD_S if reread else None):
                        await self._stale.wait()
                    reread = True
                except TimeoutError:
                    reread = False
        finally:
            self._broker.on_reconnect.discard(self._stale.set)
            with contextlib.suppress(NatsError):
                await self._store.stop()
                await subscription.unsubscribe()

    async def _received(self, message: Msg) -> None:
        self._live.add(message.subject)
        self._apply(message.subject, message.headers or {}, message.data)

    async def _read(self) -> None:
        self._live.clear()
        before, seen = set(self._known), set()
        for stored in await self._store.read_all(self._subject):
            seen.add(stored.subject)
            if stored.subject not in self._live:
                self._apply(stored.subject, stored.headers, stored.data)
        for subject in before - seen - self._live:  # expired or purged
            self._apply(subject, {"KV-Operation": "PURGE"}, b"")

    def _apply(self, subject: str, headers: dict[str, str], data: bytes) -> None:
        key = subject.removeprefix(self._prefix)
        if headers.get("KV-Operation") in _DELETED:
            if subject in self._known:
                self._known.discard(subject)
                self._changed(key, None)
        else:
            self._known.add(subject)
            self._changed(key, data)
