"""What the worker says about a session, for people to see and for `--wait`."""

from __future__ import annotations

import asyncio
import logging

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker
from natterjack.broker.streams import TRANSCRIPTS
from natterjack.control import is_stop
from natterjack.errors import BadEvent
from natterjack.events import StatusEvent, parse_event
from natterjack.spec import SessionSpec
from natterjack.subjects import transcript_subject
from natterjack.telemetry.log import fields

log = logging.getLogger(__name__)

WAITING = "waiting for a worker"
_LOOK_S = 5.0
_STOP_LOOKS_S = (0.5, 1.0, 2.0, 4.0)


class SessionStatus:
    """The session's state as its workers report it."""

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._subject = transcript_subject(spec.key, "status")
        self._last: StatusEvent | None = None
        self._broker: Broker | None = None
        self.closing = asyncio.Event()
        """Set when the session has ended at the worker."""
        self._missed = asyncio.Event()
        """Set when events may have gone unheard; and with `closing`."""

    @property
    def state(self) -> str:
        """A StatusState, or WAITING."""
        return self._last.state if self._last else WAITING

    @property
    def worker(self) -> str | None:
        return self._last.worker if self._last else None

    @property
    def reason(self) -> str | None:
        return self._last.reason if self._last else None

    async def subscribe(self, broker: Broker) -> None:
        """Follow the live events. They may be missed while the connection is down."""
        if self._broker is not None:
            self._missed.set()
        self._broker = broker
        broker.on_reconnect.add(self._missed.set)
        await broker.client.subscribe(self._subject, cb=self._received)

    async def wait_closing(self) -> None:
        """Return when the session has ended, also if the event for it was missed. Cancel-safe."""
        while not self.closing.is_set():
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self.closing.wait()
            except TimeoutError:
                await self.look()

    async def wait_stopped(self) -> None:
        """Return when a request (`stop`) has ended the session, also if the event for it was
        missed. Cancel-safe.

        A worker that has lost the session without knowing may say that, too; so the stream, which
        refuses it, is asked. Who may not read the stream does not learn it.
        """
        while True:
            await self._missed.wait()
            self._missed.clear()
            for wait_s in _STOP_LOOKS_S:
                if self.closing.is_set() and not is_stop(self.reason):
                    break
                event = await self._stored()
                if event is not None:
                    self._take(event)
                    if event.closing and is_stop(event.reason):
                        return
                    if not self.closing.is_set():
                        break
                await asyncio.sleep(wait_s)  # a replica may be behind, the stream away

    async def look(self) -> None:
        """Read the last stored event. A user who may not read the stream has the live ones."""
        event = await self._stored()
        if event is not None:
            self._take(event)

    async def _stored(self) -> StatusEvent | None:
        if self._broker is None:
            return None
        try:
            message = await self._broker.client.jetstream().get_last_msg(
                TRANSCRIPTS, self._subject, direct=True
            )
        except (NatsError, TimeoutError):
            return None
        return self._parsed(message.data or b"")

    async def _received(self, message: Msg) -> None:
        event = self._parsed(message.data)
        if event is not None:
            self._take(event)

    def _parsed(self, payload: bytes) -> StatusEvent | None:
        """An event of this session, or None."""
        try:
            event = parse_event(payload)
        except BadEvent as error:
            log.warning("%s: %s", self._subject, error)
            return None
        if not isinstance(event, StatusEvent) or event.session_id != self._spec.session_id:
            return None
        return event

    def _take(self, event: StatusEvent) -> None:
        # A worker that lost the session without knowing may still speak; and after a look at the
        # stream the same event may come live.
        last = self._last
        if last and (event.epoch, event.sequence) <= (last.epoch, last.sequence):
            return
        self._last = event
        if event.closing:
            self.closing.set()
            self._missed.set()
        log.log(
            logging.WARNING if event.state in ("recovering", "failed") else logging.INFO,
            "session %s",
            event.state,
            extra=fields(
                session=str(self._spec.key),
                worker=event.worker,
                **({"reason": event.reason} if event.reason else {}),
            ),
        )
