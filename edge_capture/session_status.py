"""The state of a session as its worker reports it, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from datetime import datetime
from enum import Enum, auto

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from natterjack.broker.connection import Broker
from natterjack.broker.streams import TRANSCRIPTS
from natterjack.control import is_stop
from natterjack.errors import BadEvent, NotAllowed
from natterjack.events import StatusEvent, parse_event
from natterjack.spec import SessionSpec
from natterjack.subjects import transcript_subject
from natterjack.telemetry.log import fields

log = logging.getLogger(__name__)

WAITING = "waiting for a worker"
_REFRESH_S = 5.0
_RETRIES_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses between attempts to confirm with the stream what is doubtful; then every `_REFRESH_S`."""
_QUIET_S, _JITTER = 30.0, 0.25
"""The stream is read at least this often, because a route between two servers may fail without this
connection; and the longest addition to it, as a part of it."""


class _Found(Enum):
    """The state of the session according to the stream."""

    RUNS = auto()
    """It has not ended, as far as is known."""
    ENDED = auto()
    DOUBT = auto()
    """The stream did not answer, or does not have what was received live."""
    REPLACED = auto()
    """The newest event is a later session's, so this one has ended if its request was stored."""


class SessionStatus:
    """Follows the status events of a session, and then those of the one that continues it.

    A worker that has lost its lease unknowingly may still report an end. The stream refuses that
    worker's events, so only what the stream has counts as the end of a session, unless this user
    may not read it.
    """

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._subject = transcript_subject(spec.key, "status")
        self._last: StatusEvent | None = None
        self.streamed = False
        """Whether a worker has begun to transcribe the session."""
        self._broker: Broker | None = None
        self._subscription: Subscription | None = None
        self._subscribed = asyncio.Event()
        self._check_stream = asyncio.Event()
        """Set when events may have been missed, and when a closing event was received live."""
        self._polls = False
        """Whether the stream is read every `_REFRESH_S`, and not every `_QUIET_S`."""
        self._readable = True
        """Whether this user may read the stream, as far as is known."""
        self._complained = False
        self.routine = False
        """Whether the session follows another one by rotation, as many times a day: what it does
        as it should is logged at level debug."""

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

    @property
    def closing(self) -> bool:
        """Whether the last event says that the session has ended."""
        return self._last is not None and self._last.closing

    def follow(self, spec: SessionSpec) -> None:
        """From now on, follow another session of the same key."""
        self._spec, self._last, self.streamed = spec, None, False

    async def subscribe(self, broker: Broker) -> None:
        """Follow live events. Events sent while the connection is down are missed."""
        if self._broker is not None:
            self._check_stream.set()
        self._broker = broker
        broker.on_reconnect.add(self._check_stream.set)
        broker.on_refusal.add(self._refused)
        self._subscription = await broker.client.subscribe(self._subject, cb=self._on_message)
        self._subscribed.set()

    async def unsubscribe(self) -> None:
        """End what `subscribe` began. Idempotent."""
        if self._broker is None or self._subscription is None:
            return
        self._broker.on_reconnect.discard(self._check_stream.set)
        self._broker.on_refusal.discard(self._refused)
        with contextlib.suppress(NatsError):
            await self._subscription.unsubscribe()
        self._subscription = None

    def poll(self) -> None:
        """From now on, read the stream every few seconds, so that an end is not missed."""
        self._polls = True
        self._check_stream.set()

    @property
    def end(self) -> StatusEvent | None:
        """The closing event, or None if it cannot be read."""
        return self._last if self.closing else None

    async def has_ended(self, *, requested: bool) -> bool:
        """Whether the session of an earlier run has ended by now, as far as the stream says.
        Cancel-safe.

        `requested`: its request may be stored, so it has ended if a later session has run. It waits
        for `subscribe`, and then for an answer of the stream, but not for long.
        """
        await self._subscribed.wait()
        for pause in (*_RETRIES_S, None):
            found = await self._look()
            if found is not _Found.DOUBT:
                break
            if pause is None:
                log.warning(
                    "the stream does not say whether the session has ended: it is sent as one "
                    "that has not",
                    extra=fields(session=str(self._spec.key), session_id=self._spec.session_id),
                )
            else:
                await asyncio.sleep(pause)
        if found is _Found.ENDED or (found is _Found.REPLACED and requested):
            return True
        self._check_stream.set()
        return False

    async def wait_ended(self) -> StatusEvent | None:
        """Return the closing event once the session has ended, even if it was missed. Cancel-safe.

        Returns None if the session has ended, but its closing event can no longer be read.
        """
        doubts = 0
        while True:
            await self._wait_check(doubts)
            found = await self._look()
            if found is _Found.ENDED:
                return self._last
            if found is _Found.REPLACED and doubts >= len(_RETRIES_S):
                return self.end
            doubts = 0 if found is _Found.RUNS else doubts + 1

    async def _wait_check(self, doubts: int) -> None:
        """Wait until the stream is to be read, after `doubts` attempts that settled nothing."""
        pause: float | None = None
        if doubts:
            pause = _RETRIES_S[doubts - 1] if doubts <= len(_RETRIES_S) else _REFRESH_S
        elif self._polls:
            pause = _REFRESH_S
        elif self._readable:
            pause = _QUIET_S * random.uniform(1, 1 + _JITTER)  # noqa: S311 - spread
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._check_stream.wait()
        self._check_stream.clear()

    async def _look(self) -> _Found:
        """Read the newest event from the stream and apply it."""
        try:
            newest = await self._newest()
        except NotAllowed:  # live events are all that this user has
            self._readable = False
            return _Found.ENDED if self.closing else _Found.RUNS
        except (NatsError, TimeoutError):
            return _Found.DOUBT
        if newest is not None and newest.session_id == self._spec.session_id:
            self._apply(newest)
            if newest.closing:
                self._last = newest
                return _Found.ENDED
        elif newest is not None and self._is_later(newest):
            return _Found.REPLACED
        elif newest is None and self.closing and is_stop(self.reason):
            return _Found.ENDED  # a request was heard of, and all events were erased since
        return _Found.DOUBT if self.closing else _Found.RUNS

    def _is_later(self, other: StatusEvent) -> bool:
        """Whether an event of another session shows that this one has ended. Sessions of a key run
        in the order of their requests."""
        if self._last is not None:
            return other.published_at > self._last.published_at
        # Without an event of this session, the other one may also be the one before it.
        opened_at = _opened_at(other)
        return opened_at is not None and opened_at > self._spec.opened_at

    async def _newest(self) -> StatusEvent | None:
        """Return the newest status event of the key that the stream has.

        Raises: NotAllowed if this user may not read it; NatsError or TimeoutError.
        """
        if self._broker is None:
            raise TimeoutError
        jetstream = self._broker.client.jetstream()
        try:
            async with self._broker.raising_refusals():
                message = await jetstream.get_last_msg(TRANSCRIPTS, self._subject, direct=True)
        except NotFoundError:
            return None
        except NotAllowed as refusal:
            if refusal.publishes and refusal.subject.endswith(f"{TRANSCRIPTS}.{self._subject}"):
                raise
            raise TimeoutError from None  # another part of this program was refused
        return self._parse(message.data or b"")

    def _refused(self, refusal: NotAllowed) -> None:
        if refusal.publishes or refusal.subject != self._subject:
            return
        self.poll()
        if not self._complained:
            self._complained = True
            log.warning(
                "%s: the edge reads the session's status from the stream every %.0f s, if it may",
                refusal,
                _REFRESH_S,
                extra=fields(session=str(self._spec.key)),
            )

    async def _on_message(self, message: Msg) -> None:
        self.received(message.data)

    def received(self, payload: bytes) -> None:
        """Apply a live event. Anything but a newer status event of this session is ignored."""
        event = self._parse(payload)
        if event is not None and event.session_id == self._spec.session_id:
            self._apply(event)

    def _parse(self, payload: bytes) -> StatusEvent | None:
        """Return a status event, or None for anything else."""
        try:
            event = parse_event(payload)
        except BadEvent as error:
            log.warning("%s: %s", self._subject, error)
            return None
        return event if isinstance(event, StatusEvent) else None

    def _apply(self, event: StatusEvent) -> None:
        # A worker that has lost its lease unknowingly may still send events, and an event read from
        # the stream may also arrive live.
        last = self._last
        if last and (event.epoch, event.sequence) <= (last.epoch, last.sequence):
            return
        self._last = event
        # A worker that goes on with a session, or gives it back, names the provider it had.
        self.streamed |= event.state == "streaming" or bool(event.provider and not event.closing)
        if event.closing:
            self._check_stream.set()
        usual = logging.DEBUG if self.routine else logging.INFO
        log.log(
            logging.WARNING if event.state in ("recovering", "failed") else usual,
            "session %s",
            event.state,
            extra=fields(
                session=str(self._spec.key),
                session_id=event.session_id,
                worker=event.worker,
                **({"reason": event.reason} if event.reason else {}),
            ),
        )


def _opened_at(event: StatusEvent) -> datetime | None:
    """When a session was requested, from its closing event; None if that does not say."""
    try:
        opened_at = datetime.fromisoformat((event.request or {}).get("opened_at", ""))
    except (TypeError, ValueError):
        return None
    return opened_at if opened_at.tzinfo else None
