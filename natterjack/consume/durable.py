"""durable(): events that are acknowledged, at least once, by any number of processes.

What JetStream offers for this, one consumer whose messages go to whoever asks, does not keep the
order: it limits the unacknowledged messages of a consumer, not those of a session, so two processes
would work on one session at the same time, and a message that is delivered again comes after later
ones. Therefore progress is kept here, and JetStream stores it:

- The keys are divided into 16 shares. A process holds some of them, reads the whole stream (as
  `listen()` does, with a consumer that is gone when it ends), and leaves out what is not in its
  shares. So the server sends everything once to each process. In return, no process ever needs
  another one to make progress: a dead one delays its own shares only.
- Within a key, an event is delivered once all before it are settled: acknowledged or rejected.
- The progress of a share is one entry of the bucket `stt_durables`: everything up to a position is
  settled, except what follows the given positions in the keys that are behind. It is written by
  compare-and-set. So a process that was taken for dead can change nothing once its share has
  another holder.
- Processes tell each other once a second, on `stt.durable.<name>`, that they live and what they
  hold. From that, each finds out by itself which shares it has to give up, or may take over because
  their holder was not heard for 5 s; a compare-and-set decides who does. Each also hears itself: if
  not for 2.5 s, it delivers nothing before a write has told it that it is still the holder.

An event is delivered again if its process died within 50 ms after the acknowledgment, or before it,
and to another process if the first one was frozen: `id` tells that it is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Collection
from datetime import datetime, timedelta

from natterjack.broker.connection import Broker, connected_by
from natterjack.decoding import AnyEvent, decode_event
from natterjack.errors import BadEvent, UsageError
from natterjack.settings import BrokerSettings
from natterjack.subjects import EventKind, check_token, transcript_filter

from .dead_letters import bury
from .options import checked_kinds, checked_since
from .readahead import StoredMessage
from .sharing.backlog import Item, Lane
from .sharing.participant import Participant

log = logging.getLogger(__name__)

_YIELD = 16
"""After so many events, other tasks run, even if more events are there."""


class Delivery:
    """An event, and what becomes of it: call `ack`, `retry` or `reject` once.

    Nothing happens if the delivery does not count any more: another process has taken over, or the
    event was delivered again because `ack_wait` has passed.
    """

    __slots__ = ("_item", "_number", "_participant", "attempt", "event")

    def __init__(
        self, participant: Participant, item: Item[StoredMessage], event: AnyEvent
    ) -> None:
        self._participant = participant
        self._item = item
        self._number = item.delivery
        self.event = event
        self.attempt = item.attempts
        """1 for the first delivery. A crash right after a delivery may leave it uncounted."""

    @property
    def position(self) -> str:
        """Where the event is in the stream, as text to store."""
        return str(self._item.position)

    @property
    def counts(self) -> bool:
        """Whether it was not settled, taken back or taken over yet."""
        return self._item.delivery == self._number and not self._item.settled

    @property
    def _may_be_settled(self) -> bool:
        """Whether it counts, or is late and the event was not delivered again yet. Without the
        latter, work that always takes too long would be done again and again."""
        late = self._item.late == self._number == self._item.delivery - 1
        return self.counts or (late and not self._item.settled)

    async def ack(self) -> None:
        """The event is done. This is stored within 50 ms, and not waited for."""
        if self._may_be_settled:
            self._participant.settle(self._item)

    async def retry(self, seconds: float = 0) -> None:
        """Deliver the event again in `seconds`, to any process. Later events of its session wait,
        also those of the same batch, which are delivered again, acknowledged or not.

        Raises: UsageError if `seconds` is not a finite number.
        """
        if not math.isfinite(seconds):
            raise UsageError("retry needs a number of seconds: use `reject` to give an event up")
        if self.counts:
            self._participant.take_back(self._item, max(0.0, seconds))

    async def reject(self, reason: str) -> None:
        """Store the event and `reason` as a dead letter (see `dead_letters`); then it is done.

        Raises: StreamMissing.
        """
        if not self._may_be_settled:
            return
        participant = self._participant
        await bury(participant.broker, participant.name, self._item.content, reason, self.attempt)
        await self.ack()


class Deliveries:
    """The events of a durable consumer: iterate over them, one by one or in batches. For one task;
    deliveries may be settled by others, also at the same time."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._taken = 0

    def __aiter__(self) -> Deliveries:
        return self

    async def __anext__(self) -> Delivery:
        """The next event whose session has no other event under way. Cancel-safe."""
        delivery = await self._next(None, None)
        assert delivery is not None
        return delivery

    async def batches(self, size: int, seconds: float) -> AsyncIterator[list[Delivery]]:
        """Iterate over lists of at most `size` events, and of `max_in_flight`, in the order of the
        stream. A list ends `seconds` after its first event was there, if it is not full before.

        It may have several events of a session. Settle all of them before the next list: a session
        with an event under way is left out.
        """
        if size < 1 or seconds < 0:
            raise UsageError("batches: size must be 1 or more, and seconds not negative")
        while True:
            lanes: dict[Lane[StoredMessage], None] = {}
            batch: list[Delivery] = []
            deadline: float | None = None
            try:
                while len(batch) < min(size, self._participant.max_in_flight):
                    delivery = await self._next(lanes, deadline)
                    if delivery is None:
                        break
                    batch.append(delivery)
                    deadline = deadline or time.monotonic() + seconds
            except BaseException:  # canceled, above all
                for delivery in reversed(batch):
                    if delivery.counts:
                        self._participant.give_back(delivery._item)
                raise
            batch = [delivery for delivery in batch if delivery.counts]
            batch.sort(key=lambda delivery: delivery._item.number)
            if batch:
                yield batch

    async def _next(
        self, lanes: dict[Lane[StoredMessage], None] | None, deadline: float | None
    ) -> Delivery | None:
        while True:
            self._taken += 1
            if self._taken % _YIELD == 0:
                await asyncio.sleep(0)
            item = await self._participant.take(lanes, deadline)
            if item is None:
                return None
            message = item.content
            try:
                event = decode_event(message.data, message.position, message.subject)
            except BadEvent as error:
                log.warning("%s: %s", message.subject.decode(), error)
                self._participant.settle(item)
                continue
            return Delivery(self._participant, item, event)

    @property
    def pending(self) -> int:
        """Events that are stored and not settled, as far as this process knows: those that it has
        read for its shares, and all that it has not read yet."""
        return self._participant.backlog.size + self._participant.pending


