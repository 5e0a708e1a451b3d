"""Publishing takes side by side on one connection, each until it is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from natterjack.broker.connection import Broker
from natterjack.errors import NatterjackError, first_error
from natterjack.process.run import end_tasks
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from ..capture.outcome import close, report_leftover, report_session, report_taken
from ..capture.take import Take
from ..delivery.chain import Chain
from ..delivery.leftovers import Leftovers
from ..delivery.link import Link
from ..session import EdgeSession
from ..spool import Spool

if TYPE_CHECKING:
    from natterjack.consume.captions import Captions

log = logging.getLogger(__name__)

_FOLLOW_S = 900.0
"""How long sessions whose audio is stored are followed: one that ends before its audio is continued
by another. The broker does not keep audio for longer."""


class Delivery:
    """One take, and what becomes of it."""

    def __init__(self, take: Take, *, can_wait: bool, captions: bool) -> None:
        self.take = take
        self.can_wait = can_wait
        self.captions = captions
        self.error: str | None = None
        """Why it was not published."""
        self.stored = asyncio.Event()
        """Set once all of it is stored, or nothing more of it is published."""
        self.complete = False
        """Whether everything is stored, and nothing is known to be untranscribed."""


class Takes:
    """All takes that are not yet stored, and the sessions that earlier runs have left."""

    def __init__(self, link: Link, spool: Spool | None, tasks: asyncio.TaskGroup) -> None:
        self._link = link
        self._captions: Captions | None = None
        self._screen = contextlib.ExitStack()
        """Holds what captions take from the terminal."""
        self._spool = spool
        self._tasks = tasks
        self._stopping = asyncio.Event()
        self._deliveries: dict[asyncio.Task[None], Delivery] = {}
        self._leftovers: list[Chain] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._before: dict[SessionKey, list[asyncio.Event]] = {}
        """Events that must all be set before the next session of a key is published, since sessions
        of a key must not run at the same time."""

    @property
    def unfinished(self) -> list[Delivery]:
        """Takes of which not everything is known to be stored."""
        return [each for each in self._deliveries.values() if not each.stored.is_set()]

    @property
    def leftovers(self) -> list[Chain]:
        """Earlier sessions that are not yet stored."""
        return [each for each in self._leftovers if not each.publisher.finished.is_set()]

    def begin(
        self, take: Take, *, can_wait: bool, captions: bool, given_up: Callable[[Take], None]
    ) -> Delivery:
        """Publish a take, which goes on, and show its captions if wanted. `given_up` is called if
        nothing is to be captured for it any more."""
        delivery = Delivery(take, can_wait=can_wait, captions=captions)
        # Each rotation may have a key of its own, and an agent runs for years.
        waiting = {
            key: [event for event in events if not event.is_set()]
            for key, events in self._before.items()
        }
        self._before = {key: events for key, events in waiting.items() if events}
        earlier: dict[SessionKey, list[asyncio.Event]] = {}
        for session in take.sessions:
            waits = self._before.setdefault(session.spec.key, [])
            earlier[session.spec.key] = list(waits)
            waits.append(delivery.stored)
        working = self._tasks.create_task(
            self._guarded(self._deliver(delivery, earlier, given_up), delivery, given_up),
            name=f"deliver {take.sessions[0].spec.key}",
        )
        self._deliveries[working] = delivery
        working.add_done_callback(self._deliveries.pop)
        return delivery

    def send(self, chains: Iterable[Chain]) -> None:
        """Send sessions that earlier runs have left. Those of a key go first."""
        chains = list(chains)
        if not chains:
            return
        self._leftovers = [*self.leftovers, *chains]
        for chain in chains:
            self._before.setdefault(chain.spec.key, []).append(chain.publisher.finished)
        task = self._tasks.create_task(self._guarded(self._send(chains)), name="leftovers")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def finish(self, seconds: float) -> bool:
        """Wait until everything is stored, for `seconds` at most, and end all. Returns whether it
        is. To be called once all takes have ended."""
        self._stopping.set()
        for delivery in self.unfinished:
            delivery.take.lift_rate_limit()
        deliveries = list(self._deliveries.items())
        tasks = [*self._deliveries, *self._sending]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        await end_tasks(tasks)
        with contextlib.suppress(OSError):  # a terminal that is closed
            self._screen.close()
        complete = True
        for task, delivery in deliveries:
            complete &= self._report(delivery) if task.cancelled() else delivery.complete
        for chain in self.leftovers:
            close([chain])
            complete &= report_leftover(chain, self._spool)
        return complete

    async def _guarded(
        self,
        work: Coroutine[Any, Any, None],
        delivery: Delivery | None = None,
        given_up: Callable[[Take], None] | None = None,
    ) -> None:
        """Run `work`, whose failure must not end other takes."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the boundary of a take: others go on, whatever fails here
            cause = first_error(error)
            known = isinstance(cause, NatterjackError)
            log.error("publishing has failed: %s", cause, exc_info=None if known else error)
            if delivery is not None and given_up is not None:
                delivery.error = str(cause) or type(cause).__name__
                delivery.take.given_up.set()
                given_up(delivery.take)
        finally:
            if delivery is not None:
                delivery.stored.set()

    async def _deliver(
        self,
        delivery: Delivery,
        earlier: dict[SessionKey, list[asyncio.Event]],
        given_up: Callable[[Take], None],
    ) -> None:
        take = delivery.take

        async def before(session: EdgeSession, _broker: Broker) -> bool:
            for event in earlier[session.spec.key]:
                await event.wait()
            return True

        async def tell() -> None:
            await take.given_up.wait()
            given_up(take)

        async with asyncio.TaskGroup() as tasks:
            side = [
                tasks.create_task(take.publish(self._link, before), name="publish"),
                tasks.create_task(take.follow(), name="follow"),
                tasks.create_task(tell(), name="given up"),
            ]
            if delivery.captions:
                from ..capture.captions import caption_output, show_captions

                if self._captions is None:
                    self._captions = self._screen.enter_context(caption_output())
                keys = [session.spec.key for session in take.sessions]
                showing = show_captions(keys, self._link, self._captions)
                side.append(tasks.create_task(showing, name="captions"))
            waits = [
                tasks.create_task(self._wait_over(delivery), name="wait"),
                tasks.create_task(take.holds.taken.wait(), name="taken"),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            taken = take.holds.taken.is_set()
            take.holds.release()
            await end_tasks((*side, *waits))
        await take.unsubscribe()
        if taken:
            report_taken(take, self._link, self._spool, can_wait=delivery.can_wait)
        delivery.complete = self._report(delivery)

    async def _wait_over(self, delivery: Delivery) -> None:
        """Return once a take is stored, and its sessions have ended or need not be followed."""
        take = delivery.take
        await take.wait_stored()
        delivery.stored.set()
        async with asyncio.TaskGroup() as tasks:
            waits = [
                tasks.create_task(take.wait_closed()),
                tasks.create_task(self._stopping.wait()),
            ]
            await asyncio.wait(waits, timeout=_FOLLOW_S, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks(waits)
        await take.wait_stored()  # a session that goes on with the audio may have been opened

    def _report(self, delivery: Delivery) -> bool:
        chains = [session.chain for session in delivery.take.sessions]
        complete = close(chains)
        for session in delivery.take.sessions:
            complete &= report_session(session, self._spool)
        return complete

    async def _send(self, chains: list[Chain]) -> None:
        leftovers = Leftovers(chains)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(leftovers.run(self._link, ()), name="send")
            await leftovers.wait_stored(None)
            await end_tasks([sending])
        close(chains)
        for chain in chains:
            report_leftover(chain, self._spool)
        log.debug("earlier sessions are sent", extra=fields(sessions=len(chains)))
