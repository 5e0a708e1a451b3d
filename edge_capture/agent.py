"""One run of the edge: capture a source into its sessions, and publish them until all is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from natterjack.broker.connection import Broker
from natterjack.broker.login.attempts import Attempts
from natterjack.process.run import end_tasks
from natterjack.process.terminal import rewritable
from natterjack.settings import BrokerSettings

from .capture.outcome import close, report_leftover, report_session, report_taken
from .capture.reading import Reading
from .capture.take import Take
from .delivery.chain import Chain
from .delivery.leftovers import Leftovers
from .delivery.link import Link
from .fleet.reporter import Reporter
from .progress.display import CAPTURING, show_progress, source_text
from .progress.input_report import InputReport
from .session import EdgeSession
from .sources import Source
from .spool import Spool

log = logging.getLogger(__name__)


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
    captions: bool = False
    """Show the text of the sessions."""


class Agent:
    """Captures one source into its sessions, and sends what earlier runs have left."""

    def __init__(
        self,
        source: Source | None,
        sessions: list[EdgeSession],
        broker: BrokerSettings,
        run: RunOptions,
        spool: Spool | None = None,
        leftovers: Leftovers | None = None,
    ) -> None:
        """`leftovers` are earlier sessions in `spool`."""
        self.title = source_text(source)
        self.sessions = sessions
        self._leftovers = leftovers or Leftovers(())
        self.take = Take(sessions)
        self.reading = Reading(source, self.take) if source is not None else None
        self._source = source
        self.capturing = source is not None
        """Whether the source has not ended."""
        self.reporter: Reporter | None = None
        """Tells the center about this run, if it is set before `run`."""
        if source is not None:
            source.can_finish = self._can_finish
        self._spool = spool
        self._link = Link(broker, once=run.once)
        self._options = run

    @property
    def leftovers(self) -> Sequence[Chain]:
        """Earlier sessions in the spool."""
        return self._leftovers.chains

    @property
    def broker(self) -> Broker | None:
        """The newest connection to NATS."""
        return self._link.broker

    @property
    def attempts(self) -> Attempts:
        """The attempts to connect to NATS."""
        return self._link.attempts

    @property
    def input(self) -> InputReport | None:
        """The level and the findings of the source, if there is one."""
        return self.reading.input if self.reading is not None else None

    @property
    def waiting_for(self) -> str | None:
        """The reason that the source has no audio, e.g. a device that is gone; None while it has
        audio."""
        return self._source.waiting_for if self._source is not None else None

    @property
    def activity(self) -> str:
        """Phase of the run, for people."""
        if self._source is None:
            return "sending"
        if not self.capturing:
            return "ending"
        waiting_for = self.waiting_for
        if self.reading is not None and self.reading.muted:
            return "muted"
        return f"waiting for {waiting_for}" if waiting_for else CAPTURING

    async def run(self, stop: asyncio.Event) -> int:
        """Capture until the source ends or `stop` is set, then wait until everything is stored.

        After the end of the source there is no limit to that wait; after `stop` it is limited to
        `finish_seconds`. Returns the exit status. Raises: BrokerError, UsageError; KeyTaken.
        """
        take = self.take
        if self._options.once:
            await self._link.connect()
        async with asyncio.TaskGroup() as tasks:
            connection = tasks.create_task(self._link.run(), name="connection")
            keys = {session.spec.key for session in self.sessions}
            side = [
                tasks.create_task(self._leftovers.run(self._link, keys), name="leftovers"),
                tasks.create_task(self._display(), name="display"),
                tasks.create_task(self._lift_rate_limit_after(stop), name="lift rate limit"),
            ]
            if self.sessions:
                side.append(tasks.create_task(self._publish(), name="publish"))
                side.append(tasks.create_task(take.follow(), name="follow"))
            if self.sessions and self._options.captions:
                side.append(tasks.create_task(self._show_captions(), name="captions"))
            if self.reporter is not None:
                side.append(tasks.create_task(self.reporter.run(self._link), name="report"))
            if self._spool is not None:
                side.append(tasks.create_task(self._spool.maintain(), name="spool"))
            if self.reading is not None:
                await self._capture(self.reading, stop)
            interrupted = stop.is_set()
            take.finish()
            await self._run_until(
                self._run_until(self._all_stored(), take.holds.taken),
                stop,
                grace_seconds=self._options.finish_seconds,
            )
            take.holds.release()
            if self._options.wait and take.stored:
                # A signal that ended the capture does not end this wait; a second one aborts.
                stopping = asyncio.Event() if interrupted else stop
                await self._run_until(take.wait_closed(), stopping)
                if self.broker is not None and not stopping.is_set():
                    from .progress.transcript import print_text

                    text = print_text([session.chain for session in self.sessions], self.broker)
                    await self._run_until(text, stopping)
            await end_tasks(side)
            await end_tasks([connection])
        can_wait = self._source is not None and self._source.can_wait
        report_taken(take, self._link, self._spool, can_wait=can_wait)
        return self._report()

    def _can_finish(self) -> bool:
        return self._link.connected and self.take.up_to_date

    async def _publish(self) -> None:
        # Leftovers with the same key go first: sessions of a key must not run at the same time.
        by_key = self._leftovers.by_key()

        async def before(session: EdgeSession, broker: Broker) -> bool:
            return await self._leftovers.publish(by_key.get(session.spec.key, ()), broker)

        await self.take.publish(self._link, before)

    async def _lift_rate_limit_after(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.take.lift_rate_limit()

    async def _display(self) -> None:
        # On a terminal, captions are in place of the progress.
        captions = self._options.captions and sys.stdout is not None and rewritable(sys.stdout)
        if not (self._options.quiet or captions):
            await show_progress(self)

    async def _show_captions(self) -> None:
        from .capture.captions import caption_output, show_captions

        keys = [session.spec.key for session in self.sessions]
        # A terminal that is closed does not end the capture.
        with contextlib.suppress(OSError), caption_output(keys) as captions:
            await show_captions(keys, self._link, captions)

    async def _capture(self, reading: Reading, stop: asyncio.Event) -> None:
        """Capture until the source ends, or there is nothing to capture for."""
        if not self.take.complete:
            await self._run_until(reading.run(), stop, self.take.given_up)
            if reading.error is not None:
                log.error("%s; ending the session", reading.error)
            reading.finish()
        reading.source.close()
        self.capturing = False

    async def _all_stored(self) -> None:
        await self.take.wait_stored()
        # A run with sessions of its own does not wait long for refused leftovers.
        await self._leftovers.wait_stored(self._options.finish_seconds if self.sessions else None)

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

    def _report(self) -> int:
        """Log the outcome of each session. Returns the exit status."""
        failed = self.reading is not None and self.reading.error is not None
        complete = not (failed or self.take.given_up.is_set())
        complete &= close([*(session.chain for session in self.sessions), *self.leftovers])
        for session in self.sessions:
            complete &= report_session(session, self._spool)
            if self._options.wait:
                complete &= session.chain.transcribed
        for chain in self.leftovers:
            complete &= report_leftover(chain, self._spool)
        if self._spool is not None:
            complete &= not self._spool.unusable
        return 0 if complete else 1
