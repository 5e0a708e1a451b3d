"""listen(): transcript events for downstream services, each durable one exactly once.

Durable events are read from the stream, never from the live subject: a worker that has lost its
lease may still publish to the subject, but the stream refuses it. Interims, which no stream
keeps, come from the live subject and are dropped when they are behind what was already final.
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
"""Interims waiting to be read; beyond it the oldest go, since newer ones restate them."""
_CONSUMER_LIFE_S = 30.0
_ROUNDING = timedelta(milliseconds=1)
"""What a time of storage may have lost on its way through floating point."""


class _Seen(NamedTuple):
    session_id: str
    epoch: int
    segment: int
    """Of the last final; -1 before the first."""


class _Place(NamedTuple):
    """A message of the stream. A sequence alone is none: a stream that was lost or restored counts
    anew."""

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
        """Without `from_start`: of the stream, when listening began."""
        self._began: datetime | None = None
        """By the server's clock."""
        self._last: _Place | None = None
        """Of the last durable event that was looked at."""
        self._since: datetime | None = None
        """The stream is another than it was: what was stored up to then is not given out."""
        self._checking = False
        """The consumer's first message is to be the last one of before."""
        self._complained = False
        self._consumer_next = 1
        self._fresh = False
        self._interims: deque[Msg] = deque(maxlen=_MAX_INTERIMS)
        self._seen: dict[SessionKey, _Seen] = {}

    def _reconnected(self) -> None:
        self._fresh = False  # what the server sent into the dead connection is lost
        if self._puller is not None:
            self._puller.poke()

    async def _received_interim(self, message: Msg) -> None:
        self._interims.append(message)
        if self._puller is not None:
            self._puller.poke()

    async def _renew(self) -> None:
        """A new ephemeral consumer that goes on after the last event given out."""
        puller, self._puller = self._puller, None
        if puller is not None:
            await puller.stop()
        self._fresh, self._checking = True, False  # a reconnect from here on needs another
        if self._began is None:
            if self._from_start:
                info = await self._consume(DeliverPolicy.ALL)
            else:
                info = await self._consume(DeliverPolicy.NEW)
                self._newest = _before(info)
            self._began = info.created
        elif self._since is not None:
            info = await self._consume(
                DeliverPolicy.BY_START_TIME, opt_start_time=self._since - _ROUNDING
            )
        elif self._last is not None:
            # That one itself first, to see that it is still there: it is not given out again.
            self._checking = True
            info = await self._consume(
                DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._last.sequence
            )
            if not info.num_pending:
                self._is_another(self._last.stored_at)
                return
        elif self._from_start:
            info = await self._consume(DeliverPolicy.ALL)
        else:
            if _before(await self._consume(DeliverPolicy.NEW)) < self._newest:
                self._is_another(self._began)
                return
            info = await self._consume(
                DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._newest + 1
            )
        self._consumer_next = 1
        self._puller = Puller(self._broker, streams.TRANSCRIPTS, info.name)
        await self._puller.start()
        self._complained = False

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

    def _is_another(self, since: datetime) -> None:
        """The stream was made anew or restored from a backup, or what was read last was erased or
        is too old: sequences say nothing any more."""
        log.warning(
            "what was read last of %s is not there any more: going on with what came after %s",
            streams.TRANSCRIPTS,
            since.isoformat(timespec="milliseconds"),
        )
        self._since, self._fresh = since, False
        self._seen.clear()

    def _admit_durable(self, message: Msg) -> Event | None:
        metadata = message.metadata
        if metadata.sequence.consumer != self._consumer_next:
            self._fresh = False  # messages were lost on the way here; read them again
            return None
        self._consumer_next += 1
        place = _Place(metadata.sequence.stream, metadata.timestamp)
        if self._checking:
            assert self._last is not None
            self._checking = False
            if place != self._last:
                self._is_another(self._last.stored_at)
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
        seen = self._seen.get(event.key)
        segment = seen.segment if seen and seen.session_id == event.session_id else -1
        if isinstance(event, FinalEvent):
            segment = event.segment
        self._seen[event.key] = _Seen(event.session_id, event.epoch, segment)
        if isinstance(event, StatusEvent) and event.closing:
            del self._seen[event.key]
        return event

    def _admit_interim(self, message: Msg) -> Event | None:
        try:
            event = parse_event(message.data)
        except BadEvent as error:
            log.warning("%s: %s", message.subject, error)
            return None
        if not isinstance(event, InterimEvent):
            return None
        seen = self._seen.get(event.key)
        if (
            seen is not None
            and seen.session_id == event.session_id
            and (event.epoch < seen.epoch or event.segment <= seen.segment)
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
                if not self._fresh:
                    try:
                        async with self._broker.asking():
                            await self._renew()
                    except (NatsError, TimeoutError) as error:
                        self._fresh = False
                        if self._began is None and isinstance(error, NotFoundError):
                            raise StreamMismatch(
                                f"stream {streams.TRANSCRIPTS} is missing: start a worker, which "
                                "makes it"
                            ) from None
                        if not self._complained:
                            self._complained = True
                            log.warning("cannot read %s yet: %r", streams.TRANSCRIPTS, error)
                        await self._broker.wait_connected()
                    continue
                assert self._puller is not None
                try:
                    message = await self._puller.next(_BATCH, timeout=60)
                except ConsumerGone:
                    self._fresh = False
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


def _before(info: ConsumerInfo) -> int:
    """The stream's sequence that a new consumer begins behind."""
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
    """Events of a tenant, a conversation or a speaker (None: of all), as they come, for good.

    With `from_start` the stored durable events come first, then the live ones, without hole or
    double, across reconnects and restarts of the broker too. Durable events of one session come in
    order of `sequence`. Without a `broker` a connection is made from `settings`, or from the
    environment (NATS_URL ...), and kept trying.

    A broker that comes back with another stream (made anew, or restored from a backup) is noticed,
    and said in the log: what was stored after the last event is given. A session that was under way
    then may say anew what had been heard of it and is not in the backup.

    Raises: InvalidKey, UsageError, StreamMismatch (no worker has made the streams yet).
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
