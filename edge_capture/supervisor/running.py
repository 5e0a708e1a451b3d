"""One source of an agent, which is captured until it is stopped, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from natterjack.audio import AudioFormat
from natterjack.errors import NatterjackError, first_error
from natterjack.process.run import end_tasks
from natterjack.telemetry.log import bind, fields

from ..capture.reading import Reading
from ..capture.take import Take
from ..config.models import FileTable
from ..delivery.chain import announce
from ..delivery.link import Link
from ..keep.background import keep_audio
from ..keep.directory import KeepDirectory
from ..level import block_dbfs
from ..session import EdgeSession, make_sessions
from ..sources import Block, Source
from ..spool import Spool, SpooledBacklog
from .opening import open_source
from .plans import Plan
from .resuming import likely, resume
from .state import State
from .takes import Delivery, Takes

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_STABLE_S = 60.0
"""A source that was captured for so long is tried again soon."""
_HOLD_S = 30.0
"""How long sessions of an earlier run, which the source may resume, wait for its first audio."""
_ROTATE_AGAIN_NS = 60 * 1_000_000_000
_OPENING = {"microphone": "a microphone", "pipe": "a writer"}
"""The reason that a source has no audio while it is opened, by kind."""


class RunningSource:
    """Captures one source into one take after another."""

    def __init__(
        self,
        plan: Plan,
        takes: Takes,
        link: Link,
        spool: Spool | None,
        keep: KeepDirectory | None,
        found: list[SpooledBacklog],
        release: Callable[[list[SpooledBacklog]], None],
        changed: Callable[[], None],
        *,
        muted: bool = False,
    ) -> None:
        """`found` are sessions of this source that an earlier run has left; those that it does not
        resume are passed to `release`. `changed` is called when its state has changed."""
        self.plan = plan
        self.error: str | None = None
        """Why it has failed or stopped."""
        self.reading: Reading | None = None
        """The source that is being read; None while there is no audio."""
        self.wanted = plan.table.start
        """Whether it is to be captured."""
        self._complete = False
        """Whether it is a file that was read to its end."""
        self._muted = muted
        self._takes = takes
        self._link = link
        self._spool = spool
        self._keep = keep
        self._found = found
        self._release = release
        self._changed = changed
        self._delivery: Delivery | None = None
        self._rotation = plan.rotation()
        self._rotate_after_ns = 0
        self._interrupt = asyncio.Event()
        """Set by a request that ends the capture."""
        self._ended = asyncio.Event()
        """Set when nothing is to be captured any more for the current take."""
        self._waiting = False
        self._fruitless = 0
        """Attempts in a row that have failed."""

    @property
    def name(self) -> str:
        return self.plan.table.name

    @property
    def state(self) -> State:
        if self.reading is not None:
            if self.reading.muted:
                return State.MUTED
            return State.WAITING if self.reading.source.waiting_for else State.CAPTURING
        if not self.wanted:
            return State.STOPPED
        return State.FAILED if self.error and not self._waiting else State.WAITING

    @property
    def waiting_for(self) -> str | None:
        """The reason that the source has no audio, if it is known."""
        if self.reading is not None:
            return self.reading.source.waiting_for
        return _OPENING.get(self.plan.table.kind) if self._waiting else None

    @property
    def device(self) -> str | None:
        """The name of what is captured."""
        return self.reading.source.name if self.reading is not None else None

    @property
    def session(self) -> EdgeSession | None:
        """The first of the sessions that are being captured."""
        return self.reading.take.sessions[0] if self.reading is not None else None

    def start(self) -> bool:
        """Capture it, if it was stopped. Returns whether it was."""
        if self.wanted:
            return False
        self.wanted, self.error, self._fruitless, self._complete = True, None, 0, False
        self._interrupt.set()
        return True

    def stop(self) -> bool:
        """End its sessions, and capture it no more. Returns whether it was captured."""
        if not self.wanted:
            return False
        self.wanted, self.error = False, None
        self._interrupt.set()
        return True

    def mute(self, muted: bool) -> bool:
        """Leave its audio out, or no longer. Returns whether that is a change."""
        change = muted != self._muted
        self._muted = muted
        if not change:
            return False
        if self.reading is not None:
            self.reading.muted = muted
        self._changed()
        return True

    def rotate(self) -> bool:
        """Begin new sessions at the next pause. Returns False if nothing is captured."""
        if self.reading is None:
            return False
        self._rotation.ask()
        return True

    def change(self, plan: Plan) -> str:
        """Follow another plan. Returns what was done."""
        same = plan.table.same_input(self.plan.table)
        started = plan.table.start and not self.plan.table.start
        self.plan = plan
        self._rotation = plan.rotation()
        if started or (self._complete and plan.table.start and not same):
            self.start()
        if same:
            return "changed with the next session" if self.rotate() else "changed"
        self._fruitless = 0
        self._interrupt.set()
        return "changed"

    async def run(self) -> None:
        """Capture until cancelled. Nothing but a cancellation ends it."""
        bind(source=self.name)
        try:
            while True:
                self._interrupt.clear()
                self._changed()
                if not self.wanted:
                    self._release_found()
                    await self._interrupt.wait()
                    continue
                began = time.monotonic()
                self.error = await self._attempt()
                if time.monotonic() - began >= _STABLE_S:
                    self._fruitless = 0
                if self.error is not None and self.wanted:
                    self._changed()
                    await self._pause()
        finally:
            self._release_found()

    async def _attempt(self) -> str | None:
        """Capture until it ends. Returns why it has failed, or None."""
        try:
            return await self._capture()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the boundary of a source: its neighbors go on
            cause = first_error(error)
            known = isinstance(cause, NatterjackError | OSError)
            text = str(cause) if known else f"{type(cause).__name__}: {cause}"
            if text != self.error:
                log.error(
                    "%s", text, extra=fields(source=self.name), exc_info=None if known else error
                )
        return text

    async def _pause(self) -> None:
        """Wait until it is tried again. Cancel-safe."""
        seconds = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(16, self._fruitless))
        self._fruitless += 1
        waiting = asyncio.create_task(self._interrupt.wait())
        try:
            await asyncio.wait([waiting], timeout=seconds * random.uniform(0.75, 1.25))  # noqa: S311
        finally:
            await end_tasks([waiting])

    async def _capture(self) -> str | None:
        """Open the source and capture it until it ends. Returns why it has failed, or None.

        Cancel-safe: what was captured is in the take, which has ended. Raises: NatterjackError.
        """
        self._waiting = not self._fruitless
        try:
            source = await self._open(self.plan, self._hold_found(self.plan))
        finally:
            self._waiting = False
        if source is None:
            return None
        try:
            self._ended.clear()
            take = await self._first_take(source)
            self.reading = reading = Reading(source, take, self._rotated)
            reading.muted = self._muted and not self.plan.table.can_wait
            source.can_finish = lambda: self._link.connected and reading.take.up_to_date
            if not take.complete:
                self._changed()
                log.info("capturing %s", source.name, extra=fields(source=self.name))
                try:
                    await self._read(reading)
                finally:
                    reading.finish()
        finally:
            ended, self.reading = self.reading, None
            if ended is not None:
                ended.take.finish()
            await self._close(source)
            self._changed()
        return self._outcome(reading)

    def _hold_found(self, plan: Plan) -> AudioFormat | None:
        """Release sessions that the source does not resume. Returns the format of the others."""
        found = self._found
        self._found = held = likely(plan, found) if found else []
        self._release([each for each in found if each not in held])
        return held[0].origin.format if held else None

    async def _open(self, plan: Plan, expected: AudioFormat | None) -> Source | None:
        """Open the source. Returns None if it is not wanted before it is open. Cancel-safe."""
        opening = asyncio.create_task(open_source(plan.table, expected), name=f"open {self.name}")
        stopping = asyncio.create_task(self._interrupt.wait())
        waits = (opening, stopping)
        try:
            await asyncio.wait(waits, timeout=_HOLD_S, return_when=asyncio.FIRST_COMPLETED)
            if not (opening.done() or stopping.done()):
                self._release_found()  # what is sent late is worse than another session
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                return opening.result()
            return None
        except BaseException:  # a failure or a cancellation: what was found is sent all the same
            self._release_found()
            raise
        finally:
            stopping.cancel()
            if not opening.done():
                await end_tasks([opening])
                if not opening.cancelled() and opening.exception() is None:
                    opening.result().close()

    async def _close(self, source: Source) -> None:
        from ..sources.microphone import MicrophoneSource

        if isinstance(source, MicrophoneSource):
            await source.aclose()  # a dead device takes 2 s
        else:
            source.close()

    async def _first_take(self, source: Source) -> Take:
        """Resume the sessions of an earlier run, or make new ones."""
        plan, found = self.plan, self._found  # it may have been reloaded while a source was awaited
        if self._spool is not None and found:
            resumed = await resume(source, plan, found)
            if resumed is not None:
                self._found = [each for each in found if each not in resumed.backlogs]
                self._rotation = resumed.rotation
                log.info("resuming the session where it stopped", extra=fields(source=self.name))
            self._release_found()
            if resumed is not None:
                return self._deliver(resumed.sessions, source)
        self._rotation = plan.rotation()
        return self._begin(source, time.time_ns())

    def _begin(self, source: Source, at_ns: int) -> Take:
        """Make sessions that begin now. Raises: UsageError, SpoolError."""
        plan = self.plan
        sessions = make_sessions(
            plan.keys(at_ns),
            source.format,
            source.can_wait,
            plan.edge,
            plan.publish,
            plan.request,
            self._spool,
            plan.origin(source.format) if self._spool is not None else None,
        )
        return self._deliver(sessions, source)

    def _deliver(self, sessions: list[EdgeSession], source: Source) -> Take:
        keep_audio(sessions, self._keep, can_wait=source.can_wait)
        take = Take(sessions)
        for session in sessions:
            announce(session.chain.spec)
        self._delivery = self._takes.begin(
            take, can_wait=source.can_wait, captions=self.plan.table.captions,
            given_up=self._given_up,
        )  # fmt: skip
        return take

    def _given_up(self, take: Take) -> None:
        if self.reading is not None and self.reading.take is take:
            self._ended.set()

    def _rotated(self, block: Block, take: Take) -> Take:
        """Return the take to which a block belongs. The last one ends with the sample before."""
        assert self.reading is not None
        source = self.reading.source
        level = 0.0
        if self._rotation.needs_level(block.time_ns):
            level = block_dbfs(block.samples, source.format.encoding)
        seconds = source.format.seconds(len(block.samples))
        if not self._rotation.feed(block.time_ns, seconds, level):
            return take
        if block.time_ns < self._rotate_after_ns:
            self._rotation.ask()
            return take
        try:
            following = self._begin(source, block.time_ns)
        except NatterjackError as error:
            log.error("the session goes on: %s", error, extra=fields(source=self.name))
            self._rotate_after_ns = block.time_ns + _ROTATE_AGAIN_NS
            self._rotation.ask()
            return take
        for session in following.sessions:
            session.status.routine = True
        log.debug(
            "rotated to conversation %s", following.sessions[0].spec.conversation,
            extra=fields(source=self.name),
        )  # fmt: skip
        self._changed()
        return following

    async def _read(self, reading: Reading) -> None:
        """Read until the source ends, or the capture is to end. Cancel-safe."""
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(reading.run(), name=f"read {self.name}")
            ends = [
                tasks.create_task(self._interrupt.wait()),
                tasks.create_task(self._ended.wait()),
            ]
            await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
            await end_tasks((working, *ends))

    def _outcome(self, reading: Reading) -> str | None:
        """Return why the capture has failed, or None if it has ended as it should."""
        take, delivery = reading.take, self._delivery
        if delivery is not None and delivery.error is not None:
            raise NatterjackError(delivery.error)
        if (lost := take.holds.lost) is not None:
            raise NatterjackError(f"agent {lost.other.agent} captures {lost.key}")
        if all(session.publisher.abandoned for session in take.sessions):
            self.wanted = False
            log.error(
                "a request has ended the session; the source is stopped until it is started",
                extra=fields(source=self.name),
            )
            return "a request has ended the session"
        if reading.error is not None:
            raise reading.error
        if isinstance(self.plan.table, FileTable) and not self._interrupt.is_set():
            self.wanted, self._complete = False, True
            log.info("the file has ended", extra=fields(source=self.name))
        return None

    def _release_found(self) -> None:
        found, self._found = self._found, []
        if found:
            self._release(found)
