"""The state of a session as its worker reports it, for people to see and for `--wait`."""

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
_REFRESH_S = 5.0
_STOP_RETRIES_S = (0.5, 1.0, 2.0, 4.0)


class SessionStatus:
    """Follows the status events of one session.

    A user without the right to read the transcripts' stream sees live events only.
    """

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._subject = transcript_subject(spec.key, "status")
        self._last: StatusEvent | None = None
        self._broker: Broker | None = None
        self.closing = asyncio.Event()
        """Set when the worker has ended the session."""
        self._check_stream = asyncio.Event()
        """Set when events may have been missed, and together with `closing`."""

    @property
    def state(self) -> str:
        """A StatusState, or WAITING before the first event."""
        return self._last.state if self._last else WAITING

    @property
    def worker(self) -> str | None:
        """Name of the worker that sent the last event."""
        return self._last.worker if self._last else None

    @property
    def reason(self) -> str | None:
        """Reason given in the last event."""
        return self._last.reason if self._last else None

    async def subscribe(self, broker: Broker) -> None:
        """Follow live events. Events sent while the connection is down are missed."""
        if self._broker is not None:
            self._check_stream.set()
        self._broker = broker
        broker.on_reconnect.add(self._check_stream.set)
        await broker.client.subscribe(self._subject, cb=self._on_message)

    async def wait_closing(self) -> None:
        """Return when the session has ended, even if its closing event was missed. Cancel-safe."""
        while not self.closing.is_set():
            try:
                async with asyncio.timeout(_REFRESH_S):
                    await self.closing.wait()
            except TimeoutError:
                await self.refresh()

    async def wait_stopped(self) -> None:
        """Return when a `stop` request has ended the session, even if its event was missed.

        A worker that has lost its lease unknowingly may still report this. The stream refuses that
        worker's events, so only what the stream has counts. Cancel-safe.
        """
        while True:
            await self._check_stream.wait()
            self._check_stream.clear()
            for wait_s in _STOP_RETRIES_S:
                if self.closing.is_set() and not is_stop(self.reason):
                    break
                event = await self._stored()
                if event is not None:
                    self._apply(event)
                    if event.closing and is_stop(event.reason):
                        return
                    if not self.closing.is_set():
                        break
                await asyncio.sleep(wait_s)  # a replica may lag, or the stream be unavailable

    async def refresh(self) -> None:
        """Apply the last event that the stream has."""
        event = await self._stored()
        if event is not None:
            self._apply(event)

    async def _stored(self) -> StatusEvent | None:
        if self._broker is None:
            return None
        try:
            message = await self._broker.client.jetstream().get_last_msg(
                TRANSCRIPTS, self._subject, direct=True
            )
        except (NatsError, TimeoutError):
            return None
        return self._parse(message.data or b"")

    async def _on_message(self, message: Msg) -> None:
        self.received(message.data)

    def received(self, payload: bytes) -> None:
        """Apply a live event. Anything but a newer status event of this session is ignored."""
        event = self._parse(payload)
        if event is not None:
            self._apply(event)

    def _parse(self, payload: bytes) -> StatusEvent | None:
        """Return a status event of this session, or None for anything else."""
        try:
            event = parse_event(payload)
        except BadEvent as error:
            log.warning("%s: %s", self._subject, error)
            return None
        if not isinstance(event, StatusEvent) or event.session_id != self._spec.session_id:
            return None
        return event

    def _apply(self, event: StatusEvent) -> None:
        # A worker that has lost its lease unknowingly may still send events, and an event read from
        # the stream may also arrive live.
        last = self._last
        if last and (event.epoch, event.sequence) <= (last.epoch, last.sequence):
            return
        self._last = event
        if event.closing:
            self.closing.set()
            self._check_stream.set()
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
