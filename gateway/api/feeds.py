"""All feeds of a gateway: one for each conversation that somebody views."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from natterjack.broker.connection import Broker
from natterjack.process.run import end_tasks

from .feed import Feed
from .sse import Start

log = logging.getLogger(__name__)

LINGER_S = 30.0
"""How long a feed waits for the next viewer: those that lost their connection come back at once."""
MAX_UNUSED = 50
"""How many feeds wait so: each reads the broker."""


class TooManyViewers(Exception):
    """The gateway has as many viewers as it may."""


class Feeds:
    """Starts a feed with its first viewer, and ends it some time after its last one."""

    def __init__(self, broker: Broker, max_viewers: int) -> None:
        self._broker = broker
        self._max_viewers = max_viewers
        self._feeds: dict[tuple[str, str], tuple[Feed, asyncio.Task[None]]] = {}
        self._unused: dict[Feed, None] = {}
        """Feeds without viewers, the one that has waited longest first."""
        self._closed = False
        self.viewers = 0

    @property
    def conversations(self) -> int:
        """The number of conversations that are read."""
        return len(self._feeds)

    @contextlib.contextmanager
    def viewing(self, tenant: str, conversation: str, start: Start) -> Iterator[Feed]:
        """A conversation's feed for one more viewer. Raises: TooManyViewers."""
        if self._closed or self.viewers >= self._max_viewers:
            raise TooManyViewers
        feed = self._feed(tenant, conversation, start)
        self._unused.pop(feed, None)
        self.viewers += 1
        feed.viewers += 1
        try:
            yield feed
        finally:
            self.viewers -= 1
            feed.viewers -= 1
            if not feed.viewers:
                self._unused[feed] = None
                asyncio.get_running_loop().call_later(LINGER_S, self._end_unused, feed)
                if len(self._unused) > MAX_UNUSED:
                    self._end_unused(next(iter(self._unused)))

    def _feed(self, tenant: str, conversation: str, start: Start) -> Feed:
        key = (tenant, conversation)
        known = self._feeds.get(key)
        if known is not None and not known[0].ended:
            return known[0]
        feed = Feed(self._broker, tenant, conversation, start)
        task = asyncio.create_task(feed.run(), name=f"feed of {tenant}.{conversation}")
        self._feeds[key] = feed, task

        def ended(_: asyncio.Task[None]) -> None:
            self._unused.pop(feed, None)
            if self._feeds.get(key) == (feed, task):
                del self._feeds[key]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a feed has failed", exc_info=error)

        task.add_done_callback(ended)
        return feed

    def _end_unused(self, feed: Feed) -> None:
        if feed.viewers:
            return
        self._unused.pop(feed, None)
        for known, task in self._feeds.values():
            if known is feed:
                task.cancel()

    def drain(self) -> None:
        """End all viewers: they connect again, to another gateway. Idempotent."""
        self._closed = True
        for feed, _ in self._feeds.values():
            feed.end()

    async def close(self) -> None:
        """End everything. Idempotent."""
        self.drain()
        await end_tasks([task for _, task in self._feeds.values()])
