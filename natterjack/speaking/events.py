"""Reading the events of voice sessions, each exactly once."""

from __future__ import annotations

import contextlib
import logging
from types import TracebackType
from typing import Self

from nats.errors import Error as NatsError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.consume.reader import DurableReader, Since
from natterjack.errors import BadEvent
from natterjack.position import Position
from natterjack.subjects import voice_event_filter
from natterjack.voice.events import VoiceEvent, parse_voice_event

log = logging.getLogger(__name__)

CURE = (
    "voice is not switched on: start a worker whose WORKER_KINDS has `speak` (the default), or run "
    "`natterjack streams apply` as a user that may create streams"
)
_WAIT_S = 60.0


class VoiceEvents:
    """The events of a tenant, a conversation or a speaker, as they arrive and without end.

    None is missed or repeated, even if the connection is lost or the broker restarts. `position`
    may be stored; reading `after` it continues behind the event that was returned last::

        async with VoiceEvents(broker, "acme", "call-7", after=stored) as events:
            async for event in events:
                ...
                stored = events.position
    """

    def __init__(
        self,
        broker: Broker,
        tenant: str | None = None,
        conversation: str | None = None,
        speaker: str | None = None,
        *,
        from_start: bool = False,
        after: str | None = None,
    ) -> None:
        """None matches any tenant, conversation or speaker. With `from_start`, stored events come
        first; else events count from entering the block. Raises: InvalidKey, UsageError."""
        since: Since = "start" if from_start else None
        if after:
            since = Position.parse(after)
        self._reader = DurableReader(
            broker,
            streams.VOICE_EVENTS,
            voice_event_filter(tenant, conversation, speaker),
            since=since,
            cure=CURE,
        )

    @property
    def position(self) -> str | None:
        """The position of the last event that was read; None before the first."""
        return str(self._reader.position) if self._reader.position else None

    async def __aenter__(self) -> Self:
        """Begin. Raises: StreamMissing."""
        try:
            await self._reader.begin()
        except BaseException:  # cancelled too
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        with contextlib.suppress(NatsError, TimeoutError):
            await self._reader.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> VoiceEvent:
        """Return the next event. Cancel-safe. Raises: StreamMissing."""
        while True:
            message = await self._reader.next(_WAIT_S)
            if message is None:
                continue
            try:
                return parse_voice_event(message.data)
            except BadEvent as error:
                log.warning("%s: %s", message.subject.decode(), error)