@contextlib.asynccontextmanager
async def durable(
    name: str,
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    kinds: Collection[str] | None = None,
    start: datetime | timedelta | str | None = None,
    ack_wait: float = 30,
    max_in_flight: int = 256,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncIterator[Deliveries]:
    """Take part in the durable consumer `name` for the block.

    ::

        async with natterjack.durable("index", tenant="acme") as deliveries:
            async for delivery in deliveries:
                store(delivery.event)
                await delivery.ack()

    Every stored event is delivered until it is acknowledged or rejected, through restarts of this
    process and of the broker. Up to 16 processes that use the same name share the work. One that
    does not read the same events waits until the others have ended, and goes on from there: it
    should have another name. The events of a session are delivered in order, each after the one
    before was settled. Only its first process decides where a durable consumer begins: `start` is a
    time, a duration before now, the position of an event (which is not delivered), `"start"`, or
    None for events that are stored from now on.

    None matches any tenant, conversation or speaker; `kinds` are those of events that are stored.
    An event that is not settled within `ack_wait` seconds is delivered again, unless it is settled
    before anybody asks for it. At most `max_in_flight` events are delivered and not settled, in
    this process. If one is killed, others go on with its sessions after 5 s.

    Uses `broker` or else makes a connection from `settings` or the environment (NATS_URL ...),
    which it retries until it succeeds. The user needs `--durable <name>`; if it lacks that, the
    iteration raises NotAllowed. Waits for streams that do not exist yet.

    Raises: InvalidKey; UsageError if a value is not possible.
    """
    check_token("name", name)
    wanted = checked_kinds(kinds)
    if wanted is not None and "interim" in wanted:
        raise UsageError("kinds: interims are not stored, so they cannot be acknowledged")
    if not ack_wait > 0 or max_in_flight < 1:
        raise UsageError("ack_wait must be above 0, and max_in_flight 1 or more")
    only: EventKind | None = None
    if wanted is not None and len(wanted) == 1:
        (only,) = wanted  # type: ignore[assignment]  # checked
    subject = transcript_filter(tenant, conversation, speaker, only)
    since = checked_since(start)
    if broker is not None and broker.client.options.get("no_echo"):
        raise UsageError("broker: a durable consumer has to hear itself: connect with echo")
    async with connected_by(broker, settings, f"durable-{name}") as connection:
        participant = Participant(
            connection, name, subject, start=since, ack_wait=ack_wait, max_in_flight=max_in_flight,
            wanted=wanted,
        )  # fmt: skip
        try:
            await participant.start()
            yield Deliveries(participant)
        finally:
            await participant.stop()
