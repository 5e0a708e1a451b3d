"""One process of a durable consumer: it reads for the shares that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from datetime import datetime

from nats.errors import Error as NatsError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.errors import NotAllowed, StreamMissing, UsageError, first_error
from natterjack.position import Position
from natterjack.process.run import end_tasks
from natterjack.subjects import DURABLE_PREFIX
from natterjack.telemetry.log import fields

from ..readahead import StoredMessage
from ..reader import DurableReader, Since
from .backlog import Backlog, Item, Lane
from .holdings import Holdings
from .progress import Conflict, Progress
from .shares import digest, key_of, share_of

log = logging.getLogger(__name__)

_MOST_KEPT = 10_000
"""When so many events wait in memory, because they may not be delivered yet, nothing is read."""
_WAIT_S = 60.0
_STOP_S = 3.0
_RETRY_S = 1.0
_OVERDUE_S = 0.5
_CURE = "a worker creates it when it starts"
_NEW = "new"


class Participant:
    """One process of the durable consumer `name`. `take` is for one task at a time."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        subject: str,
        *,
        wanted: frozenset[str] | None,
        start: Since,
        ack_wait: float,
        max_in_flight: int,
    ) -> None:
        self.broker = broker
        self.name = name
        self.backlog: Backlog[StoredMessage] = Backlog()
        self.pending = 0
        """Messages of the stream that were stored and not read yet, those of others included."""
        self._subject = subject
        self._wanted = wanted
        self._start = start
        self._ack_wait = ack_wait
        self.max_in_flight = max_in_flight
        self._progress = Progress(broker, name)
        reads = f"{subject} {','.join(sorted(wanted or ('all',)))}"
        self._holdings = Holdings(broker, name, self.backlog, self._progress, reads, self._changed)
        self._reader: DurableReader | None = None
        self._wake, self._go_on = asyncio.Event(), asyncio.Event()
        self._clock = time.time() - time.monotonic()
        """The wall clock when it began: later, it may jump."""
        self._failure: Exception | None = None
        self._running: asyncio.Task[None] | None = None
        self._stuck = False
        """Whether it was logged that nothing is read."""

    async def start(self) -> None:
        """Begin. Raises NATS's errors."""
        self.broker.on_refusal.add(self._refused)
        await self._holdings.start()
        self._running = asyncio.create_task(self._run(), name=f"durable {self.name}")

    async def stop(self) -> None:
        """Store progress and give the shares to others, if the broker answers soon. Idempotent."""
        running, self._running = self._running, None
        if running is not None:
            await end_tasks([running])
            with contextlib.suppress(NatsError, TimeoutError, StreamMissing):
                async with asyncio.timeout(_STOP_S):
                    await self._holdings.stop()
        self.broker.on_refusal.discard(self._refused)
        self._fail(UsageError(f"the block of the durable consumer {self.name} has ended"))

    async def _run(self) -> None:
        try:
            origin = await self._origin()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(origin), name=f"read for {self.name}")
                tasks.create_task(self._holdings.run(), name=f"hold for {self.name}")
                tasks.create_task(self._watch_deadlines(), name=f"deadlines of {self.name}")
        except* Exception as group:  # noqa: BLE001 - whatever it is, `take` raises it
            error = first_error(group)
            assert isinstance(error, Exception)
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake.set()

    def _refused(self, refusal: NotAllowed) -> bool | None:
        own = (
            f"{DURABLE_PREFIX}.{self.name}",
            f"{streams.bucket_subject(streams.DURABLES_BUCKET, self.name)}.",
        )
        if not any(part in refusal.subject for part in own):
            return None
        self._fail(
            NotAllowed(
                refusal.subject, publishes=refusal.publishes,
                remedy="a durable consumer needs a user that was made with "
                f"`natterjack users add subscriber --durable {self.name}`",
            )
        )  # fmt: skip
        return True

    def _changed(self) -> None:
        """The shares have changed, or what is known about them."""
        self._wake.set()
        self._go_on.set()
        if self._reader is not None and any(s.fresh for s in self.backlog.shares.values()):
            self._reader.poke()

    # ---- what deliveries call --------------------------------------------------------------------

    async def take(
        self, batch: dict[Lane[StoredMessage], None] | None = None, deadline: float | None = None
    ) -> Item[StoredMessage] | None:
        """Take the next event that is due; None at `deadline`, on the monotonic clock. `batch`: see
        Backlog.take.

        Raises: NotAllowed, or whatever ended the reading. Cancel-safe.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            self._wake.clear()
            self._holdings.look_for_doubt()
            now = time.monotonic()
            wall = now + self._clock
            if self.backlog.out < self.max_in_flight:
                item = self.backlog.take(wall, batch)
                if item is not None:
                    item.deadline = now + self._ack_wait
                    self._holdings.save_soon()
                    return item
            if deadline is not None and now >= deadline:
                return None
            due = self.backlog.next_due()
            ends = [deadline] if deadline is not None else []
            ends += [now + due - wall] if due is not None else []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, min(ends) - now) if ends else None):
                    await self._wake.wait()

    def settle(self, item: Item[StoredMessage]) -> None:
        """A delivered event is done."""
        self.backlog.settle(item)
        self._freed(item)

    def take_back(
        self, item: Item[StoredMessage], seconds: float, *, overdue: bool = False
    ) -> None:
        """Deliver it again in `seconds`."""
        due = time.monotonic() + self._clock + seconds
        self.backlog.take_back(item, due, overdue=overdue)
        self._freed(item)

    def give_back(self, item: Item[StoredMessage]) -> None:
        """It was taken, but not delivered."""
        item.attempts -= 1
        self.take_back(item, 0)

    def _freed(self, item: Item[StoredMessage]) -> None:
        self._wake.set()
        self._go_on.set()
        self._holdings.save_soon()
        if item.lane.share.leaving:
            self._holdings.tend_soon()

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(_OVERDUE_S)
            for item in self.backlog.overdue(time.monotonic()):
                log.warning(
                    "not settled within %g s, so it is delivered again", self._ack_wait,
                    extra=fields(durable=self.name, position=str(item.position)),
                )  # fmt: skip
                self.take_back(item, 0, overdue=True)

    # ---- reading ---------------------------------------------------------------------------------

    async def _origin(self) -> Since:
        """Where the durable consumer began; it begins now if it is new."""
        while True:
            try:
                async with self.broker.within_connection():
                    entry = await self._progress.read("origin")
                    if entry.value:
                        return _parse_origin(entry.value, entry.stored_at)
                    value = _encode_origin(self._start)
                    with contextlib.suppress(Conflict):
                        await self._progress.write("origin", value, entry.revision)
                        log.info("durable consumer begins", extra=fields(durable=self.name))
                    continue
            except StreamMissing as error:
                self._holdings.warn("%s", error)
            except (NatsError, TimeoutError) as error:
                self._holdings.warn("the progress cannot be read yet: %r", error)
            await asyncio.sleep(_RETRY_S)
            await self.broker.wait_connected()

    async def _read(self, origin: Since) -> None:
        try:
            while True:
                await self._begin(origin)
                if self._reader is None or self._full():
                    self._go_on.clear()
                    await self._go_on.wait()
                    continue
                message = await self._reader.next(_WAIT_S)
                if message is not None:
                    self._add(message)
        finally:
            await self._end_reader()

    def _full(self) -> bool:
        if self.backlog.size < _MOST_KEPT:
            self._stuck &= self.backlog.size > _MOST_KEPT // 2
            return False
        if self.backlog.stuck and not self._stuck:
            self._stuck = True
            log.warning(
                "%d events wait for earlier ones of their sessions, which are tried again later: "
                "nothing else is read until then", self.backlog.size,
                extra=fields(durable=self.name),
            )  # fmt: skip
        return True

    async def _begin(self, origin: Since) -> None:
        """Begin to read again if this process has other shares."""
        if not self.backlog.shares:
            await self._end_reader()
            return
        if self.backlog.begin():
            await self._end_reader()
            since = self.backlog.position or origin
            self._reader = DurableReader(
                self.broker, streams.TRANSCRIPTS, self._subject, since=since, cure=_CURE, waits=True
            )

    async def _end_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(NatsError, TimeoutError):
                await reader.stop()

    def _add(self, message: StoredMessage) -> None:
        key = digest(key_of(message.subject))
        content = message if self._wanted is None or message.kind in self._wanted else None
        if self.backlog.add(message.position, share_of(key), key, content):
            self._wake.set()
        self.pending = message.pending


def _encode_origin(start: Since) -> bytes:
    text = start.isoformat() if isinstance(start, datetime) else str(start or _NEW)
    return json.dumps({"start": text}).encode()


def _parse_origin(value: bytes, stored_at: str) -> Since:
    """Decode the value that `_encode_origin` made. New events are those stored after the origin
    itself."""
    text = json.loads(value)["start"]
    if text == _NEW:
        return datetime.fromisoformat(stored_at)
    if text == "start":
        return "start"
    try:
        return Position.parse(text)
    except UsageError:
        return datetime.fromisoformat(text)
