"""The run of the program: source, sessions and connection side by side, to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from natterjack.broker.connection import Broker, connect
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from .display import log_progress, show_live
from .errors import SourceLost
from .publish import Publisher
from .session import EdgeSession
from .sources import Block, Source
from .spool import Spool

log = logging.getLogger(__name__)

_CLOSED_CHECK_S = 1.0
_LEFTOVER_CHECK_S = 0.1
_LANES = 16
"""Earlier sessions that are sent at a time."""


@dataclass(frozen=True)
class RunOptions:
    """How the program behaves beside the sound."""

    once: bool = False
    """Give up when the first attempt to reach NATS fails."""
    wait: bool = False
    """Stay until the sessions have ended at the worker."""
    quiet: bool = False
    finish_seconds: float = 10


class Agent:
    """Captures one source into its sessions, and sends what earlier ones have left."""

    def __init__(
        self,
        source: Source | None,
        sessions: list[EdgeSession],
        broker: BrokerSettings,
        run: RunOptions,
        spool: Spool | None = None,
        leftovers: Sequence[Publisher] = (),
    ) -> None:
        """`leftovers`: sessions in `spool` that get no more sound, oldest first."""
        self.title = _title(source)
        self.sessions = sessions
        self.leftovers = leftovers
        self.broker: Broker | None = None
        self._source = source
        self._spool = spool
        self._broker_settings = broker
        self._options = run
        self._lost: SourceLost | None = None
        self._over = asyncio.Event()
        """Set when a session is not to be gone on with: its worker had ended it before, or a
        request has ended them all."""
        self._lanes = asyncio.Semaphore(_LANES)
        self._unsent = set(leftovers)
        """Those of them that are not known to be stored."""

    async def run(self, stop: asyncio.Event) -> int:
        """Capture until the source ends or `stop` is set, then see all stored. The exit code.

        After the end of the source the acknowledgements are awaited for as long as it takes;
        after `stop`, for `finish_seconds`. Raises: BrokerError, UsageError.
        """
        if self._options.once:
            self.broker = await self._connect()
        async with asyncio.TaskGroup() as tasks:
            side = [
                tasks.create_task(self._publish(), name="publish"),
                tasks.create_task(self._show(), name="display"),
                tasks.create_task(self._release(stop), name="release"),
                *(tasks.create_task(self._heed(session), name="heed") for session in self.sessions),
            ]
            if self._spool is not None:
                side.append(tasks.create_task(self._spool.keep(), name="spool"))
            if self._source is not None:
                if not all(session.publisher.backlog.ended for session in self.sessions):
                    await self._until(self._capture(self._source), stop, self._over)
                    for block in self._source.rest():
                        self._feed(block)
                self._source.close()
            cut_short = stop.is_set()
            for session in self.sessions:
                session.finish()
            await self._until(self._all_stored(), stop, grace_seconds=self._options.finish_seconds)
            if self._options.wait and self._stored:
                # A signal that ended the capture has done its work; a later one ends the wait.
                later = asyncio.Event() if cut_short else stop
                await self._until(self._all_closed(), later)
            await end_tasks(side)
        return self._outcome()

    @property
    def _stored(self) -> bool:
        return all(session.publisher.finished.is_set() for session in self.sessions)

    async def _connect(self) -> Broker:
        return await connect(self._broker_settings, name="natterjack-edge", once=self._options.once)

    async def _publish(self) -> None:
        """Connect, and run every session's publisher on the one connection, until cancelled."""
        while True:
            # nats-py closes a connection for good at some errors, as when credentials expire.
            if self.broker is None or self.broker.client.is_closed:
                self.broker = await self._connect()
            await self._publish_on(self.broker)

    async def _publish_on(self, broker: Broker) -> None:
        """Return when the connection is closed for good."""
        try:
            for session in self.sessions:
                await session.status.subscribe(broker)
            others: dict[SessionKey, list[Publisher]] = {}
            for publisher in self.leftovers:
                others.setdefault(publisher.spec.key, []).append(publisher)
            async with asyncio.TaskGroup() as tasks:
                for session in self.sessions:
                    same = others.pop(session.spec.key, [])
                    tasks.create_task(
                        self._publish_session(session, same, broker),
                        name=f"publish {session.spec.key}",
                    )
                    if session.resumed:
                        tasks.create_task(self._check_resumed(session), name="check")
                for key, leftovers in others.items():
                    tasks.create_task(
                        self._publish_in_lane(leftovers, broker), name=f"publish leftovers {key}"
                    )
            while not broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
                await asyncio.sleep(_CLOSED_CHECK_S)
        finally:
            await broker.close()

    async def _publish_session(
        self, session: EdgeSession, same: Sequence[Publisher], broker: Broker
    ) -> None:
        """After the leftovers with its key: its worker must not have two at a time."""
        if await self._publish_leftovers(same, broker):
            await session.publisher.run(broker)

    async def _check_resumed(self, session: EdgeSession) -> None:
        """End the capture if the session's worker has ended it since the former run.

        Who may not read the transcripts' stream does not learn it.
        """
        await session.status.look()
        if session.status.closing.is_set() and not session.publisher.backlog.ended:
            log.error(
                "the session had been ended by its worker and cannot go on: what it still has of "
                "sound is not transcribed; the next start begins a new one",
                extra=fields(session=str(session.spec.key), reason=session.status.reason),
            )
            session.publisher.release()  # nobody reads it
            self._over.set()

    async def _heed(self, session: EdgeSession) -> None:
        """Publish nothing more of a session that a request has ended; end the capture if it was the
        last. Of sessions that ended otherwise the sound is still published."""
        await session.status.wait_stopped()
        if session.publisher.finished.is_set():
            return
        log.error(
            "the session was ended by a request: nothing more of it is published",
            extra=fields(session=str(session.spec.key), reason=session.status.reason),
        )
        session.publisher.abandon()
        if all(one.publisher.abandoned for one in self.sessions):
            self._over.set()

    async def _publish_in_lane(self, leftovers: Sequence[Publisher], broker: Broker) -> None:
        async with self._lanes:
            await self._publish_leftovers(leftovers, broker)

    async def _publish_leftovers(self, leftovers: Sequence[Publisher], broker: Broker) -> bool:
        """One after the other; False if the connection is closed for good before all are stored."""
        for publisher in leftovers:
            if publisher not in self._unsent:
                continue
            about = {"session": str(publisher.spec.key), "session_id": publisher.spec.session_id}
            log.info("sending what the spool has of an earlier session", extra=fields(**about))
            await publisher.run(broker)
            if not publisher.finished.is_set():
                return False
            log.info(
                "an earlier session in the spool is published and acknowledged",
                extra=fields(**about, chunks=publisher.published),
            )
            self._unsent.discard(publisher)
        return True

    async def _release(self, stop: asyncio.Event) -> None:
        """After `stop`, publish at once what would be lost with this process: better old than not
        at all."""
        await stop.wait()
        for session in self.sessions:
            if not session.publisher.backlog.safe:
                session.publisher.release()

    async def _show(self) -> None:
        if self._options.quiet:
            return
        await (show_live(self) if sys.stderr.isatty() else log_progress(self))

    async def _capture(self, source: Source) -> None:
        try:
            async with contextlib.aclosing(source.blocks()) as blocks:
                async for block in blocks:
                    offered = self._feed(block)
                    source.wanted_frames = min(session.wanted_frames for session in self.sessions)
                    for session in offered:
                        await session.publisher.room()
                    if offered:
                        await asyncio.sleep(0)  # a fast source must let the publishers run
        except SourceLost as error:
            log.error("%s; the session ends here", error)
            self._lost = error

    def _feed(self, block: Block) -> list[EdgeSession]:
        """The sessions of which `block` completes chunks, which have them now."""
        return [session for session in self.sessions if session.feed(block)]

    async def _all_stored(self) -> None:
        for session in self.sessions:
            await session.publisher.finished.wait()
        await self._leftovers_stored()

    async def _leftovers_stored(self) -> None:
        """Return when the leftovers are stored; a run with sessions of its own does not wait for
        those that the broker has refused for `finish_seconds`: a later run has them."""
        patience, before = self._options.finish_seconds, 0
        while self._unsent:
            await asyncio.sleep(_LEFTOVER_CHECK_S)
            stored = sum(publisher.acknowledged for publisher in self.leftovers)
            refused = any(publisher.trouble for publisher in self._unsent)
            if self.sessions and refused and stored == before:
                patience -= _LEFTOVER_CHECK_S
                if patience <= 0:
                    return
            before = stored

    async def _all_closed(self) -> None:
        for session in self.sessions:
            await session.status.wait_closing()

    async def _until(
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

    def _outcome(self) -> int:
        """Say what became of the sound; the exit code."""
        code = 1 if self._lost or self._over.is_set() else 0
        for publisher in (*(session.publisher for session in self.sessions), *self.leftovers):
            publisher.close()
            if (directory := publisher.backlog.kept_aside) and publisher.finished.is_set():
                code = 1
                log.error(
                    "some of the sound in the spool could not be read; its files are kept",
                    extra=fields(session=str(publisher.spec.key), directory=str(directory)),
                )
        for session in self.sessions:
            publisher = session.publisher
            summary = fields(
                session=str(session.spec.key),
                seconds=round(session.seconds, 2),
                chunks=publisher.published,
                sent_again=publisher.resent,
                refused=publisher.refused,
                dropped_seconds=round(session.published_seconds(publisher.lost_frames), 2),
            )
            if publisher.abandoned:
                code = 1
                log.info("ended by a request before the sound did", extra=summary)
            elif not publisher.finished.is_set():
                code = 1
                log.error(
                    "%d chunks are unacknowledged%s%s",
                    publisher.unacknowledged,
                    "" if publisher.opened else ", and so is the session request",
                    self._kept(publisher),
                    extra=summary,
                )
            else:
                log.info("all is published and acknowledged", extra=summary)
            if self._options.wait and session.status.state != "closed":
                code = 1
        for publisher in self.leftovers:
            if not publisher.finished.is_set():
                code = 1
                log.error(
                    "%d chunks of an earlier session are unacknowledged%s",
                    publisher.unacknowledged,
                    self._kept(publisher),
                    extra=fields(session=str(publisher.spec.key)),
                )
        return code

    def _kept(self, publisher: Publisher) -> str:
        """What becomes of unacknowledged chunks, for the end of a line about them."""
        if self._spool is None or not publisher.backlog.safe:
            return ""
        directory = shlex.quote(str(self._spool.directory))
        return f"; the spool keeps them, this sends them: natterjack-edge send --spool {directory}"


def _title(source: Source | None) -> str:
    """What is captured, in a line."""
    if source is None:
        return "what earlier sessions have left"
    count = source.format.channels
    channels = "mono" if count == 1 else f"{count} channels"
    return f"{source.name}: {source.format.sample_rate} Hz, {channels}"


@contextlib.contextmanager
def stopped_by_signals(before_abort: Callable[[], None]) -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once (130, 143)."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def received(number: int) -> None:
        if stop.is_set():
            before_abort()
            os._exit(128 + number)
        log.info("stopping; once more to abort")
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, received, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
