"""One run of the edge: capture a source into its sessions, and publish them until all is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from natterjack.broker.connection import Broker, connect
from natterjack.broker.login.attempts import Attempts
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings
from natterjack.telemetry.log import fields

from .delivery.chain import Chain
from .delivery.leftovers import Leftovers
from .delivery.publisher import Publisher
from .display import CAPTURING, show_progress, source_text
from .errors import KeyTaken, SourceLost
from .hold.exchange import Holds
from .input_report import InputReport
from .session import EdgeSession
from .sources import Block, Source
from .spool import Spool
from .succession import Untranscribed
from .transcript import print_text

log = logging.getLogger(__name__)

_CLOSED_CHECK_S = 1.0


@dataclass(frozen=True)
class RunOptions:
    """Options of one run that do not concern its audio."""

    once: bool = False
    """Give up if the first attempt to reach NATS fails."""
    wait: bool = False
    """Keep running until a worker has ended the sessions."""
    quiet: bool = False
    """Show no progress."""
    finish_seconds: float = 10
    """How long to wait for acknowledgements after a signal."""


class Agent:
    """Captures one source into its sessions, and sends what earlier runs have left."""

    def __init__(
        self,
        source: Source | None,
        sessions: list[EdgeSession],
        broker: BrokerSettings,
        run: RunOptions,
        spool: Spool | None = None,
        leftovers: Sequence[Chain] = (),
    ) -> None:
        """`leftovers` are earlier sessions in `spool`, oldest first."""
        self.title = source_text(source)
        self.sessions = sessions
        self.leftovers = leftovers
        self.broker: Broker | None = None
        self.attempts = Attempts()
        self._source = source
        self.input: InputReport | None = None
        """The level and the findings of the source, if there is one."""
        self._capturing = source is not None
        if source is not None:
            self.input = InputReport(source, split=len(sessions) > 1)
            source.can_finish = self._can_finish
        self._spool = spool
        self._broker_settings = broker
        self._options = run
        self._source_error: SourceLost | None = None
        self._ended = asyncio.Event()
        """Set to end the capture: a request has ended all sessions, or a resumed session has ended
        and no other can continue it."""
        self._leftovers = Leftovers(leftovers)
        self._holds = Holds([session.publisher for session in sessions])
        for session in sessions:
            session.chain.confirm = self._holds.confirm
        self._outage = False
        """Whether the broker was unreachable at first."""

    @property
    def activity(self) -> str:
        """Phase of the run, for people."""
        if self._source is None:
            return "sending"
        if not self._capturing:
            return "ending"
        waiting_for = self._source.waiting_for
        return f"waiting for {waiting_for}" if waiting_for else CAPTURING

    async def run(self, stop: asyncio.Event) -> int:
        """Capture until the source ends or `stop` is set, then wait until everything is stored.

        After the end of the source there is no limit to that wait; after `stop` it is limited to
        `finish_seconds`. Returns the exit status. Raises: BrokerError, UsageError; KeyTaken.
        """
        if self._options.once:
            self.broker = await self._connect()
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._publish(), name="publish")
            side = [
                publishing,
                tasks.create_task(self._display(), name="display"),
                tasks.create_task(self._lift_rate_limit_after(stop), name="lift rate limit"),
                tasks.create_task(self._end_if_taken(publishing), name="end if taken"),
                *(
                    tasks.create_task(self._follow(session), name=f"follow {session.spec.key}")
                    for session in self.sessions
                ),
            ]
            if self._spool is not None:
                side.append(tasks.create_task(self._spool.maintain(), name="spool"))
            if self._source is not None:
                if not all(session.publisher.backlog.ended for session in self.sessions):
                    await self._run_until(self._capture(self._source), stop, self._ended)
                    for block in self._source.remaining():
                        self._feed(block)
                    if self.input is not None:
                        self.input.finish()
                self._source.close()
                self._capturing = False
            interrupted = stop.is_set()
            for session in self.sessions:
                session.finish()
            await self._run_until(
                self._run_until(self._all_stored(), self._holds.taken),
                stop,
                grace_seconds=self._options.finish_seconds,
            )
            self._holds.release()
            if self._options.wait and self._stored:
                # A signal that ended the capture does not end this wait; a second one aborts.
                stopping = asyncio.Event() if interrupted else stop
                await self._run_until(self._all_closed(), stopping)
                if self.broker is not None and not stopping.is_set():
                    text = print_text([session.chain for session in self.sessions], self.broker)
                    await self._run_until(text, stopping)
            await end_tasks(side)
        self._report_taken()
        return self._report()

    @property
    def _stored(self) -> bool:
        return all(session.publisher.finished.is_set() for session in self.sessions)

    def _can_finish(self) -> bool:
        connected = self.broker is not None and self.broker.connected
        return connected and all(session.publisher.up_to_date for session in self.sessions)

    async def _connect(self) -> Broker:
        return await connect(
            self._broker_settings,
            name="natterjack-edge",
            once=self._options.once,
            echo=False,  # so that it does not answer itself
            attempts=self.attempts,
        )

    async def _publish(self) -> None:
        """Connect, and run every session's publisher on the one connection, until cancelled."""
        while True:
            # nats-py closes a connection permanently on some errors, such as expired credentials.
            if self.broker is None or self.broker.client.is_closed:
                self.broker = await self._connect()
                self._outage = self.attempts.failures.total() > 0
            await self._publish_on(self.broker)

    async def _publish_on(self, broker: Broker) -> None:
        """Publish until the connection is closed permanently."""
        try:
            for session in self.sessions:
                await session.status.subscribe(broker)
            by_key = self._leftovers.by_key()
            async with asyncio.TaskGroup() as tasks:
                if self.sessions:
                    tasks.create_task(self._holds.run(broker, outage=self._outage), name="hold")
                for session in self.sessions:
                    same_key = by_key.pop(session.spec.key, [])
                    tasks.create_task(
                        self._publish_session(session, same_key, broker),
                        name=f"publish {session.spec.key}",
                    )
                for key, chains in by_key.items():
                    tasks.create_task(
                        self._leftovers.publish_when_free(chains, broker),
                        name=f"publish leftovers {key}",
                    )
            while not broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
                await asyncio.sleep(_CLOSED_CHECK_S)
        finally:
            await broker.close()

    async def _publish_session(
        self, session: EdgeSession, same_key: Sequence[Chain], broker: Broker
    ) -> None:
        await self._holds.granted.wait()
        # Leftovers with the same key go first: sessions of a key must not run at the same time.
        if await self._leftovers.publish(same_key, broker):
            await session.chain.ready.wait()
            await session.publisher.run(broker, until_finished=False)

    async def _follow(self, session: EdgeSession) -> None:
        """Follow a session and its successors, and end the capture if nothing is left of it to do.

        A session that ended before its audio, and has no successor, is still published.
        """
        await session.chain.run()
        lost = isinstance(session.chain.outcome, Untranscribed)
        if all(each.publisher.abandoned for each in self.sessions):
            self._ended.set()
        elif lost and session.resumed and not session.publisher.ended.is_set():
            log.error(
                "the session cannot be resumed; the next start begins a new one",
                extra=fields(session=str(session.spec.key)),
            )
            self._ended.set()
        await session.chain.remind()

    async def _end_if_taken(self, publishing: asyncio.Task[None]) -> None:
        """End the capture and publish nothing more once another agent has one of the keys."""
        await self._holds.taken.wait()
        publishing.cancel()
        self._ended.set()

    async def _lift_rate_limit_after(self, stop: asyncio.Event) -> None:
        """After `stop`, lift the rate limit of audio that would be lost with this process."""
        await stop.wait()
        for session in self.sessions:
            if not session.publisher.backlog.durable:
                session.publisher.remove_rate_limit()

    async def _display(self) -> None:
        if self._options.quiet:
            return
        await show_progress(self)

    async def _capture(self, source: Source) -> None:
        try:
            async with contextlib.aclosing(source.blocks()) as blocks:
                async for block in blocks:
                    fed = self._feed(block)
                    source.wanted_frames = min(session.wanted_frames for session in self.sessions)
                    for session in fed:
                        await session.publisher.wait_for_room()
                    if fed:
                        await asyncio.sleep(0)  # a fast source must let the publishers run
        except SourceLost as error:
            log.error("%s; ending the session", error)
            self._source_error = error

    def _feed(self, block: Block) -> list[EdgeSession]:
        """Feed all sessions. Returns those that were offered a chunk."""
        if self.input is not None:
            self.input.feed(block)
        return [session for session in self.sessions if session.feed(block)]

    async def _all_stored(self) -> None:
        while not self._stored:  # a session's successor may open while another one is waited for
            for session in self.sessions:
                await session.publisher.finished.wait()
        # A run with sessions of its own does not wait long for refused leftovers.
        await self._leftovers.wait_stored(self._options.finish_seconds if self.sessions else None)

    async def _all_closed(self) -> None:
        for session in self.sessions:
            session.status.poll()
        for session in self.sessions:
            await session.chain.over.wait()

    async def _run_until(
        self, work: Coroutine[Any, Any, None], *stops: asyncio.Event, grace_seconds: float = 0
    ) -> None:
        """Run `work` to its end, or until `grace_seconds` after one of `stops` is set."""
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(work)
            stopping = [tasks.create_task(stop.wait()) for stop in stops]
            await asyncio.wait((working, *stopping), return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and grace_seconds:
                await asyncio.wait((working,), timeout=grace_seconds)
            await end_tasks((working, *stopping))

    def _report_taken(self) -> None:
        """Log that another agent has a key. Raises KeyTaken if this one has published nothing."""
        lost = self._holds.lost
        if lost is None:
            return
        words = lost.describe(datetime.now().astimezone())
        if lost.published:
            log.error("%s", words)
            return
        seconds = max(session.seconds for session in self.sessions)
        waited = self._outage or (self.broker is not None and self.broker.reconnects > 0)
        for session in self.sessions:
            publisher = session.publisher
            if waited or session.continued:
                publisher.close()
            else:
                publisher.abandon()  # it has only what was captured while this agent asked
        waits = self._source is not None and self._source.can_wait
        kept = self._where_kept(self.sessions[0].publisher) or ("" if waits else ", which are lost")
        if waited and kept:
            words += f"; it captured {seconds:.1f} s before it reached NATS{kept}"
        raise KeyTaken(words)

    def _report(self) -> int:
        """Log the outcome of each session. Returns the exit status."""
        complete = not (self._source_error or self._ended.is_set())
        chains = [*(session.chain for session in self.sessions), *self.leftovers]
        for chain in chains:
            chain.publisher.close()
            complete &= self._report_damage(chain.publisher)
        for session in self.sessions:
            complete &= self._report_session(session)
            if self._options.wait:
                complete &= session.chain.transcribed
        for chain in self.leftovers:
            complete &= self._report_leftover(chain)
        if self._spool is not None:
            complete &= not self._spool.unusable
        return 0 if complete else 1

    def _report_damage(self, publisher: Publisher) -> bool:
        """Log where damaged files are kept. Returns whether there are none."""
        directory = publisher.backlog.damaged_directory
        if directory is None or not publisher.finished.is_set():
            return True
        log.error(
            "some audio in the spool could not be read; its files are kept",
            extra=fields(session=str(publisher.spec.key), directory=str(directory)),
        )
        return False

    def _report_session(self, session: EdgeSession) -> bool:
        """Log the summary of a session and its successors. Returns whether everything is stored,
        and nothing is known to be untranscribed."""
        publisher, chain = session.publisher, session.chain
        summary = fields(
            session=str(session.spec.key),
            seconds=round(session.seconds, 2),
            published_seconds=round(publisher.published_seconds, 2),
            gap_seconds={cause: round(s, 2) for cause, s in session.gap_seconds.items()},
            chunks=publisher.published,
            sent_again=publisher.resent,
            refused=publisher.refused,
            dropped_seconds=round(session.published_seconds(publisher.dropped_frames), 2),
            **chain.totals(),
        )
        if publisher.abandoned:
            log.info("a request ended the session before its audio ended", extra=summary)
            return False
        if not publisher.finished.is_set():
            log.error(
                "%d chunks are unacknowledged%s%s",
                publisher.unacknowledged,
                "" if publisher.opened else ", and so is the session request",
                self._where_kept(publisher),
                extra=summary,
            )
            return False
        if (loss := chain.loss()) is not None:
            log.error("everything is published and acknowledged, but %s", loss, extra=summary)
            return False
        log.info("everything is published and acknowledged; %s", chain.progress(), extra=summary)
        return True

    def _report_leftover(self, chain: Chain) -> bool:
        """Log what is left of an earlier session. Returns whether everything is stored, and nothing
        is known to be untranscribed."""
        publisher, about = chain.publisher, fields(session=str(chain.spec.key))
        if publisher.abandoned:
            return False
        if not publisher.finished.is_set():
            log.error(
                "%d chunks of an earlier session are unacknowledged%s",
                publisher.unacknowledged,
                self._where_kept(publisher),
                extra=about,
            )
            return False
        if (loss := chain.loss()) is not None:
            log.error("an earlier session is published, but %s", loss, extra=about)
        return loss is None

    def _where_kept(self, publisher: Publisher) -> str:
        """Return the end of a message about unacknowledged chunks that says how to send them."""
        if self._spool is None or not publisher.backlog.durable:
            return ""
        directory = shlex.quote(str(self._spool.directory))
        return f"; the spool keeps them; to send them: natterjack-edge send --spool {directory}"
