"""Sending the sessions that earlier runs have left in the spool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence

from natterjack.broker.connection import Broker
from natterjack.process.run import end_tasks
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from .chain import Chain
from .link import Link

log = logging.getLogger(__name__)

_POLL_S = 0.1
_MAX_CONCURRENT = 16


class Leftovers:
    """Earlier sessions, which get no more audio."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        """Take `chains` in the order in which to send them, oldest first."""
        self._chains = list(chains)
        self._unfinished = set(chains)
        self._limit = asyncio.Semaphore(_MAX_CONCURRENT)

    @property
    def chains(self) -> Sequence[Chain]:
        """The sessions, also those that are sent."""
        return self._chains

    def add(self, chains: Sequence[Chain]) -> None:
        """Send further sessions, which are newer, once `run` is called again."""
        self._chains += chains
        self._unfinished |= set(chains)

    def by_key(self) -> dict[SessionKey, list[Chain]]:
        """Group the sessions by their keys. Those of one key are sent one after the other."""
        groups: dict[SessionKey, list[Chain]] = {}
        for chain in self._chains:
            groups.setdefault(chain.spec.key, []).append(chain)
        return groups

    async def run(self, link: Link, others: Collection[SessionKey]) -> None:
        """Send all but those of `others`, on one connection after another, until cancelled."""
        while True:
            connected = await link.opened()
            async with asyncio.TaskGroup() as tasks:
                sending = [
                    tasks.create_task(
                        self.publish_when_free(chains, connected.broker),
                        name=f"publish leftovers {key}",
                    )
                    for key, chains in self.by_key().items()
                    if key not in others
                ]
                await connected.closed.wait()
                await end_tasks(sending)

    async def publish_when_free(self, chains: Iterable[Chain], broker: Broker) -> None:
        """Run `publish` as soon as fewer than 16 groups are being sent."""
        async with self._limit:
            await self.publish(chains, broker)

    async def publish(self, chains: Iterable[Chain], broker: Broker) -> bool:
        """Send `chains` one after the other.

        Returns False if the connection is closed permanently before all are stored.
        """
        for chain in chains:
            if chain not in self._unfinished:
                continue
            publisher = chain.publisher
            about = {"session": str(publisher.spec.key), "session_id": publisher.spec.session_id}
            log.info("sending an earlier session from the spool", extra=fields(**about))
            await self._send(chain, broker)
            if not publisher.finished.is_set():
                return False
            if not publisher.abandoned:
                log.info(
                    "an earlier session in the spool is published and acknowledged",
                    extra=fields(**about, chunks=publisher.published),
                )
            self._unfinished.discard(chain)
        return True

    async def _send(self, chain: Chain, broker: Broker) -> None:
        """Publish a session, and follow it meanwhile. It may have ended since the earlier run."""
        await chain.status.subscribe(broker)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(chain.run(), name=f"follow {chain.spec.key}")
            await chain.ready.wait()
            await chain.publisher.run(broker)
            await end_tasks([following])
        await chain.status.unsubscribe()

    async def wait_stored(self, refused_seconds: float | None) -> None:
        """Return when all are stored. Cancel-safe.

        Unless `refused_seconds` is None, it also returns after the broker has refused the rest for
        so long: a later run can send them.
        """
        patience_s, before = refused_seconds, 0
        while self._unfinished:
            await asyncio.sleep(_POLL_S)
            stored = sum(chain.publisher.acknowledged for chain in self._chains)
            refused = any(chain.publisher.problem for chain in self._unfinished)
            if patience_s is not None and refused and stored == before:
                patience_s -= _POLL_S
                if patience_s <= 0:
                    return
            before = stored
