"""A take: the sessions in which a source is captured at a time, one for each speaker.

A take has a conversation. When its source is rotated, it ends, and the next take begins with the
next sample; both are published side by side until the first is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from natterjack.broker.connection import Broker
from natterjack.process.run import end_tasks
from natterjack.telemetry.log import fields

from ..delivery.link import Connected, Link
from ..hold.exchange import Holds
from ..session import EdgeSession
from ..sources import Block
from ..succession import Untranscribed

log = logging.getLogger(__name__)

Before = Callable[[EdgeSession, Broker], Awaitable[bool]]
"""Publishes what has to be stored before a session. Returns False if the connection was closed
permanently meanwhile."""


class Take:
    """Sessions that begin and end together, with the hold on their keys."""

    def __init__(self, sessions: Sequence[EdgeSession]) -> None:
        self.sessions = sessions
        self.holds = Holds([session.publisher for session in sessions])
        self.given_up = asyncio.Event()
        """Set to end the capture: a request has ended all sessions, a resumed session has ended
        and no other can continue it, or another agent has a key."""
        self.outage = False
        """Whether the broker was unreachable at first."""
        for session in sessions:
            session.chain.confirm = self.holds.confirm

    @property
    def stored(self) -> bool:
        """Whether everything up to the end is stored."""
        return all(session.publisher.finished.is_set() for session in self.sessions)

    @property
    def up_to_date(self) -> bool:
        """Whether everything that was captured so far is stored."""
        return all(session.publisher.up_to_date for session in self.sessions)

    @property
    def complete(self) -> bool:
        """Whether an earlier run has captured all of it."""
        return all(session.publisher.backlog.ended for session in self.sessions)

    @property
    def wanted_frames(self) -> int:
        """Number of source frames (at least 1) below which no chunk can be complete."""
        return min(session.wanted_frames for session in self.sessions)

    @property
    def seconds(self) -> float:
        """Audio captured so far."""
        return max(session.seconds for session in self.sessions)

    def feed(self, block: Block) -> list[EdgeSession]:
        """Feed all sessions. Returns those that were offered a chunk."""
        return [session for session in self.sessions if session.feed(block)]

    def mute(self) -> None:
        """Publish no audio from now on. Idempotent, as `unmute`."""
        for session in self.sessions:
            session.mute()

    def unmute(self) -> None:
        """Publish audio again."""
        for session in self.sessions:
            session.unmute()

    def end_before(self, block: Block) -> Block:
        """End the take, and return the block with which another one begins: what was lost before it
        is a gap at the end of this one."""
        if block.lost_frames:
            self.feed(block._replace(samples=block.samples[:0], notes=()))
        self.finish()
        return block._replace(lost_frames=0)

    def finish(self) -> None:
        """Offer the last chunks. To be called once."""
        for session in self.sessions:
            session.finish()

    def lift_rate_limit(self) -> None:
        """Lift the rate limit of audio that would be lost with this process."""
        for session in self.sessions:
            if not session.publisher.backlog.durable:
                session.publisher.remove_rate_limit()

    async def publish(self, link: Link, before: Before) -> None:
        """Publish, on one connection after another, until cancelled or another agent has one of
        the keys."""
        while not self.holds.taken.is_set():
            await self._publish_on(await link.opened(), before)
        self.given_up.set()

    async def _publish_on(self, connected: Connected, before: Before) -> None:
        """Publish until the connection is closed permanently."""
        broker = connected.broker
        self.outage = connected.outage
        for session in self.sessions:
            await session.status.subscribe(broker)
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(self.holds.run(broker, outage=self.outage), name="hold"),
                *(
                    tasks.create_task(
                        self._publish_session(session, broker, before),
                        name=f"publish {session.spec.key}",
                    )
                    for session in self.sessions
                ),
            ]
            waits = [
                tasks.create_task(connected.closed.wait()),
                tasks.create_task(self.holds.taken.wait()),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks((*work, *waits))

    async def _publish_session(self, session: EdgeSession, broker: Broker, before: Before) -> None:
        await self.holds.granted.wait()
        if await before(session, broker):
            await session.chain.ready.wait()
            await session.publisher.run(broker, until_finished=False)

    async def follow(self) -> None:
        """Follow the sessions and their successors, and say when nothing is left to be done for
        them. Cancel-safe."""
        async with asyncio.TaskGroup() as tasks:
            for session in self.sessions:
                tasks.create_task(self._follow(session), name=f"follow {session.spec.key}")

    async def _follow(self, session: EdgeSession) -> None:
        """Follow a session and its successors, and end the capture if nothing is left of it to do.

        A session that ended before its audio, and has no successor, is still published.
        """
        await session.chain.run()
        lost = isinstance(session.chain.outcome, Untranscribed)
        if all(each.publisher.abandoned for each in self.sessions):
            self.given_up.set()
        elif lost and session.resumed and not session.publisher.ended.is_set():
            log.error(
                "the session cannot be resumed; the next start begins a new one",
                extra=fields(session=str(session.spec.key)),
            )
            self.given_up.set()
        await session.chain.remind()

    async def wait_stored(self) -> None:
        """Return when everything is stored. Cancel-safe."""
        while not self.stored:  # a session's successor may open while another one is waited for
            for session in self.sessions:
                await session.publisher.finished.wait()

    async def wait_closed(self) -> None:
        """Return when workers have ended all sessions. Cancel-safe."""
        for session in self.sessions:
            session.status.poll()
        for session in self.sessions:
            await session.chain.over.wait()

    async def unsubscribe(self) -> None:
        """End what `publish` has begun on its connection. Idempotent."""
        for session in self.sessions:
            await session.status.unsubscribe()
