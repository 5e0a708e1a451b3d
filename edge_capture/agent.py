"""The run of the program: source, sessions and connection side by side, to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from natterjack.connection import Broker, connect
from natterjack.log import fields
from natterjack.settings import BrokerSettings

from .display import log_progress, show_live
from .errors import SourceLost
from .session import EdgeSession
from .sources import Source

log = logging.getLogger(__name__)

_CLOSED_CHECK_S = 1.0


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
    """Captures one source into its sessions."""

    def __init__(
        self, source: Source, sessions: list[EdgeSession], broker: BrokerSettings, run: RunOptions
    ) -> None:
        self.title = f"{source.name}: {source.format.sample_rate} Hz, {_channels(source)}"
        self.sessions = sessions
        self.broker: Broker | None = None
        self._source = source
        self._broker_settings = broker
        self._options = run
        self._lost: SourceLost | None = None

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
            ]
            await self._until(self._capture(), stop)
            cut_short = stop.is_set()
            self._source.close()
            for session in self.sessions:
                session.finish()
            await self._until(self._all_stored(), stop, self._options.finish_seconds)
            if self._options.wait and self._stored:
                # A signal that ended the capture has done its work; a later one ends the wait.
                later = asyncio.Event() if cut_short else stop
                await self._until(self._all_closed(), later)
            for task in side:
                task.cancel()
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
            async with asyncio.TaskGroup() as tasks:
                for session in self.sessions:
                    tasks.create_task(
                        session.publisher.run(broker), name=f"publish {session.spec.key}"
                    )
            while not broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
                await asyncio.sleep(_CLOSED_CHECK_S)
        finally:
            await broker.close()

    async def _show(self) -> None:
        if self._options.quiet:
            return
        await (show_live(self) if sys.stderr.isatty() else log_progress(self))

    async def _capture(self) -> None:
        try:
            async with contextlib.aclosing(self._source.blocks()) as blocks:
                async for block in blocks:
                    for session in self.sessions:
                        session.feed(block)
                    for session in self.sessions:
                        await session.publisher.room()
                    await asyncio.sleep(0)  # a fast source must let the publishers run
        except SourceLost as error:
            log.error("%s; the session ends here", error)
            self._lost = error

    async def _all_stored(self) -> None:
        for session in self.sessions:
            await session.publisher.finished.wait()

    async def _all_closed(self) -> None:
        for session in self.sessions:
            await session.status.wait_closing()

    async def _until(
        self, work: Coroutine[Any, Any, None], stop: asyncio.Event, grace_seconds: float = 0
    ) -> None:
        """Run `work` to its end, or until `grace_seconds` after `stop` is set."""
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(work)
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and grace_seconds:
                await asyncio.wait((working,), timeout=grace_seconds)
            working.cancel()
            stopping.cancel()

    def _outcome(self) -> int:
        """Say what became of the sound; the exit code."""
        code = 1 if self._lost else 0
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
            if not publisher.finished.is_set():
                code = 1
                log.error(
                    "%d chunks are unacknowledged%s",
                    publisher.unacknowledged,
                    "" if publisher.opened else ", and so is the session request",
                    extra=summary,
                )
            else:
                log.info("all is published and acknowledged", extra=summary)
            if self._options.wait and session.status.state != "closed":
                code = 1
        return code


def _channels(source: Source) -> str:
    count = source.format.channels
    return "mono" if count == 1 else f"{count} channels"


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
