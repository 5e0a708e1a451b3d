"""listen(): transcript events for downstream services, each durable event exactly once.

Durable events are read from the stream and not from the live subject: a worker that has lost its
lease can still publish to the subject, but the stream refuses its events. Interims are not stored,
so they come from the live subject. They are dropped if a final of their segment has been read.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connect
from natterjack.broker.pull import ConsumerGone, Puller
from natterjack.errors import BadEvent, StreamMismatch
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, parse_event
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import SessionKey, transcript_filter

log = logging.getLogger(__name__)

_BATCH = 256
_MAX_INTERIMS = 1024
"""Buffered interims. When the buffer is full, the oldest are dropped: newer ones replace them."""
_CONSUMER_LIFE_S = 30.0
_ROUNDING = timedelta(milliseconds=1)
"""Upper bound of the rounding error of a storage time."""


class _Progress(NamedTuple):
    """How far a session has been read."""

    session_id: str
    epoch: int
    segment: int
    """Segment of the last final; -1 before the first final."""


class _Place(NamedTuple):
    """Identifies a message of the stream.

    The sequence is not enough, because a stream that was lost or restored reuses sequences.
    """

    sequence: int
    stored_at: datetime


class _Listener:
    def __init__(self, broker: Broker, subject: str, from_start: bool, interims: bool) -> None:
        self._broker = broker
        self._subject = subject
        self._from_start = from_start
        self._want_interims = interims
        self._puller: Puller | None = None
        self._newest = 0
        """Without `from_start`: last sequence of the stream when listening began."""
        self._began: datetime | None = None
        """When listening began, by the server's clock."""
        self._last: _Place | None = None
        """The last durable event that was read."""
        self._since: datetime | None = None
        """Set when the stream was replaced: events stored up to this time are skipped."""
        self._checking = False
        """Set while the consumer's first message must equal `_last`."""
        self._warned = False
        self._consumer_next = 1
        """The consumer's next sequence; another one means that messages were lost."""
        self._current = False
        """False when the consumer has to be replaced."""
        self._interims: deque[Msg] = deque(maxlen=_MAX_INTERIMS)
        self._progress: dict[SessionKey, _Progress] = {}

    def _reconnected(self) -> None:
        self._current = False  # messages sent to the lost connection are gone
        if self._puller is not None:
            self._puller.poke()

    async def _received_interim(self, message: Msg) -> None:
        self._interims.append(message)
        if self._puller is not None:
            self._puller.poke()

    async def _renew(self) -> None:
        """Make a new ephemeral consumer that continues after the last event."""
        puller, self._puller = self._puller, None
        if puller is not None:
            await puller.stop()
        self._current, self._checking = True, False  # a reconnect resets _current
        if self._began is None:
            if self._from_start:
                info = await self._consume(DeliverPolicy.ALL)
            else:
                info = await self._consume(DeliverPolicy.NEW)
                self._newest = _last_sequence(info)
            self._began = info.created
        elif self._since is not None:
            info = await self._consume(
                DeliverPolicy.BY_START_TIME, opt_start_time=self._since - _ROUNDING
            )
        elif self._last is not None:
            # Read the last event again, without yielding it, to verify that it is still there.
            self._checking = True
            info = await self._consume(
                DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._last.sequence
            )
            if not info.num_pending:
                self._restart_after(self._last.stored_at)
                return
        elif self._from_start:
            info = await self._consume(DeliverPolicy.ALL)
        else:
            if _last_sequence(await self._consume(DeliverPolicy.NEW)) < self._newest:
                self._restart_after(self._began)
                return
            info = await self._consume(
                DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._newest + 1
            )
        self._consumer_next = 1
        self._puller = Puller(self._broker, streams.TRANSCRIPTS, info.name)
        await self._puller.start()
        self._warned = False

    async def _consume(self, policy: DeliverPolicy, **start: Any) -> ConsumerInfo:
        config = ConsumerConfig(
            name=f"listen_{secrets.token_hex(8)}",
            ack_policy=AckPolicy.NONE,
            deliver_policy=policy,
            filter_subject=self._subject,
            inactive_threshold=_CONSUMER_LIFE_S,
            mem_storage=True,
            num_replicas=1,
            **start,
        )
        return await self._broker.client.jetstream().add_consumer(streams.TRANSCRIPTS, config)

    def _restart_after(self, since: datetime) -> None:
        """Continue by time, because the last event that was read is not in the stream.

        The stream was recreated or restored from a backup, so that sequences have a new meaning; or
        the event was erased or has expired.
        """
        log.warning(
            "the last event read from %s is no longer there: continuing with events after %s",
            streams.TRANSCRIPTS,
            since.isoformat(timespec="milliseconds"),
        )
        self._since, self._current = since, False
        self._progress.clear()

    def _admit_durable(self, message: Msg) -> Event | None:
        metadata = message.metadata
        if metadata.sequence.consumer != self._consumer_next:
            self._current = False  # messages were lost on the way: read them again
            return None
        self._consumer_next += 1
        place = _Place(metadata.sequence.stream, metadata.timestamp)
        if self._checking:
            assert self._last is not None
            self._checking = False
            if place != self._last:
                self._restart_after(self._last.stored_at)
            return None
        if self._since is not None:
            if place.stored_at <= self._since:
                return None
            self._since = None
        self._last = place
        try:
            event = parse_event(message.data)
        except BadEvent as error:
            log.warning("%s: %s", message.subject, error)
            return None
        if isinstance(event, InterimEvent):
            return None
        progress = self._progress.get(event.key)
        segment = progress.segment if progress and progress.session_id == event.session_id else -1
        if isinstance(event, FinalEvent):
            segment = event.segment
        self._progress[event.key] = _Progress(event.session_id, event.epoch, segment)
        if isinstance(event, StatusEvent) and event.closing:
            del self._progress[event.key]
        return event

    def _admit_interim(self, message: Msg) -> Event | None:
        try:
            event = parse_event(message.data)
        except BadEvent as error:
            log.warning("%s: %s", message.subject, error)
            return None
        if not isinstance(event, InterimEvent):
            return None
        progress = self._progress.get(event.key)
        if (
            progress is not None
            and progress.session_id == event.session_id
            and (event.epoch < progress.epoch or event.segment <= progress.segment)
        ):
            return None
        return event

    async def events(self) -> AsyncGenerator[Event, None]:
        client = self._broker.client
        live = None
        self._broker.on_reconnect.add(self._reconnected)
        try:
            if self._want_interims:
                live = await client.subscribe(
                    self._subject[: self._subject.rindex(".")] + ".interim",
                    cb=self._received_interim,
                )
            while True:
                if not self._current:
                    try:
                        async with self._broker.within_connection():
                            await self._renew()
                    except (NatsError, TimeoutError) as error:
                        self._current = False
                        if self._began is None and isinstance(error, NotFoundError):
                            raise StreamMismatch(
                                f"stream {streams.TRANSCRIPTS} is missing: start a worker, which "
                                "creates it"
                            ) from None
                        if not self._warned:
                            self._warned = True
                            log.warning("cannot read %s yet: %r", streams.TRANSCRIPTS, error)
                        await self._broker.wait_connected()
                    continue
                assert self._puller is not None
                try:
                    message = await self._puller.next(_BATCH, timeout=60)
                except ConsumerGone:
                    self._current = False
                    continue
                if message is not None:
                    event = self._admit_durable(message)
                    if event is not None:
                        yield event
                while self._interims and not self._puller.waiting:
                    event = self._admit_interim(self._interims.popleft())
                    if event is not None:
                        yield event
        finally:
            self._broker.on_reconnect.discard(self._reconnected)
            with contextlib.suppress(NatsError, TimeoutError):
                if live is not None:
                    await live.unsubscribe()
                if self._puller is not None:
                    await self._puller.stop()


