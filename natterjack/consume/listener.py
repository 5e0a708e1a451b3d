"""listen(): transcript events for downstream services, each durable event exactly once.

Durable events are read from the stream and not from the live subject: a worker that has lost its
lease can still publish to the subject, but the stream refuses its events. Interims are not stored,
so they come from the live subject. They are dropped once a final of their segment has been read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from datetime import datetime, timedelta
from typing import Literal, overload

from nats.errors import Error as NatsError

from natterjack.broker import streams
from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker, connected_by
from natterjack.decoding import AnyEvent, decode_event
from natterjack.errors import BadEvent, NotAllowed, StreamMissing
from natterjack.events import InterimEvent
from natterjack.settings import BrokerSettings
from natterjack.subjects import DURABLE_KINDS, EventKind, transcript_filter

from .conversation_end import OpenSessions
from .interims import InterimQueue, Interims
from .live import LiveEvents
from .markers import CaughtUp, Marker, StreamReplaced
from .options import Until, checked_interims, checked_kinds, checked_since, checked_until
from .readahead import StoredMessage
from .reader import DurableReader, Since

log = logging.getLogger(__name__)

_WAIT_S = 60.0
_MAX_MARKERS = 16
_CURE = "a worker creates it when it starts"


class Listener:
    """Reads the events of one `listen()`. For one task."""

    def __init__(
        self,
        broker: Broker,
        key: tuple[str | None, str | None, str | None],
        *,
        kinds: frozenset[str] | None = None,
        since: Since = None,
        until: Until | None = None,
        interims: Interims | None = "latest",
    ) -> None:
        self._broker = broker
        self._key = key
        self._kinds = kinds
        self._since = since
        self._until = until
        wanted = interims is not None and until != "stored"
        self._interims: InterimQueue | None = None
        if interims is not None and wanted and (kinds is None or "interim" in kinds):
            self._interims = InterimQueue(interims)
        self._sessions = OpenSessions() if until == "closed" else None
        self._markers: deque[Marker] = deque(maxlen=_MAX_MARKERS)
        self._reader = self._reader_of(self._only_kind(), since, waits=until != "stored")
        self._live = LiveEvents(self._interims)
        self._live_subjects: list[str] = []
        self._subscriptions: list[DirectSubscription] = []
        self._renewals = 0
        self._clock = time.time() - time.monotonic()
        self._left: int | None = None
        """With until="stored": messages that are still to be read."""
        self._refusal: NotAllowed | None = None

    def _only_kind(self) -> EventKind | None:
        """The kind of stored event that is read; None for all. Other kinds than those that are
        wanted tell when interims are stale, and when a conversation has ended."""
        if self._kinds is None or self._interims is not None or self._sessions is not None:
            return None
        kinds = self._stored_kinds()
        return kinds[0] if len(kinds) == 1 else None

    def _stored_kinds(self) -> list[EventKind]:
        """The kinds of stored event that are wanted."""
        return [kind for kind in DURABLE_KINDS if self._kinds is None or kind in self._kinds]

    def _reader_of(self, kind: EventKind | None, since: Since, *, waits: bool) -> DurableReader:
        return DurableReader(
            self._broker, streams.TRANSCRIPTS, transcript_filter(*self._key, kind),
            since=since, cure=_CURE, waits=waits, on_marker=self._mark,
        )  # fmt: skip

    def _mark(self, marker: Marker) -> None:
        if isinstance(marker, StreamReplaced) and self._interims is not None:
            self._interims.forget()
        self._markers.append(marker)

    # ---- beginning and ending --------------------------------------------------------------------

    async def start(self) -> AsyncGenerator[AnyEvent | Marker, None]:
        """Subscribe, and begin to read. Return events as they arrive, and markers: of stored events
        or, if this user may receive live ones only, of those. Raises NotAllowed."""
        self._broker.on_refusal.add(self._refused)
        if self._interims is not None:
            await self._subscribe("interim")
        try:
            await self._begin()
            self._raise_refusal()
        except StreamMissing:
            return _nothing()
        except NotAllowed as refusal:
            self._raise_refusal()
            if refusal.own_inbox or self._since is not None or self._until is not None:
                raise
            if await self._may_read_one_kind():
                raise  # live events alone would be less than this user may have
            await self._subscribe(*(self._kinds or (None,)))
            with contextlib.suppress(NatsError, TimeoutError):
                await self._broker.client.flush()  # an event shows that all kinds are received
            return self._live_events()
        if self._reader.began is not None:
            self._clock = self._reader.began.timestamp() - time.monotonic()
        if self._sessions is not None and self._since != "start":
            await self._look_back()
        return self._stored_events()

    async def _begin(self) -> None:
        """Begin to read. A user that may not read all kinds may read the only one that is wanted;
        then, closing events do not end interims. Raises: StreamMissing; NotAllowed."""
        try:
            await self._reader.begin()
        except NotAllowed as refusal:
            kinds = self._stored_kinds()
            if refusal.own_inbox or len(kinds) != 1 or self._sessions is not None:
                raise
            await self._end(self._reader)
            waits = self._until != "stored"
            self._reader = self._reader_of(kinds[0], self._since, waits=waits)
            await self._reader.begin()

    async def _may_read_one_kind(self) -> bool:
        """Whether the user may read stored events of some of the kinds that are wanted."""
        for kind in self._stored_kinds():
            await self._end(self._reader)
            self._reader = self._reader_of(kind, None, waits=False)
            with contextlib.suppress(NotAllowed):
                await self._reader.begin()
                return True
        return False

    async def _end(self, reader: DurableReader) -> None:
        with contextlib.suppress(NatsError, TimeoutError):
            await reader.stop()

    async def _subscribe(self, *kinds: str | None) -> None:
        """Receive live events of some kinds; None for all."""
        for subscription in self._subscriptions:
            await subscription.end()
        self._live_subjects = [transcript_filter(*self._key, kind) for kind in kinds]  # type: ignore[arg-type]
        self._subscriptions = [
            await self._broker.client.listen(subject, self._received)
            for subject in self._live_subjects
        ]

    async def _look_back(self) -> None:
        """Read which sessions were open when reading began. A later closing event, known from here,
        would end the conversation before the events ahead of it were read."""
        reader = self._reader_of("status", "start", waits=False)
        try:
            await reader.begin()
            while reader.pending:
                message = await reader.next(_WAIT_S)
                if message is not None and message.position.sequence >= self._reader.first:
                    break
                if message is not None:
                    self._decode(message)
        finally:
            await self._end(reader)

    async def stop(self) -> None:
        """Leave nothing on the server, unless the broker is away. Idempotent."""
        self._broker.on_refusal.discard(self._refused)
        subscriptions, self._subscriptions = self._subscriptions, []
        with contextlib.suppress(NatsError, TimeoutError):
            for subscription in subscriptions:
                await subscription.end()
        await self._end(self._reader)

    # ---- what arrives ----------------------------------------------------------------------------

    def _received(self, subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        self._live.received(subject, reply, headers, data)
        self._reader.poke()

    def _refused(self, refusal: NotAllowed) -> bool | None:
        """Keep a refusal of the live subject."""
        if refusal.publishes or refusal.subject not in self._live_subjects:
            return None
        self._refusal = refusal
        self._reader.poke()
        self._live.poke()
        return True

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _decode(self, message: StoredMessage) -> AnyEvent | None:
        """Return the event of a message that was read from the stream, or None."""
        try:
            event = decode_event(message.data, message.position, message.subject)
        except BadEvent as error:
            log.warning("%s: %s", message.subject.decode(), error)
            return None
        if isinstance(event, InterimEvent):
            return None
        if self._interims is not None:
            self._interims.read(event)
        if self._sessions is not None:
            self._sessions.read(event, message.position.stored_ns / 1e9)
        if self._kinds is not None and message.kind not in self._kinds:
            return None
        return event

    async def _stored_events(self) -> AsyncGenerator[AnyEvent | Marker, None]:
        reader, behind = self._reader, True
        while True:
            if reader.renewals != self._renewals:
                self._renewals, behind = reader.renewals, True
            if self._left is None and self._until == "stored" and reader.settled:
                self._left = reader.pending
            while self._markers:
                yield self._markers.popleft()
            caught_up = reader.settled and (not reader.pending or self._left == 0)
            if behind and caught_up:
                behind = False
                yield CaughtUp(str(reader.position) if reader.position else None)
            if caught_up and self._until is not None and self._ended():
                return
            if self._interims and not behind and not reader.waiting:
                # Let the connection be read first: a final may be there that makes them stale.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if not reader.waiting and (interim := self._interims.next()) is not None:
                    yield interim
                    continue
            message = await reader.next(self._patience())
            if message is None:
                self._raise_refusal()
                continue
            event = self._decode(message)
            while self._markers:
                yield self._markers.popleft()
            if event is not None:
                yield event
            if self._left is not None:
                self._left -= 1

    def _ended(self) -> bool:
        return self._sessions is None or self._sessions.ended(self._now())

    def _now(self) -> float:
        """The server's clock, in seconds since the epoch: the one of this machine may be wrong."""
        return self._clock + time.monotonic()

    def _patience(self) -> float:
        wait = None if self._sessions is None else self._sessions.wait(self._now())
        return _WAIT_S if wait is None else max(0.0, wait)

    async def _live_events(self) -> AsyncGenerator[AnyEvent | Marker, None]:
        log.info("this user may not read stored events: listening to live ones only")
        while True:
            self._raise_refusal()
            if not self._live.waiting and self._interims:
                interim = self._interims.next()
                if interim is not None:
                    yield interim
                    continue
            event = await self._live.next()
            if event is not None:
                yield event


