"""Reading the messages of a stream in order, each exactly once, through restarts of the broker."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from natterjack.broker.connection import Broker
from natterjack.broker.pull import ConsumerGone, Puller
from natterjack.errors import StreamMissing, UsageError

log = logging.getLogger(__name__)

_BATCH = 256
_CONSUMER_LIFE_S = 30.0
_ROUNDING = timedelta(milliseconds=1)
"""Upper bound of the rounding error of a storage time."""


class Position(NamedTuple):
    """Identifies a message of a stream.

    The sequence is not enough, because a stream that was lost or restored reuses sequences.
    """

    sequence: int
    stored_at: datetime

    def __str__(self) -> str:
        return f"{self.sequence}@{self.stored_at.isoformat()}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse what `str` made. Raises UsageError."""
        sequence, _, stored_at = text.partition("@")
        try:
            position = cls(int(sequence), datetime.fromisoformat(stored_at))
        except ValueError:
            position = cls(0, datetime.min)
        if position.sequence < 1 or position.stored_at.tzinfo is None:
            raise UsageError(f"{text!r} is not a position in a stream")
        return position


class DurableReader:
    """Reads the messages of a stream that match a subject. For one task."""

    def __init__(
        self,
        broker: Broker,
        stream: str,
        subject: str,
        *,
        from_start: bool = False,
        after: Position | None = None,
        cure: str,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads from the start of the stream, from the message `after`, or else new ones. `cure`
        says what makes the stream. `on_restart`: what was read is no longer in the stream."""
        self._broker = broker
        self._stream = stream
        self._subject = subject
        self._from_start = from_start
        self._cure = cure
        self._on_restart = on_restart
        self._puller: Puller | None = None
        self._newest = 0
        """Without `from_start`: last sequence of the stream when reading began."""
        self._began: datetime | None = after.stored_at if after else None
        """When reading began, by the server's clock."""
        self.position: Position | None = after
        """The last message that was read."""
        self._since: datetime | None = None
        """Set when the stream was replaced: messages stored up to this time are skipped."""
        self._checking = False
        """Set while the consumer's first message must equal the last one that was read."""
        self._warned = False
        self._opened = False
        """True once there has been a consumer."""
        self._consumer_next = 1
        """The consumer's next sequence; another one means that messages were lost."""
        self._current = False
        """False when the consumer has to be replaced."""

    def _reconnected(self) -> None:
        self._current = False  # messages sent to the lost connection are gone
        self.poke()

    def poke(self) -> None:
        """Make a waiting `next` return None at once."""
        if self._puller is not None:
            self._puller.poke()

    @property
    def waiting(self) -> bool:
        """True if received messages wait to be read."""
        return self._puller is not None and self._puller.waiting

    async def begin(self) -> None:
        """Set where new messages begin; wait while the broker is away.

        Raises: StreamMissing. Cancel-safe.
        """
        self._broker.on_reconnect.add(self._reconnected)
        while not self._current:
            try:
                async with self._broker.within_connection():
                    await self._renew()
            except (NatsError, TimeoutError) as error:
                self._current = False
                if isinstance(error, NotFoundError) and not self._opened:
                    raise StreamMissing(f"stream {self._stream} is missing: {self._cure}") from None
                if not self._warned:
                    self._warned = True
                    log.warning("cannot read %s yet: %r", self._stream, error)
                await self._broker.wait_connected()

    async def next(self, timeout: float) -> Msg | None:
        """Return the next message, or None: after `timeout` seconds, a `poke`, or a message that
        was read before. Cancel-safe.

        Raises: StreamMissing if the stream does not exist when reading begins.
        """
        await self.begin()
        assert self._puller is not None
        try:
            message = await self._puller.next(_BATCH, timeout)
        except ConsumerGone:
            self._current = False
            return None
        return message if message is not None and self.admit(message) else None

    def admit(self, message: Msg) -> bool:
        """Return whether a message of the consumer is the next one of the stream."""
        metadata = message.metadata
        if metadata.sequence.consumer != self._consumer_next:
            self._current = False  # messages were lost on the way: read them again
            return False
        self._consumer_next += 1
        place = Position(metadata.sequence.stream, metadata.timestamp)
        if self._checking:
            assert self.position is not None
            self._checking = False
            if place != self.position:
                self._restart_after(self.position.stored_at)
            return False
        if self._since is not None:
            if place.stored_at <= self._since:
                return False
            self._since = None
        self.position = place
        return True

    async def _renew(self) -> None:
        """Make a new ephemeral consumer that continues after the last message."""
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
        elif self.position is not None:
            # Read the last message again, without returning it, to verify that it is still there.
            self._checking = True
            info = await self._consume(
                DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self.position.sequence
            )
            if not info.num_pending:
                self._restart_after(self.position.stored_at)
                return
        elif self._from_start:
            info = await self._consume(DeliverPolicy.ALL)
        else:
            if _last_sequence(await self._consume(DeliverPolicy.NEW)) < self._newest:
                assert self._began is not None
                self._restart_after(self._began)
                return
            info = await self._consume(
                DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._newest + 1
            )
        self._consumer_next = 1
        self._puller = Puller(self._broker, self._stream, info.name)
        await self._puller.start()
        self._opened, self._warned = True, False

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
        return await self._broker.client.jetstream().add_consumer(self._stream, config)

    def _restart_after(self, since: datetime) -> None:
        """Continue by time, because the last message that was read is not in the stream.

        The stream was recreated or restored from a backup, so that sequences have a new meaning; or
        the message was erased or has expired.
        """
        log.warning(
            "the last event read from %s is no longer there: continuing with events after %s",
            self._stream,
            since.isoformat(timespec="milliseconds"),
        )
        self._since, self._current = since, False
        self._on_restart()

    async def stop(self) -> None:
        """Release the consumer. Raises NATS's errors."""
        self._broker.on_reconnect.discard(self._reconnected)
        if self._puller is not None:
            await self._puller.stop()


def _last_sequence(info: ConsumerInfo) -> int:
    """The stream sequence after which a new consumer starts."""
    return info.delivered.stream_seq or 0 if info.delivered is not None else 0
