"""Publishing the events of a session. Each durable event is fenced, numbered, and stored once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from natterjack.broker import streams
from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.broker.connection import Broker
from natterjack.broker.differences import overlap
from natterjack.broker.store_limits import explain_refused_message
from natterjack.events import Durable, StatusEvent, parse_durable
from natterjack.subjects import DURABLE_KINDS, TRANSCRIPT_PREFIX, SessionKey
from natterjack.telemetry.log import fields
from worker.errors import KindNotStored, LeaseLost

log = logging.getLogger(__name__)

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
_MSG_ID = "Nats-Msg-Id"
_WRONG_LAST_SEQUENCE = 10071
_TIMEOUT_S = 3.0


class Channel(NamedTuple):
    """Where the events of a session go."""

    stream: str
    """The stream that stores the durable ones."""
    prefix: str
    """Subjects are `<prefix>.<key>.<kind>`."""
    kinds: tuple[str, ...]
    """The kinds of durable event."""
    parse: Callable[[bytes], Durable | None]
    """Parses a stored event; None if it is not one."""


TRANSCRIPT = Channel(streams.TRANSCRIPTS, TRANSCRIPT_PREFIX, DURABLE_KINDS, parse_durable)


class _Stored(NamedTuple):
    stream_sequence: int
    msg_id: str
    event: Durable | None


class _Event(NamedTuple):
    """A durable event that is ready to be published."""

    kind: str
    sequence: int
    msg_id: str
    payload: bytes


class Publisher:
    """Publishes the events of one session for the worker that holds its lease.

    Every durable event names the last event that its publisher knows, and the broker refuses it if
    there is a later one. So only one of two workers that both believe they hold the lease can
    publish. Core subscribers still receive a refused event, so listen() reads the stream.
    """

    __slots__ = (
        "_broker", "_channel", "_epoch", "_filter", "_interim_subject", "_js", "_key",
        "_last_stream_sequence", "_lock", "_msg_id_prefix", "_next_sequence", "_oversized",
        "_session_id", "_subjects", "fenced",
    )  # fmt: skip

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        key: SessionKey,
        session_id: str,
        epoch: int,
        holder: str,
        channel: Channel = TRANSCRIPT,
    ) -> None:
        """`holder` distinguishes this publisher's events from those of all others, even of the same
        epoch."""
        self._broker = broker
        self._js = js
        self._key = key
        self._session_id = session_id
        self._epoch = epoch
        self._msg_id_prefix = f"{session_id}:{epoch}:{holder}:"
        self._channel = channel
        self._filter = f"{channel.prefix}.{key}.>"
        self._interim_subject = f"{channel.prefix}.{key}.interim"
        self._subjects = {kind: f"{channel.prefix}.{key}.{kind}" for kind in channel.kinds}
        self._lock = asyncio.Lock()
        self._last_stream_sequence = 0
        self._next_sequence = 0
        self._oversized = 0
        """The number of durable events that were too large for the broker."""
        self.fenced = False
        """Set when a durable event was refused: another worker publishes for this session."""

    async def _last(self, subject: str) -> _Stored | None:
        """The newest stored event on `subject`."""
        return await self._read(lambda: self._js.get_last_msg(self._channel.stream, subject))

    async def _read(self, get: Callable[[], Awaitable[RawStreamMsg]]) -> _Stored | None:
        """The event that `get` reads from the stream's leader. Waits while the broker is away."""
        while True:
            try:
                async with self._broker.within_connection():
                    found = await get()
            except NotFoundError:
                return None
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
                continue
            event = self._channel.parse(found.data or b"")
            return _Stored(found.seq or 0, (found.headers or {}).get(_MSG_ID, ""), event)

    async def resume(self) -> None:
        """Continue the numbering after the last stored event. Call it after `establish`.

        Raises LeaseLost if another worker has published since: numbering events after that
        worker's would get around the fence.
        """
        async with self._lock:
            known = self._last_stream_sequence
            last = await self._last(self._filter)
            self._number_after(last)
            ours = last is not None and last.msg_id.startswith(self._msg_id_prefix)
            if self._last_stream_sequence != known and not ours:
                self.fenced = True
                raise LeaseLost("another worker has published for this session")

    def _number_after(self, last: _Stored | None) -> Durable | None:
        """Number the next event after `last`. Return that event if it belongs to *this* session."""
        self._last_stream_sequence = last.stream_sequence if last else 0
        event = last.event if last else None
        if event is None or event.session_id != self._session_id:
            self._next_sequence = 0
            return None
        self._next_sequence = event.sequence + 1
        return event

    async def newest(self, kind: str, *, of_key: bool = False) -> Durable | None:
        """The newest event of one kind of this session, or of any session `of_key`."""
        last = await self._last(self._subjects[kind])
        event = last.event if last else None
        mine = event is not None and (of_key or event.session_id == self._session_id)
        return event if mine else None

    async def end_of(self, session_id: str) -> StatusEvent | None:
        """The closing event of an earlier session of the key; None if the stream has none."""
        subject, sequence = self._subjects["status"], 1

        def get() -> Awaitable[RawStreamMsg]:
            stream = self._channel.stream
            return self._js.get_msg(stream, seq=sequence, subject=subject, next=True)

        while (found := await self._read(get)) is not None:
            event = found.event
            if isinstance(event, StatusEvent) and event.closing and event.session_id == session_id:
                return event
            sequence = found.stream_sequence + 1
        return None

    async def look(self) -> Durable | None:
        """Number the next event after the last stored one. Return that one if it belongs to *this*
        session."""
        async with self._lock:
            return self._number_after(await self._last(self._filter))

    async def establish(
        self,
        before: Durable | None,
        make: Callable[[int], bytes],
        confirm: Callable[[], Awaitable[None]],
    ) -> Durable | None:
        """Publish the first event of this epoch; after it, older holders cannot publish.

        `before` is what `look` returned before the lease was known to be this worker's. If another
        event has been stored since, look again, and then have the lease confirmed: in this order, a
        later holder, and sessions after this one, cannot have begun unnoticed. Return the last
        durable event before the first one; if that event closes the session, publish nothing.
        Raises LeaseLost.
        """
        while True:
            if before is not None and before.closing:
                return before
            if before is not None and before.epoch > self._epoch:
                raise LeaseLost(f"epoch {before.epoch} has published, this is {self._epoch}")
            try:
                await self.durable("status", make)
            except LeaseLost:
                log.info("an older holder still publishes", extra=fields(session=str(self._key)))
                self.fenced = False
                before = await self.look()
                await confirm()
                continue
            return before

    async def durable(self, kind: str, make: Callable[[int], bytes]) -> None:
        """Publish the event that `make` encodes for its `sequence`; return when it is stored.

        Retries while the broker is away. Raises LeaseLost if the event is refused; MessageTooLarge
        if it exceeds the server's max_payload, KindNotStored if an earlier release made the stream,
        and then nothing is stored. If the caller is
        cancelled, a publish that has begun continues and `resume` waits for it: otherwise `resume`
        would miss the event, and its words would be published twice.
        """
        await self._lock.acquire()
        try:
            if self.fenced:
                raise LeaseLost("another worker publishes for this session")
            sequence = self._next_sequence
            # The kind is part of the id: the server must not take one event for a duplicate of
            # another. So is the number of events that were refused for their size, of which
            # smaller ones take the place.
            msg_id = f"{self._msg_id_prefix}{sequence}:{kind}"
            if self._oversized:
                msg_id += f":{self._oversized}"
            event = _Event(kind, sequence, msg_id, make(sequence))
            acknowledged = await self._post(event)
        except BaseException:  # also when cancelled: nothing else releases the lock
            self._lock.release()
            raise
        try:
            stored = await asyncio.shield(acknowledged)
        except BaseException as error:  # an error, or cancelled
            # A cancelled caller continues at once. A separate task settles the event, and owns the
            # lock from here on.
            settling = asyncio.create_task(
                self._settle(event, acknowledged), name=f"publish {self._key}"
            )
            settling.add_done_callback(_retrieve_error)
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
        """Wait until a published event is stored, then release the lock."""
        try:
            stored = await self._store(event, acknowledged)
            self._last_stream_sequence, self._next_sequence = stored, event.sequence + 1
        finally:
            self._lock.release()

    async def _store(self, event: _Event, acknowledged: asyncio.Future[int]) -> int:
        """Publish the event again until it is stored. Return its stream sequence."""
        warned = repeated = False
        while True:
            try:
                return await acknowledged
            except APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    # It may be our own first attempt, whose acknowledgement was lost.
                    last = await self._last(self._filter)
                    if last is not None and last.msg_id == event.msg_id:
                        return last.stream_sequence
                    self.fenced = True
                    raise LeaseLost("another worker has published for this session") from None
                reason = explain_refused_message(
                    self._channel.stream, error.err_code, error.description
                )
            except MessageTooLarge:
                # The limit may have shrunk after an earlier attempt, which may be stored.
                last = await self._last(self._filter) if repeated else None
                if last is not None and last.msg_id == event.msg_id:
                    return last.stream_sequence
                self._oversized += 1
                raise
            except (NatsError, TimeoutError) as error:
                if isinstance(error, NoStreamResponseError) and not await self._taken(event.kind):
                    raise KindNotStored(
                        f"stream {self._channel.stream} does not take events of kind {event.kind}, "
                        "which are not stored: run `natterjack streams apply`"
                    ) from None
                reason = repr(error)
            if not warned:
                warned = True
                log.warning(
                    "event not stored yet: %s", reason, extra=fields(session=str(self._key))
                )
            await self._broker.wait_connected()
            repeated = True
            acknowledged = await self._post(event)

    async def _taken(self, kind: str) -> bool:
        """Whether the stream takes events of a kind, as far as the broker says."""
        try:
            found = await self._js.stream_info(self._channel.stream)
        except (NatsError, TimeoutError):
            return True
        subject = self._subjects[kind]
        return any(overlap(subject, each) for each in found.config.subjects or ())

    async def interim(self, event: bytes) -> None:
        """Publish an interim, or drop it while the broker is away: the next interim replaces it.

        Raises MessageTooLarge."""
        if self._broker.connected and not self.fenced:
            try:
                self._broker.client.post(self._interim_subject, event)
            except MessageTooLarge:
                raise
            except NatsError:
                pass  # not connected, or too much is unsent


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Retrieve a task's error, so that asyncio does not log it if the caller is gone."""
    if not task.cancelled():
        task.exception()
