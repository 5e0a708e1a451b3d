"""Sending the sessions that earlier runs have left in the spool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from natterjack.broker.connection import Broker
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from .publisher import Publisher

log = logging.getLogger(__name__)

_POLL_S = 0.1
_MAX_CONCURRENT = 16


class Leftovers:
    """Publishers of earlier sessions, which get no more audio."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        """Take `publishers` in the order in which to send them, oldest first."""
        self.publishers = publishers
        self._unfinished = set(publishers)
        self._limit = asyncio.Semaphore(_MAX_CONCURRENT)

    def by_key(self) -> dict[SessionKey, list[Publisher]]:
        """Group the publishers by session key. Those of one key are sent one after the other."""
        groups: dict[SessionKey, list[Publisher]] = {}
        for publisher in self.publishers:
            groups.setdefault(publisher.spec.key, []).append(publisher)
        return groups

    async def publish_when_free(self, publishers: Iterable[Publisher], broker: Broker) -> None:
        """Run `publish` as soon as fewer than 16 groups are being sent."""
        async with self._limit:
            await self.publish(publishers, broker)

    async def publish(self, publishers: Iterable[Publisher], broker: Broker) -> bool:
        """Send `publishers` one after the other.

        Returns False if the connection is closed permanently before all are stored.
        """
        for publisher in publishers:
            if publisher not in self._unfinished:
                continue
            about = {"session": str(publisher.spec.key), "session_id": publisher.spec.session_id}
            log.info("sending an earlier session from the spool", extra=fields(**about))
            await publisher.run(broker)
            if not publisher.finished.is_set():
                return False
            log.info(
                "an earlier session in the spool is published and acknowledged",
                extra=fields(**about, chunks=publisher.published),
            )
            self._unfinished.discard(publisher)
        return True

    async def wait_stored(self, refused_seconds: float | None) -> None:
        """Return when all are stored. Cancel-safe.

        Unless `refused_seconds` is None, it also returns after the broker has refused the rest for
        so long: a later run can send them.
        """
        patience_s, before = refused_seconds, 0
        while self._unfinished:
            await asyncio.sleep(_POLL_S)
            stored = sum(publisher.acknowledged for publisher in self.publishers)
            refused = any(publisher.problem for publisher in self._unfinished)
            if patience_s is not None and refused and stored == before:
                patience_s -= _POLL_S
                if patience_s <= 0:
                    return
            before = stored
