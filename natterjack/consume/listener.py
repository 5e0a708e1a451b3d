"""listen(): transcript events for downstream services, each durable event exactly once.

Durable events are read from the stream and not from the live subject: a worker that has lost its
lease can still publish to the subject, but the stream refuses its events. Interims are not stored,
so they come from the live subject. They are dropped if a final of their segment has been read.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connect
from natterjack.errors import BadEvent
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, parse_event
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import SessionKey, transcript_filter

from .reader import DurableReader

log = logging.getLogger(__name__)

_MAX_INTERIMS = 1024
"""Buffered interims. When the buffer is full, the oldest are dropped: newer ones replace them."""
_WAIT_S = 60.0


class _Progress(NamedTuple):
    """How far a session has been read."""

    session_id: str
    epoch: int
    segment: int
    """Segment of the last final; -1 before the first final."""


class _Listener:
    def __init__(self, broker: Broker, subject: str, from_start: bool, interims: bool) -> None:
        self._broker = broker
        self._subject = subject
        self._want_interims = interims
        self._progress: dict[SessionKey, _Progress] = {}
        self._reader = DurableReader(
            broker, streams.TRANSCRIPTS, subject, from_start=from_start,
            cure="start a worker, which creates it", on_restart=self._progress.clear,
        )  # fmt: skip
        self._interims: deque[Msg] = deque(maxlen=_MAX_INTERIMS)

    async def _received_interim(self, message: Msg) -> None:
        self._interims.append(message)
        self._reader.poke()

    def _admit_durable(self, message: Msg) -> Event | None:
        """Return the event of a message that was read from the stream, or None."""
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
        live = None
        try:
            if self._want_interims:
                live = await self._broker.client.subscribe(
                    self._subject[: self._subject.rindex(".")] + ".interim",
                    cb=self._received_interim,
                )
            while True:
                message = await self._reader.next(_WAIT_S)
                if message is not None:
                    event = self._admit_durable(message)
                    if event is not None:
                        yield event
                while self._interims and not self._reader.waiting:
                    event = self._admit_interim(self._interims.popleft())
                    if event is not None:
                        yield event
        finally:
            with contextlib.suppress(NatsError, TimeoutError):
                if live is not None:
                    await live.unsubscribe()
                await self._reader.stop()


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