def _last_sequence(info: ConsumerInfo) -> int:
    """The stream sequence after which a new consumer starts."""
    return info.delivered.stream_seq or 0 if info.delivered is not None else 0


async def listen(
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    from_start: bool = False,
    interims: bool = True,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncIterator[Event]:
    """Iterate over events of a tenant, a conversation or a speaker as they arrive, without end.

    None matches any tenant, conversation or speaker. With `from_start`, stored durable events come
    first, then live ones. None is missed or repeated, even if the connection is lost or the broker
    restarts. Durable events of one session arrive in order of `sequence`.

    Uses `broker` or else makes a connection from `settings` or the environment (NATS_URL ...),
    which it retries until it succeeds.

    If the broker comes back with a different stream, recreated or restored from a backup, a warning
    is logged and events stored after the last one continue. A session that was open at that time
    may then repeat events that are not in the backup.

    Raises: InvalidKey; UsageError; StreamMismatch if no worker has created the streams yet.
    """
    subject = transcript_filter(tenant, conversation, speaker)
    own = None
    if broker is None:
        own = broker = await connect(settings or load(BrokerSettings), name="natterjack-listen")
    try:
        source = _Listener(broker, subject, from_start, interims).events()
        async with contextlib.aclosing(source):
            async for event in source:
                yield event
    finally:
        if own is not None:
            await own.close()