async def _nothing() -> AsyncGenerator[AnyEvent | Marker, None]:
    no_events: tuple[AnyEvent, ...] = ()
    for event in no_events:
        yield event


_Time = datetime | timedelta | str


@overload
def listen(
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    kinds: Collection[str] | None = None,
    since: _Time | None = None,
    until: Until | None = None,
    interims: Interims | None = "latest",
    markers: Literal[False] = False,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncGenerator[AnyEvent, None]: ...


@overload
def listen(
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    kinds: Collection[str] | None = None,
    since: _Time | None = None,
    until: Until | None = None,
    interims: Interims | None = "latest",
    markers: Literal[True],
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncGenerator[AnyEvent | Marker, None]: ...


def listen(
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    kinds: Collection[str] | None = None,
    since: _Time | None = None,
    until: Until | None = None,
    interims: Interims | None = "latest",
    markers: bool = False,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncGenerator[AnyEvent | Marker, None]:
    """Iterate over events of a tenant, a conversation or a speaker as they arrive.

    None matches any tenant, conversation or speaker. No durable event is missed or repeated, even
    if the connection is lost or the broker restarts. Durable events of one session arrive in order
    of `sequence`. Waits for the broker, and for a stream that no worker has created yet.

    `since` says where reading begins: the `position` of an event, after which it continues; a time
    with its time zone; a duration, back from now; `"start"`, with everything that is stored; None,
    with events that are stored from now on. `until="stored"` ends when everything has been read
    that was stored when reading began; `until="closed"` when all sessions of a conversation have
    closed that have begun.

    `kinds` are the kinds of event that are wanted: `interim`, `final`, `turn`, `status`, `usage`;
    None for all, those of later releases included. `interims`: of each segment the `"latest"`
    interim that has not been read yet, `"all"` of them, or None. An interim never comes after the
    final of its segment, or after the closing event of its session. An event that this release
    does not know is an `UnknownEvent`.

    With `markers`, a `CaughtUp` comes when everything that is stored has been read, a `HistoryLost`
    if events have expired unread, and a `StreamReplaced` if the broker comes back with a stream
    that was recreated or restored from a backup: events that were stored after the last one
    continue, and a session that was open may repeat events that are not in the backup. Without
    `markers`, these are logged.

    Uses `broker` or else makes a connection from `settings` or the environment (NATS_URL ...),
    which it retries until it succeeds. When the iteration ends or is canceled, nothing of it is
    left on the broker.

    Raises: InvalidKey and UsageError, at once; NotAllowed if the user lacks a right.
    """
    options = {
        "kinds": checked_kinds(kinds),
        "since": checked_since(since),
        "until": checked_until(until, conversation),
        "interims": checked_interims(interims, kinds),
    }
    transcript_filter(tenant, conversation, speaker)
    return _listen((tenant, conversation, speaker), options, markers, broker, settings)


async def _listen(
    key: tuple[str | None, str | None, str | None],
    options: Mapping[str, object],
    markers: bool,
    broker: Broker | None,
    settings: BrokerSettings | None,
) -> AsyncGenerator[AnyEvent | Marker, None]:
    async with connected_by(broker, settings, "natterjack-listen") as connection:
        listener = Listener(connection, key, **options)  # type: ignore[arg-type]  # checked
        try:
            async with contextlib.aclosing(await listener.start()) as source:
                async for event in source:
                    if markers or not isinstance(event, Marker):
                        yield event
        finally:
            await listener.stop()
