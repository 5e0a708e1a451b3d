"""Publishing a session's events: durable ones fenced, numbered without holes, and once each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple

from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.events import Durable, FinalEvent, StatusEvent, TurnEvent, parse_durable
from natterjack.subjects import (
    DURABLE_KINDS,
    TRANSCRIPT_PREFIX,
    EventKind,
    SessionKey,
    transcript_subject,
)
from natterjack.telemetry.log import fields
from worker.errors import LeaseLost

log = logging.getLogger(__name__)

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
_MSG_ID = "Nats-Msg-Id"
_WRONG_LAST_SEQUENCE = 10071
_TIMEOUT_S = 3.0


class _Last(NamedTuple):
    stream_sequence: int
    msg_id: str
    event: Durable | None


class _Event(NamedTuple):
    """A durable event, ready to be sent."""

    kind: EventKind
    sequence: int
    msg_id: str
    payload: bytes


class Publisher:
    """Events of one session, published by the worker that holds its lease.

    Every durable event names the last one of the session that its publisher knows, and the broker
    refuses it when there is a later one: so of two workers that believe they hold the lease, one
    gets through. Core subscribers see a refused event all the same; listen() reads the stream.
    """

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        key: SessionKey,
        session_id: str,
        epoch: int,
        holder: str,
    ) -> None:
        """`holder` tells its events from those of any other holder, of the same epoch even."""
        self._broker = broker
        self._js = js
        self._key = key
        self._session_id = session_id
        self._epoch = epoch
        self._msg_id_prefix = f"{session_id}:{epoch}:{holder}:"
        self._filter = f"{TRANSCRIPT_PREFIX}.{key}.>"
        self._interim_subject = transcript_subject(key, "interim")
        self._subjects = {kind: transcript_subject(key, kind) for kind in DURABLE_KINDS}
        self._lock = asyncio.Lock()
        self._last_stream_sequence = 0
        self._next_sequence = 0
        self.fenced = False
        """A durable event of ours was refused: another worker publishes for this session."""

    async def _last(self, subject: str) -> _Last | None:
        """The newest stored event on `subject`, as the stream's leader knows it."""
        while True:
            try:
                async with self._broker.asking():
                    found = await self._js.get_last_msg(streams.TRANSCRIPTS, subject)
            except NotFoundError:
                return None
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
                continue
            event = parse_durable(found.data or b"")
            return _Last(found.seq or 0, (found.headers or {}).get(_MSG_ID, ""), event)

    async def resume(self) -> None:
        """Take up the numbering where it stands. To be called after `establish`.

        Raises LeaseLost when somebody else has published since: to number our events behind theirs
        would be to climb over the fence.
        """
        async with self._lock:
            known = self._last_stream_sequence
            last = await self._last(self._filter)
            self._number_after(last)
            ours = last is not None and last.msg_id.startswith(self._msg_id_prefix)
            if self._last_stream_sequence != known and not ours:
                self.fenced = True
                raise LeaseLost("another worker has published for this session")

    def _number_after(self, last: _Last | None) -> Durable | None:
        """Number the next event behind `last`; that event, if it is of *this* session."""
        self._last_stream_sequence = last.stream_sequence if last else 0
        event = last.event if last else None
        if event is None or event.session_id != self._session_id:
            self._next_sequence = 0
            return None
        self._next_sequence = event.sequence + 1
        return event

    async def last_final(self) -> FinalEvent | None:
        """The newest final of this session."""
        last = await self._last(transcript_subject(self._key, "final"))
        event = last.event if last else None
        return event if isinstance(event, FinalEvent) and self._ours(event) else None

    async def last_turn(self) -> TurnEvent | None:
        """The newest turn event of this session."""
        last = await self._last(transcript_subject(self._key, "turn"))
        event = last.event if last else None
        return event if isinstance(event, TurnEvent) and self._ours(event) else None

    def _ours(self, event: Durable) -> bool:
        return event.session_id == self._session_id

    async def establish(self, make: Callable[[int], bytes]) -> Durable | None:
        """Publish the first event of our epoch, after which no older holder gets through.

        An older holder may have published since we looked: then look again. Returns the last
        durable event before ours; publishes nothing when that one closes the session.
        """
        while True:
            async with self._lock:
                before = self._number_after(await self._last(self._filter))
            if isinstance(before, StatusEvent) and before.closing:
                return before
            if before is not None and before.epoch > self._epoch:
                raise LeaseLost(f"epoch {before.epoch} has published, ours is {self._epoch}")
            try:
                await self.durable("status", make)
            except LeaseLost:
                log.info("an older holder still publishes", extra=fields(session=str(self._key)))
                self.fenced = False
                continue
            return before

    async def durable(self, kind: EventKind, make: Callable[[int], bytes]) -> None:
        """Publish the event whose JSON `make` makes of its `sequence`; return when it is stored.

        Tries on while the broker is away. Raises LeaseLost when it is refused. A publish that has
        begun goes on when its caller is cancelled, and `resume` waits for it: else an event that
        is on its way would be missed, and its words would be said again.
        """
        await self._lock.acquire()
        try:
            if self.fenced:
                raise LeaseLost("another worker publishes for this session")
            sequence = self._next_sequence
            # With its kind: the server must not take one event for another's double.
            msg_id = f"{self._msg_id_prefix}{sequence}:{kind}"
            event = _Event(kind, sequence, msg_id, make(sequence))
            acknowledged = await self._post(event)
        except BaseException:  # whatever it is, cancelled too: nobody else lets go of the lock
            self._lock.release()
            raise
        try:
            stored = await asyncio.shield(acknowledged)
        except BaseException as error:  # an error, or cancelled
            # Who was cancelled goes; what is wrong is looked after by a task of its own. It has the
            # lock from here on.
            settling = asyncio.create_task(
                self._settle(event, acknowledged), name=f"publish {self._key}"
            )
            settling.add_done_callback(_note)
            if isinstance(error, asyncio.CancelledError):
                raise
            await asyncio.shield(settling)
        else:
            self._last_stream_sequence, self._next_sequence = stored, sequence + 1
            self._lock.release()

    async def _post(self, event: _Event) -> asyncio.Future[int]:
        headers = {
            _EXPECTED: str(self._last_stream_sequence),
            _EXPECTED_SUBJECT: self._filter,
            _MSG_ID: event.msg_id,
        }
        subject = self._subjects[event.kind]
        return await self._broker.acks.publish(subject, event.payload, headers, _TIMEOUT_S)

    async def _settle(self, event: _Event, acknowledged: asyncio.Future[int]) -> None:
        """Have an event stored that is on its way, and release the lock."""
        try:
            stored = await self._store(event, acknowledged)
            self._last_stream_sequence, self._next_sequence = stored, event.sequence + 1
        finally:
            self._lock.release()

    async def _store(self, event: _Event, acknowledged: asyncio.Future[int]) -> int:
        """Stream sequence of the stored event; again and again until it is."""
        complained = False
        while True:
            try:
                return await acknowledged
            except APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    # Perhaps by our own first try, whose acknowledgement was lost.
                    last = await self._last(self._filter)
                    if last is not None and last.msg_id == event.msg_id:
                        return last.stream_sequence
                    self.fenced = True
                    raise LeaseLost("another worker has published for this session") from None
                reason = error.description or repr(error)
            except MaxPayloadError:
                raise
            except (NatsError, TimeoutError) as error:
                reason = repr(error)
            if not complained:
                complained = True
                log.warning(
                    "event not stored yet: %s", reason, extra=fields(session=str(self._key))
                )
            await self._broker.wait_connected()
            acknowledged = await self._post(event)

    async def interim(self, event: bytes) -> None:
        """Publish an interim, or drop it while the broker is away: the next one restates it."""
        if self._broker.connected and not self.fenced:
            with contextlib.suppress(NatsError):
                self._broker.client.post(self._interim_subject, event)


def _note(task: asyncio.Task[None]) -> None:
    """See a task's error, whether or not its caller still waits for it."""
    if not task.cancelled():
        task.exception()
