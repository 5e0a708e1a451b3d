"""The shares that a process holds: taking them over, giving them up, storing their progress."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker
from natterjack.errors import StreamMissing, UsageError
from natterjack.telemetry.log import fields

from .backlog import Backlog, Share
from .members import LIFE_S, Members
from .progress import Conflict, Progress
from .record import Record
from .shares import SHARES, quota

log = logging.getLogger(__name__)

T = TypeVar("T")

_BEAT_S = 1.0
_DOUBT_S = LIFE_S / 2
"""If the others may not have heard a process for so long, it may have lost its shares."""
_ANSWERS_S = 0.2
"""How long it waits at its start for others that live."""
_SAVE_S = 0.05
"""The pause between two writes of one share's progress."""
_IDLE_S = 10.0
"""How often progress is stored that only says how far events of others were read."""
_RETRY_S = 1.0


class Holdings(Generic[T]):
    """The shares of one process of the durable consumer `name`. They are in the backlog."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        backlog: Backlog[T],
        progress: Progress,
        reads: str,
        changed: Callable[[], None],
    ) -> None:
        """`reads` says which events this process reads. `changed` is called when it holds other
        shares, or knows again that it holds them."""
        self._broker = broker
        self._name = name
        self._backlog = backlog
        self._progress = progress
        self._changed = changed
        self._id = secrets.token_hex(8)
        self._members = Members(broker, name, self._id, reads, self.tend_soon)
        self._tend_now, self._save_now = asyncio.Event(), asyncio.Event()
        self._idle_at = 0.0
        self._warned: set[str] = set()

    async def start(self) -> None:
        """Ask who is there."""
        self._broker.on_reconnect.add(self._reconnected)
        await self._members.start()

    async def stop(self) -> None:
        """Store progress, and let others take over, unless the broker is away. Call it when `run`
        has ended. Raises NATS's errors."""
        self._broker.on_reconnect.discard(self._reconnected)
        if self._broker.connected:
            shares = list(self._backlog.shares.values())
            await _all(self._release(share) for share in shares)
            self._members.beat((), leaves=True)
        await self._members.stop()

    def tend_soon(self) -> None:
        """Look at once at what should be held."""
        self._tend_now.set()

    def save_soon(self) -> None:
        """Store progress that has changed."""
        self._save_now.set()

    def look_for_doubt(self) -> None:
        """After a pause of this process or its connection, others may have taken over. And this
        one has not heard them."""
        if time.monotonic() - self._members.alive > _DOUBT_S:
            self._doubt()

    def _doubt(self) -> None:
        self._members.restart()
        self._backlog.doubt()
        self._save_now.set()

    def _reconnected(self) -> None:
        self._doubt()
        self._tend_now.set()

    def warn(self, message: str, *args: object) -> None:
        """Log a warning, once until things are in order again."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, *args, extra=fields(durable=self._name))

    # ---- which shares ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled, hold the shares that this process should hold, and store progress."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat(), name="beat")
            tasks.create_task(self._tend(), name="tend")
            tasks.create_task(self._save_on(), name="save")

    async def _beat(self) -> None:
        """Tell the others that this process lives."""
        while True:
            self.look_for_doubt()
            self._members.beat(self._backlog.shares)
            self._note_idle_progress()
            await asyncio.sleep(_BEAT_S)

    async def _tend(self) -> None:
        """Bring the shares to what this process should hold."""
        await asyncio.sleep(_ANSWERS_S)
        while True:
            if self._tend_now.is_set():
                self._tend_now.clear()
                self._members.beat(self._backlog.shares)
            try:
                if self._broker.connected:
                    async with self._broker.within_connection():
                        await self._balance()
            except StreamMissing as error:
                self.warn("%s", error)
            except (NatsError, TimeoutError) as error:
                self.warn("shares cannot be taken over yet: %r", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_S):
                    await self._tend_now.wait()

    def _note_idle_progress(self) -> None:
        if time.monotonic() - self._idle_at > _IDLE_S:
            self._idle_at = time.monotonic()
            for share in self._backlog.shares.values():
                share.dirty |= share.saved != self._backlog.position
            self._save_now.set()

    async def _balance(self) -> None:
        """Give up shares that others should hold, or take over shares that nobody holds."""
        mine = self._backlog.shares
        self.look_for_doubt()
        others = self._members.held()
        target = self._target(others)
        before = set(mine)
        staying = [share for share in mine.values() if not share.leaving]
        for share in sorted(staying, key=Share.delivered)[: max(0, len(staying) - target)]:
            share.leaving = True
        for share in list(mine.values()):
            if share.leaving and not share.delivered():
                await self._release(share)
        taken = {number for held in others.values() for number in held}
        free = [number for number in range(SHARES) if number not in mine and number not in taken]
        random.shuffle(free)
        try:
            while free and (missing := target - len(mine)) > 0:
                some, free = free[:missing], free[missing:]
                await _all(self._claim(number) for number in some)
        finally:
            if mine.keys() - before:
                self._changed()
            if mine.keys() != before:
                self._members.beat(mine)  # others need not wait for the next one

    def _target(self, others: Mapping[str, Collection[int]]) -> int:
        """How many shares this process should hold: none while another one reads other events, and
        was first. What that one reads and leaves out would be lost for this one."""
        mine = self._backlog.shares
        strangers = self._members.strangers()
        for member, reads in strangers.items():
            if (len(mine), self._id) < (len(others[member]), member):
                self.warn(
                    "waiting, since a process of the same name reads other events (%s): those that "
                    "share a name need the same tenant, conversation, speaker and kinds", reads,
                )  # fmt: skip
                return 0
        alike = {member: held for member, held in others.items() if member not in strangers}
        return quota(self._id, {**alike, self._id: mine.keys()})

    async def _claim(self, number: int) -> None:
        """Take a share over, unless its holder may live."""
        entry = await self._progress.read(str(number))
        record = self._decode(number, entry.value)
        dead = record.holder not in ("", self._id)
        self.look_for_doubt()
        if dead and (record.holder in self._members.held() or not self._members.certain):
            return
        try:
            revision = await self._progress.write(
                str(number), replace(record, holder=self._id).encode(), entry.revision
            )
        except Conflict:
            return
        if dead:
            log.info(
                "took over from a process that is not heard any more",
                extra=fields(durable=self._name, share=number, holder=record.holder),
            )
        self._backlog.hold(number, record, revision)

    def _decode(self, number: int, value: bytes) -> Record:
        if value:
            try:
                return Record.decode(value)
            except (ValueError, KeyError, TypeError, AttributeError, UsageError):
                log.warning(
                    "progress cannot be read, so all events are delivered again",
                    extra=fields(durable=self._name, share=number),
                )
        return Record()

    async def _release(self, share: Share[T]) -> None:
        """Store the progress of a share, and let another process take it over."""
        while share.number in self._backlog.shares:
            if await self._save(share, ""):
                self._drop(share)

    def _drop(self, share: Share[T]) -> None:
        if self._backlog.shares.get(share.number) is share:
            self._backlog.drop(share.number)
            self._changed()

    # ---- progress --------------------------------------------------------------------------------

    async def _save_on(self) -> None:
        """Store progress soon after it has changed."""
        while True:
            await self._save_now.wait()
            self._save_now.clear()
            dirty = [s for s in self._backlog.shares.values() if s.dirty and not s.leaving]
            try:
                await _all(self._save(share, self._id) for share in dirty)
                self._warned.clear()
                await asyncio.sleep(_SAVE_S)
                continue
            except StreamMissing as error:
                self.warn("%s", error)
            except (NatsError, TimeoutError) as error:
                self.warn("progress is not stored yet: %r", error)
            for share in self._backlog.shares.values():
                share.dirty = True
            self._save_now.set()
            await asyncio.sleep(_RETRY_S)
            await self._broker.wait_connected()

    async def _save(self, share: Share[T], holder: str) -> bool:
        """Store a share's progress; return whether that was done. Raises NATS's errors."""
        doubts, share.dirty = share.doubts, False
        record = self._backlog.record(share, holder)
        try:
            revision = await self._progress.write(
                str(share.number), record.encode(), share.revision
            )
        except Conflict:
            await self._resolve(share)
            return False
        self._backlog.saved(share, revision, record.read, certain=doubts == share.doubts)
        self._changed()
        return True

    async def _resolve(self, share: Share[T]) -> None:
        """Find out why a share's progress was not stored: it may be that of another process now."""
        entry = await self._progress.read(str(share.number))
        if self._backlog.shares.get(share.number) is not share:
            return
        share.dirty = True
        self._save_now.set()
        if not entry.value:
            log.warning(
                "the stored progress was deleted: continuing with what this process knows",
                extra=fields(durable=self._name, share=share.number),
            )
            share.revision = entry.revision
            return
        if self._decode(share.number, entry.value).holder == self._id:
            # Our own write, whose acknowledgment was lost; or the broker has lost a later one.
            share.revision = entry.revision
            return
        log.warning(
            "another process has taken over", extra=fields(durable=self._name, share=share.number)
        )
        self._drop(share)


async def _all(steps: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Await all of them, also those that go on when one has failed. Raises the first error."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
