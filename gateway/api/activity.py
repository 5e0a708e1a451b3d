"""Recent activity of a tenant's sessions, read from the stream: for charts, and for the list of
conversations that have ended.

While somebody asks, two readers follow the tenant's status events and the latencies of its finals.
If a tenant has too many of them to read a whole day, a shorter time is read, and the answer tells
when it begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nats.errors import Error as NatsError
from pydantic import BaseModel, ConfigDict, ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.consume.reader import DurableReader
from natterjack.decoding import decode_event
from natterjack.errors import BadEvent, NatterjackError
from natterjack.events import StatusEvent
from natterjack.process.run import end_tasks
from natterjack.subjects import EventKind, SessionKey, transcript_filter

from .figures import Latencies, Minute, Span, minutes

log = logging.getLogger(__name__)

_WINDOWS = (
    timedelta(days=1), timedelta(hours=6), timedelta(hours=1), timedelta(minutes=10),
    timedelta(0),
)  # fmt: skip
"""How far back is looked; latencies, for an hour at most."""
_MAX_EVENTS = 20_000
"""The most events that are read of the past. Reading so many takes two seconds of one core."""
_MAX_SESSIONS = 20_000
"""The most sessions that are remembered: those whose events came last."""
_WAIT_S = 60.0
_SILENT_S = 60.0
_PAUSE_EVERY = 100
"""After so many events, others get their turn."""
_CURE = "a worker creates it when it starts"


@dataclass
class Past:
    """A session, as its status events tell."""

    key: SessionKey
    session_id: str
    state: str
    opened_at: datetime
    last_at: datetime
    reason: str | None = None
    provider: str | None = None
    ended_at: datetime | None = None
    captured_seconds: float = 0
    transcribed_seconds: float = 0
    gap_seconds: float = 0
    cost: dict[str, float] | None = None


class _Spoken(BaseModel):
    """The part of a final that is needed here."""

    model_config = ConfigDict(extra="ignore")

    published_at: datetime
    latency: float | None = None


class Activity:
    """The recent activity of one tenant's sessions, or of all sessions if `tenant` is None."""

    def __init__(self, broker: Broker, tenant: str | None) -> None:
        self._broker = broker
        self._tenant = tenant
        self._latencies = Latencies()
        self._sessions: OrderedDict[str, Past] = OrderedDict()
        self._caught_up = {"status": asyncio.Event(), "final": asyncio.Event()}
        self.status_since: datetime | None = None
        """From when on sessions are known; None before the stream was found."""
        self.latency_since: datetime | None = None
        """From when on latencies are known."""
        self.asked_at = time.monotonic()
        self.failure: str | None = None

    async def run(self) -> None:
        """Read until canceled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow("status"), name="read status events")
                tasks.create_task(self._follow("final"), name="read latencies")
        except* NatterjackError as errors:
            self.failure = str(errors.exceptions[0])
            log.error("sessions of the past cannot be read: %s", self.failure)
        finally:
            for event in self._caught_up.values():
                event.set()

    async def ready(self, seconds: float) -> None:
        """Wait until the past is read, or for some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for event in self._caught_up.values():
                    await event.wait()

    async def _follow(self, kind: EventKind) -> None:
        reader, since = await self._begin(kind)
        if kind == "status":
            self.status_since = since
        else:
            self.latency_since = since
        try:
            read = 0
            while True:
                if reader.settled and not reader.pending:
                    self._caught_up[kind].set()
                message = await reader.next(_WAIT_S)
                if message is None:
                    continue
                read += 1
                if read % _PAUSE_EVERY == 0:
                    await asyncio.sleep(0)
                if kind == "status":
                    with contextlib.suppress(BadEvent):
                        event = decode_event(message.data, message.position, message.subject)
                        if isinstance(event, StatusEvent):
                            self._add(event)
                else:
                    with contextlib.suppress(ValidationError):
                        self._add_latency(_Spoken.model_validate_json(message.data))
        finally:
            with contextlib.suppress(NatsError, TimeoutError):
                await reader.stop()

    async def _begin(self, kind: EventKind) -> tuple[DurableReader, datetime]:
        """Begin to read, so long ago that there is not too much to read."""
        subject = transcript_filter(self._tenant, None, None, kind)
        windows = _WINDOWS if kind == "status" else _WINDOWS[2:]
        for window in windows:
            since = datetime.now(UTC) - window
            reader = DurableReader(
                self._broker, streams.TRANSCRIPTS, subject, since=since, cure=_CURE, waits=True
            )
            try:
                await reader.begin()
                if reader.pending <= _MAX_EVENTS or window == windows[-1]:
                    return reader, since
            except BaseException:  # including cancellation
                with contextlib.suppress(NatsError, TimeoutError):
                    await reader.stop()
                raise
            await reader.stop()
        raise AssertionError("unreachable")

    def _add_latency(self, final: _Spoken) -> None:
        if final.latency is not None:
            self._latencies.add(int(final.published_at.timestamp() // 60), final.latency)

    def _add(self, event: StatusEvent) -> None:
        past = self._sessions.pop(event.session_id, None)
        if past is None:
            opened = event.opened_at or event.published_at
            past = Past(event.key, event.session_id, event.state, opened, event.published_at)
        self._sessions[event.session_id] = past
        past.state, past.reason, past.last_at = event.state, event.reason, event.published_at
        past.provider = event.provider or past.provider
        if event.closing:
            past.ended_at = event.published_at
        if event.account is not None:
            account = event.account
            past.captured_seconds = account.captured_seconds
            past.transcribed_seconds = account.transcribed_seconds
            past.gap_seconds = sum(account.gap_seconds.values())
            past.cost = {}
            for usage in account.providers.values():
                past.cost[usage.currency] = past.cost.get(usage.currency, 0.0) + usage.cost
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)

    # ---- what was read ---------------------------------------------------------------------------

    @property
    def sessions(self) -> list[Past]:
        """All sessions that are known, the one with the newest event first."""
        return list(reversed(self._sessions.values()))

    def minutes(self, now: datetime, held: Collection[str]) -> list[Minute]:
        """The last hour. `held`: IDs of the sessions that workers hold or that wait for one; others
        have ended with their last event, if that was a while ago."""
        spans = []
        for past in self._sessions.values():
            end = past.ended_at
            silent_s = (now - past.last_at).total_seconds()
            if end is None and past.session_id not in held and silent_s > _SILENT_S:
                end = past.last_at
            span = Span(past.opened_at.timestamp(), None if end is None else end.timestamp())
            spans.append((span, past.state == "failed"))
        return minutes(now.timestamp(), spans, self._latencies)


class Activities:
    """The activity of each tenant for which somebody asks."""

    LINGER_S = 300.0
    MOST = 32

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._found: OrderedDict[str | None, tuple[Activity, asyncio.Task[None]]] = OrderedDict()

    async def of(self, tenant: str | None) -> Activity:
        """A tenant's activity, with the past as far as it could be read in two seconds."""
        self._end_unused()
        found = self._found.pop(tenant, None)
        if found is None or found[1].done():
            activity = Activity(self._broker, tenant)
            task = asyncio.create_task(activity.run(), name=f"activity of {tenant}")
            task.add_done_callback(_log_failure)
            found = activity, task
        self._found[tenant] = found
        found[0].asked_at = time.monotonic()
        await found[0].ready(2.0)
        return found[0]

    def _end_unused(self) -> None:
        now = time.monotonic()
        for tenant, (activity, task) in list(self._found.items()):
            if now - activity.asked_at > self.LINGER_S or len(self._found) > self.MOST:
                del self._found[tenant]
                task.cancel()

    async def close(self) -> None:
        await end_tasks([task for _, task in self._found.values()])


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("reading sessions of the past has failed", exc_info=error)
