"""Reading the messages of a stream in order, each exactly once, through restarts of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from natterjack.broker.connection import Broker
from natterjack.broker.pull import ConsumerGone
from natterjack.errors import NotAllowed, StreamMissing
from natterjack.position import Position, nanoseconds, rfc3339

from .markers import HistoryLost, Marker, StreamReplaced
from .readahead import ReadAhead, StoredMessage

log = logging.getLogger(__name__)

_API = "$JS.API.CONSUMER.CREATE"
_CONSUMER_LIFE_S, _NO_LIFE_S = 30.0, 0.001
_TIMEOUT_S, _RELEASE_S = 5.0, 2.0
_MISSING_S = 1.0
"""How often a missing stream is looked for."""
_OVERDUE_S = 10.0
"""After so long without a message, although some were pending, they are counted again."""

_ONE_KIND = (
    "a subscriber reads its own tenant and conversation; one that was made with --kinds reads one "
    'kind of stored event at a time, as with kinds=["final"]'
)
Since = Position | datetime | Literal["start"] | None
"""Where reading begins: after a message, with messages stored from a time on, with the first one
that is stored, or (None) with those that are stored later."""


@dataclass(frozen=True, slots=True)
class _Consumer:
    name: str
    first: int
    """The sequence of the stream at which it begins to look for messages."""
    pending: int
    created: datetime
    config: dict[str, Any]


class DurableReader:
    """Reads the messages of a stream that match a subject. For one task."""

    def __init__(
        self,
        broker: Broker,
        stream: str,
        subject: str,
        *,
        since: Since = None,
        cure: str,
        waits: bool = False,
        on_marker: Callable[[Marker], None] | None = None,
    ) -> None:
        """`cure` says what makes the stream. With `waits`, reading waits for a stream that does not
        exist yet. `on_marker` is called when messages may be missing or repeated, ahead of the
        message that follows."""
        self._broker = broker
        self._stream = stream
        self._subject = subject
        self._since = since
        self._cure = cure
        self._waits = waits
        self._on_marker = on_marker
        self._ahead: ReadAhead | None = None
        self._consumer: _Consumer | None = None
        self._newest = 0
        """Without `since`: last sequence of the stream when reading began."""
        self.began: datetime | None = None
        """When reading began, by the server's clock."""
        self.first = 0
        """Where reading began: messages of this sequence of the stream and later ones are read."""
        self.position: Position | None = since if isinstance(since, Position) else None
        """The last message that was read, or else after which reading begins."""
        self._after = self.position
        """The same, unless it is known not to be in the stream."""
        self._lost_since: datetime | None = None
        """Set until the next message: those that were stored from this time on may have expired."""
        self._skip_ns = -1
        """Messages that were stored up to this time are skipped."""
        self._by_time: Position | None = None
        """Set while reading goes on by time, because this message is not in the stream."""
        self._checking = False
        """Set while the consumer's first message must equal the last one that was read."""
        self._warned = False
        self._opened = False
        """True once there has been a consumer."""
        self._next_number = 1
        """The number of the consumer's next message; another one means that messages were lost."""
        self._current = False
        """False when the consumer has to be replaced."""
        self._making: str | None = None
        """The name of the newest consumer."""
        self._refusal: NotAllowed | None = None
        self.pending = 0
        """Messages that were stored and not read yet, when the last one was read or the consumer
        was made."""
        self.renewals = 0
        """How many consumers there have been."""
        if isinstance(since, datetime):
            self._skip_ns = nanoseconds(since) - 1

    # ---- what others call ------------------------------------------------------------------------

    def poke(self) -> None:
        """Make a waiting `next` return None at once."""
        if self._ahead is not None:
            self._ahead.poke()

    @property
    def waiting(self) -> bool:
        """True if received messages wait to be read."""
        return self._ahead is not None and self._ahead.waiting

    @property
    def settled(self) -> bool:
        """True once it is known where the consumer begins, so that `pending` counts what is due."""
        return self._current and not self._checking

    async def begin(self) -> None:
        """Set where new messages begin; wait while the broker is away, or the stream with `waits`.

        Raises: StreamMissing; NotAllowed. Cancel-safe.
        """
        self._broker.on_reconnect.add(self._reconnected)
        self._broker.on_refusal.add(self._refused)
        while not self._current:
            try:
                async with self._broker.within_connection():
                    await self._renew()
            except NotFoundError:
                self._current = False
                await self._missing()
            except (NatsError, TimeoutError) as error:
                self._current = False
                self._raise_refusal()
                if not self._warned:
                    self._warned = True
                    log.warning("cannot read %s yet: %r", self._stream, error)
                await self._broker.wait_connected()

    async def next(self, timeout: float) -> StoredMessage | None:
        """Return the next message, or None: after `timeout` seconds, a `poke`, a message that was
        read before, or a new beginning that has found nothing. Cancel-safe.

        Raises: StreamMissing if the stream does not exist, without `waits`; NotAllowed.
        """
        if not self._current:
            await self.begin()
            if not self.pending:
                return None
        assert self._ahead is not None
        overdue = time.monotonic() + _OVERDUE_S
        try:
            message = await self._ahead.next(min(timeout, _OVERDUE_S) if self.pending else timeout)
        except (ConsumerGone, NatsError):
            self._current = False
            return None
        if message is None:
            self._raise_refusal()
            if self._checking and self._after is not None:  # it was erased just now
                self._go_by_time(self._after)
            elif self.pending and time.monotonic() >= overdue:
                self._current = False  # it was perhaps erased: look again
            return None
        return message if self.admit(message) else None

    def admit(self, message: StoredMessage) -> bool:
        """Return whether a message of the consumer is the next one of the stream."""
        if message.number != self._next_number:
            self._current = False  # messages were lost on the way: read them again
            return False
        self._next_number += 1
        self.pending = message.pending
        position = message.position
        if self._checking:
            assert self._after is not None
            self._checking = False
            if position != self._after:
                self._go_by_time(self._after)
            return False
        if position.stored_ns <= self._skip_ns:
            return False
        if self._lost_since is not None:
            self._lost(self._lost_since, position.stored_at)
        self.position = self._after = position
        return True

    async def stop(self) -> None:
        """Unsubscribe, and release the consumer unless the broker is away. Raises NATS's errors."""
        self._broker.on_reconnect.discard(self._reconnected)
        self._broker.on_refusal.discard(self._refused)
        await self._release()

    # ---- refusals and reconnects -----------------------------------------------------------------

    def _reconnected(self) -> None:
        self._current = False  # messages sent to the lost connection are gone
        self.poke()

    def _refused(self, refusal: NotAllowed) -> bool | None:
        """Keep a refusal of a request of this reader, whose consumers have random names."""
        ours = self._making is not None and f".{self._making}" in refusal.subject
        if not ours and not refusal.own_inbox:
            return None
        self._refusal = self._explained(refusal)
        self.poke()
        return True

    def _explained(self, refusal: NotAllowed) -> NotAllowed:
        """The refusal with what may be the cure, if all kinds of event were to be read."""
        if refusal.own_inbox or not self._subject.endswith(".*"):
            return refusal
        return NotAllowed(refusal.subject, publishes=refusal.publishes, remedy=_ONE_KIND)

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal

    async def _missing(self) -> None:
        """Wait for the stream, or raise StreamMissing."""
        if not self._waits:
            raise StreamMissing(f"stream {self._stream} is missing: {self._cure}") from None
        if not self._warned:
            self._warned = True
            log.warning("stream %s is missing, waiting for it: %s", self._stream, self._cure)
        if not self._opened and self._since is None:
            self._since = "start"  # everything that it will have is new
        await asyncio.sleep(_MISSING_S)
        await self._broker.wait_connected()

    # ---- consumers -------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Make a new ephemeral consumer that continues after the last message."""
        await self._release()
        self._current, self._checking = True, False  # a reconnect resets _current
        if self._by_time is not None:
            await self._continue_by_time(self._by_time)
        elif self._after is not None:
            await self._continue_after(self._after)
        elif isinstance(self._since, datetime):
            await self._begin_at(self._since)
        elif self._since == "start":
            await self._consume("all")
        elif self.began is None:
            self._newest = (await self._consume("new")).first - 1
        elif (await self._probe("new")).first <= self._newest:
            self._replaced(self.began)
            self._since = self.began
            await self._renew()
            return
        else:
            await self._consume("by_start_sequence", opt_start_seq=self._newest + 1)
        consumer = self._consumer
        assert consumer is not None
        self.began = self.began or consumer.created
        if not self._opened:
            self.first = consumer.first + self._checking
        if self._current:
            if self._lost_since is not None and not consumer.pending:
                self._lost(self._lost_since, consumer.created)
            self.pending = consumer.pending
            self._next_number = 1
            self.renewals += 1
            self._ahead = ReadAhead(self._broker, self._stream, consumer.name)
            await self._ahead.start()
            self._opened, self._warned = True, False

    async def _begin_at(self, since: datetime) -> None:
        """Begin with messages that were stored at a time or later."""
        consumer = await self._consume("by_start_time", opt_start_time=rfc3339(nanoseconds(since)))
        wanted = self._on_marker is not None and self.began is None
        if wanted and consumer.first > 1 and consumer.first == (await self._probe("all")).first:
            self._lost_since = since

    async def _continue_after(self, position: Position) -> None:
        """Read the last message again, without returning it, to verify that it is still there."""
        consumer = await self._consume("by_start_sequence", opt_start_seq=position.sequence)
        if consumer.first > position.sequence:
            # It has expired. The stream could be another one, so the time counts as well.
            self._count_by_time(position)
            if consumer.first > position.sequence + 1:
                self._lost_since = position.stored_at
        elif consumer.pending:
            self._checking = True
        else:
            self._go_by_time(position)

    async def _continue_by_time(self, position: Position) -> None:
        """Continue with messages that were stored after one that is not in the stream: it was
        erased, or does not match the subject, or the stream was recreated or restored from a
        backup, so that sequences have a new meaning."""
        since_ns = position.stored_ns + 1
        consumer = await self._consume("by_start_time", opt_start_time=rfc3339(since_ns))
        if consumer.first <= position.sequence:
            self._replaced(position.stored_at)
        self._count_by_time(position)

    def _count_by_time(self, position: Position) -> None:
        self._skip_ns = max(self._skip_ns, position.stored_ns)
        self._by_time = self._after = None
        self._since = position.stored_at

    def _go_by_time(self, position: Position) -> None:
        self._by_time, self._current = position, False

    def _replaced(self, since: datetime) -> None:
        log.warning(
            "stream %s was recreated or restored from a backup: the last event read from it is no "
            "longer there, continuing with events after %s",
            self._stream, since.isoformat(timespec="milliseconds"),
        )  # fmt: skip
        if self._on_marker is not None:
            self._on_marker(StreamReplaced(since))

    def _lost(self, start: datetime, end: datetime) -> None:
        self._lost_since = None
        log.warning(
            "events of %s that were stored between %s and %s may have expired unread",
            self._stream, start.isoformat(timespec="milliseconds"),
            end.isoformat(timespec="milliseconds"),
        )  # fmt: skip
        if self._on_marker is not None:
            self._on_marker(HistoryLost(start, end))

    async def _consume(self, policy: str, **start: Any) -> _Consumer:
        """Make the consumer that is read."""
        name = f"listen_{secrets.token_hex(8)}"
        self._making = name
        config = self._config(name, policy, _CONSUMER_LIFE_S) | start
        # Whatever ends this request, the server may have made the consumer, which is released then.
        self._consumer = _Consumer(name, 0, 0, datetime.now(UTC), config)
        try:
            self._consumer = await self._create(config)
        except NotAllowed as refusal:
            self._consumer = None
            raise self._explained(refusal) from None
        return self._consumer

    async def _probe(self, policy: str) -> _Consumer:
        """Make a consumer that is only looked at, and is gone at once."""
        return await self._create(
            self._config(f"listen_{secrets.token_hex(8)}", policy, _NO_LIFE_S)
        )

    def _config(self, name: str, policy: str, life_seconds: float) -> dict[str, Any]:
        return {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": policy,
            "filter_subject": self._subject,
            "inactive_threshold": int(life_seconds * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }

    async def _create(self, config: dict[str, Any]) -> _Consumer:
        name = config["name"]
        subject = f"{_API}.{self._stream}.{name}.{self._subject}"
        payload = json.dumps({"stream_name": self._stream, "config": config}).encode()
        async with self._broker.raising_refusals(about=(subject,)):
            reply = await self._broker.client.request(subject, payload, timeout=_TIMEOUT_S)
        answer = json.loads(reply.data)
        if "error" in answer:
            APIError.from_error(answer["error"])  # raises
        created = datetime.fromisoformat(answer["created"])
        first = answer["delivered"]["stream_seq"] + 1
        return _Consumer(name, first, answer["num_pending"], created, config)

    async def _release(self) -> None:
        """Unsubscribe, and have the server drop the consumer."""
        ahead, self._ahead = self._ahead, None
        consumer, self._consumer = self._consumer, None
        if ahead is not None:
            await ahead.stop()
        if consumer is None or not self._broker.connected:
            return
        # Users may create consumers, and not delete them. This updates one to end by itself.
        with contextlib.suppress(NatsError, TimeoutError, NotAllowed):
            async with asyncio.timeout(_RELEASE_S):
                await self._create(consumer.config | {"inactive_threshold": int(_NO_LIFE_S * 1e9)})
