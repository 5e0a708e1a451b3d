"""Permits: the shared limits on connections, and on dials per second, of one provider account.

Every permit of a provider account is a subject of the JetStream stream STT_SLOTS, numbered from 0;
its last message names the holder, and an empty message means that it is free. Every write is a
compare-and-set on that subject. A worker whose write was acknowledged holds the permit; a worker
whose write was refused knows that it does not. The same refusal settles a holder that stalled, a
successor that took over, and two workers that raced. (Tokens in a pull consumer cannot do this:
nats-server 2.15 answers an `in_progress` from a former holder as if it still held the message, and
lets its `nak` take the message away from the present holder.)

    free --take--> held --renewed every third of the permit time--> held --released--> free
                    '--not renewed for a permit time: any worker may take it--> held

A permit to dial is neither renewed nor released: any worker may take it again one second after it
saw it taken. The clocks of two machines are therefore never compared.

The server republishes what is stored, with its sequence, on core NATS; refused writes are not
republished. Every worker that uses a limited account listens to that, so it knows the holders.
Workers also announce how many of their sessions wait. From both, every worker computes the same
plan (`share`): which waiting session gets which free permit. If the plan gives a permit
to another worker that does not take it within a moment, any worker takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from pydantic import BaseModel, ConfigDict, ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.subjects import REPUBLISHED_PREFIX, SLOT_PREFIX
from natterjack.telemetry.log import fields

from .share import Waiting, share

log = logging.getLogger(__name__)


_WRITE_TIMEOUT_S = 2.0
_TICK_S = 0.25
_RETRY_S = 1.0
_ANNOUNCE_S, _ANNOUNCE_SOON_S, _FORGET_S = 1.0, 0.05, 3.0
"""Waiting sessions are announced every second, and changes within 50 ms. Announcements of a worker
that has been silent for 3 s no longer count."""
_PATIENCE_S = (0.5, 1.0)
"""How long a permit is left to the worker that the plan gives it to."""
_WARN_AGAIN_S = 30.0
_WRONG_LAST_SEQUENCE = 10071


class Holder(BaseModel):
    """The holder of a permit, as stored in its message. The message of a free permit is empty."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    tenant: str
    by: str

    @classmethod
    def parse(cls, data: bytes) -> Holder | None:
        """The stored holder, or None if the permit is free.

        An unreadable message counts as an unknown holder until the permit time has passed.
        """
        if not data:
            return None
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return cls(id="", tenant="", by="")

    @property
    def payload(self) -> bytes:
        return self.model_dump_json().encode()


class Ticket(NamedTuple):
    """Identifies one holding of a permit. Text form: `<account>.<number>.<holder id>`."""

    account: str
    number: int
    id: str

    @classmethod
    def parse(cls, text: str | None) -> Ticket | None:
        """The ticket, or None if `text` is not one: such a session waits like any other."""
        parts = text.split(".") if text else []
        if len(parts) != 3 or not parts[1].isdecimal() or not parts[2]:
            return None
        return cls(parts[0], int(parts[1]), parts[2])

    def __str__(self) -> str:
        return f"{self.account}.{self.number}.{self.id}"


class _Refused(Exception):
    """Another write was stored first."""


class _Unknown(Exception):
    """The broker did not answer, so the write may or may not have been stored."""


class _Entry(NamedTuple):
    """A permit as last seen. `seen` is a time.monotonic() value."""

    sequence: int
    holder: Holder | None
    seen: float


class _Waiter:
    def __init__(self, tenant: str, adopt: Ticket | None) -> None:
        self.tenant = tenant
        self.adopt = adopt
        """The ticket of the session's former holder, until it turns out to be useless."""
        self.since = time.monotonic()
        self.granted: asyncio.Future[Permit | None] = asyncio.get_running_loop().create_future()


class Permit:
    """The right to one connection on an account, until it is released, given up or lost."""

    def __init__(
        self, pool: PermitPool, number: int, holder: Holder, sequence: int, sent: float
    ) -> None:
        self._pool = pool
        self.number = number
        self.holder = holder
        self.sequence = sequence
        self.confirmed = sent
        self.lock = asyncio.Lock()
        self.lost = asyncio.Event()
        """Set when another worker is known to hold the permit: the connection must be closed."""

    @property
    def ticket(self) -> str:
        """The text with which a successor takes over this permit (`Governor.admit`)."""
        return str(Ticket(self._pool.account, self.number, self.holder.id))

    @property
    def valid(self) -> bool:
        """Whether this worker is certain to hold the permit, so that no other worker can hold it.

        False once the broker has confirmed nothing for a permit time; when the broker is back, the
        permit is either confirmed or `lost`.
        """
        age = time.monotonic() - self.confirmed
        return not self.lost.is_set() and age < self._pool.seconds

    async def release(self) -> None:
        """Give the permit back, as soon as the broker is reachable.

        Idempotent and cancel-safe. Returns within seconds and raises nothing.
        """
        await self._pool.release(self)

    def stop_renewing(self) -> None:
        """Stop renewing without giving back, so that the successor with the ticket can take over.

        Idempotent. The permit becomes free after the permit time.
        """
        self._pool.stop_renewing(self)


class PermitPool:
    """The permits, or the dials, of one account: who holds them, and which sessions here wait."""

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        store: StreamStore,
        prefix: str,
        account: str,
        instance: str,
        seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        """`seconds` is how long after its last write a permit may be taken over."""
        self._broker = broker
        self._js = js
        self._store = store
        self._subject = f"{prefix}.{account}"
        self._republished_subject = f"{REPUBLISHED_PREFIX}.{self._subject.removeprefix('stt.')}.*"
        self._waiting_subject = f"{REPUBLISHED_PREFIX}.waiting.{self._subject.removeprefix('stt.')}"
        self.account = account
        self.instance = instance
        self.seconds = seconds
        self.renews = prefix == SLOT_PREFIX
        self._on_change = on_change
        self.limit: int | None = None
        self._entries: dict[int, _Entry] = {}
        self.permits: dict[int, Permit] = {}
        self._leaving: dict[str, Permit] = {}
        """Permits that are released but not yet acknowledged as free, by holder id."""
        self.waiters: list[_Waiter] = []
        self._taking: dict[int, Holder] = {}
        self._unanswered: dict[str, float] = {}
        """When each write without an answer was sent, by holder id. If it turns out to have been
        stored, the permit is given back, because it may be about to expire."""
        self._elsewhere: dict[str, tuple[float, list[Waiting]]] = {}
        self._left_to_others: dict[int, float] = {}
        """Free permits that the plan gives to other workers, and until when they are left alone."""
        self._announced_at = 0.0
        self._announced = Counter[str]()
        """How many sessions of each tenant the last announcement had."""
        self._warn_again_at = 0.0
        self._read = False
        self._stale = asyncio.Event()
        self._wake = asyncio.Event()
        self._release_queued = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    # ---- the permits of all workers -------------------------------------------------------------

    async def run(self) -> None:
        """Keep track of the account's permits and grant them, until cancelled."""
        client = self._broker.client
        republished = await client.subscribe(self._republished_subject, cb=self._received)
        waiting = await client.subscribe(self._waiting_subject, cb=self._received_waiting)
        self._broker.on_reconnect.add(self._reconnected)
        try:
            async with self._tasks:
                self._tasks.create_task(self._watch(), name=f"permits {self._subject}")
                if self.renews:
                    self._tasks.create_task(self._renew_permits(), name=f"permits {self._subject}")
                await self._distribute()
        finally:
            self._broker.on_reconnect.discard(self._reconnected)
            with contextlib.suppress(NatsError):
                await republished.unsubscribe()
                await waiting.unsubscribe()

    def _reconnected(self) -> None:
        self._read = False
        self._stale.set()

    async def _watch(self) -> None:
        """Read all permits at start and after each reconnect. No permit is taken before that."""
        while True:
            self._stale.clear()
            self._entries.clear()
            try:
                stored = await self._store.read_all(f"{self._subject}.*")
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            for one in stored:
                self._learn(one.subject, one.sequence, one.data)
            # Renewals were missed while the connection was down, so all count as seen now.
            self._read = not self._stale.is_set()
            self._wake.set()
            await self._stale.wait()

    async def _received(self, message: Msg) -> None:
        sequence = (message.headers or {}).get("Nats-Sequence", "")
        if sequence.isdecimal():
            self._learn(message.subject, int(sequence), message.data)

    def _learn(
        self, subject: str, sequence: int, data: bytes, *, authoritative: bool = False
    ) -> None:
        """Note what a permit's message says.

        `authoritative` marks an answer of the stream's leader, which also counts when it is older
        than what was received before.
        """
        token = subject.rpartition(".")[2]
        if not token.isdecimal():
            return
        number = int(token)
        known = self._entries.get(number)
        if known is not None and (
            sequence == known.sequence or (sequence < known.sequence and not authoritative)
        ):
            return
        holder = Holder.parse(data)
        self._entries[number] = _Entry(sequence, holder, time.monotonic())
        permit = self.permits.get(number)
        other = permit is not None and (holder is None or holder.id != permit.holder.id)
        if permit is not None and other and (authoritative or sequence > permit.sequence):
            self._lose(permit)
        sent = self._unanswered.pop(holder.id, None) if holder is not None else None
        if holder is not None and sent is not None:
            self._queue_release(Permit(self, number, holder, sequence, sent))
        if holder is None:
            self._wake.set()

    async def _read_leader(self, number: int) -> _Entry | None:
        """The permit as the stream's leader knows it, or None if it was never written.

        A direct get is not enough: a replica that lags may answer it. Raises _Unknown.
        """
        subject = f"{self._subject}.{number}"
        try:
            async with self._broker.within_connection(), asyncio.timeout(_WRITE_TIMEOUT_S):
                stored = await self._js.get_last_msg(streams.SLOTS, subject)
        except NotFoundError:
            self._entries.pop(number, None)
            return None
        except (NatsError, TimeoutError) as error:
            raise _Unknown(repr(error)) from None
        self._learn(subject, stored.seq or 0, stored.data or b"", authoritative=True)
        return self._entries[number]

    async def _write(self, number: int, data: bytes, expected: int) -> int:
        """Store `data` if the permit's last sequence is still `expected` (0: never written).

        Returns the new sequence. Raises _Refused or _Unknown.
        """
        if not self._broker.connected:
            raise _Unknown("not connected")
        try:
            async with self._broker.within_connection():
                ack = await self._js.publish(
                    f"{self._subject}.{number}",
                    data,
                    timeout=_WRITE_TIMEOUT_S,
                    headers={"Nats-Expected-Last-Subject-Sequence": str(expected)},
                )
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise _Refused from None
            if time.monotonic() >= self._warn_again_at:
                self._warn_again_at = time.monotonic() + _WARN_AGAIN_S
                log.warning("%s refuses a write: %s", streams.SLOTS, error.description or error)
            raise _Unknown(repr(error)) from None
        except (NatsError, TimeoutError) as error:
            raise _Unknown(repr(error)) from None
        return ack.seq

    # ---- waiting sessions -----------------------------------------------------------------------

    def set_limit(self, limit: int | None) -> None:
        self.limit = limit
        self._wake.set()

    async def admit(self, tenant: str, adopt: str | None = None) -> Permit | None:
        """Wait for a permit; None if the account has no limit (any more). Cancel-safe."""
        waiter = _Waiter(tenant, Ticket.parse(adopt))
        self.waiters.append(waiter)
        self._on_change()
        self._wake.set()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                permit = waiter.granted.result()
                if permit is not None and self.renews:
                    self._release_soon(permit)
            raise
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
            self._on_change()
            self._wake.set()

    async def _received_waiting(self, message: Msg) -> None:
        try:
            announced = json.loads(message.data)
            instance = str(announced["by"])
            waiting = [
                Waiting(str(tenant), float(age), instance)
                for tenant, ages in announced["waiting"].items()
                for age in ages
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if instance == self.instance:
            return
        if waiting:
            self._elsewhere[instance] = (time.monotonic(), waiting)
        else:
            self._elsewhere.pop(instance, None)
        if self.waiters:
            self._wake.set()

    async def _announce_waiting(self, now: float) -> bool:
        """Announce this worker's waiting sessions, at once when a tenant's number has changed.

        Returns False if a change is still to be announced.
        """
        ours = self._waiting_here(now)
        count = Counter(one.tenant for one in ours)
        changed = count != self._announced
        if not changed and (not ours or now - self._announced_at < _ANNOUNCE_S):
            return True
        if now - self._announced_at < _ANNOUNCE_SOON_S:
            return False
        self._announced_at, self._announced = now, count
        waiting: dict[str, list[float]] = {}
        for one in ours:
            waiting.setdefault(one.tenant, []).append(round(one.seconds, 3))
        message = {"by": self.instance, "waiting": waiting}
        with contextlib.suppress(NatsError):
            await self._broker.client.publish(self._waiting_subject, json.dumps(message).encode())
        return True

    # ---- granting -------------------------------------------------------------------------------

    async def _distribute(self) -> None:
        while True:
            self._wake.clear()
            now, announced = time.monotonic(), True
            if self.limit is None:
                self._grant_without_limit()
            elif self.waiters and self._read and self._broker.connected:
                self._adopt()
                self._take_waiting_here(now)
            if self._broker.connected:
                announced = await self._announce_waiting(now)
            delay = self._delay(now) if self.waiters or self._announced else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay if announced else _ANNOUNCE_SOON_S):
                    await self._wake.wait()

    def _delay(self, now: float) -> float:
        """Seconds until the next change that no message announces: a permit expires."""
        ends = (e.seen + self.seconds - now for e in self._entries.values() if e.holder is not None)
        return max(0.001, min((end for end in ends if 0 < end < _TICK_S), default=_TICK_S))

    def _grant_without_limit(self) -> None:
        for waiter in self.waiters:
            if not waiter.granted.done():
                waiter.granted.set_result(None)
        self.waiters.clear()

    def _adopt(self) -> None:
        """Start taking over the permits for which a waiting session has a ticket."""
        for waiter in self.waiters:
            ticket = waiter.adopt
            if ticket is None or ticket.number in self._taking:
                continue
            entry = self._entries.get(ticket.number)
            holder = entry.holder if entry is not None else None
            if ticket.account != self.account or holder is None or holder.id != ticket.id:
                waiter.adopt = None  # it was given back or taken: wait like the others
            else:
                self._start_taking(ticket.number, holder.tenant)

    def _tenants_of_held(self, now: float) -> dict[int, str]:
        """The tenant of each permit that is held, including those this worker is taking."""
        held = {
            number: entry.holder.tenant
            for number, entry in self._entries.items()
            if entry.holder is not None and now - entry.seen < self.seconds
        }
        held |= {number: permit.holder.tenant for number, permit in self.permits.items()}
        return held | {number: holder.tenant for number, holder in self._taking.items()}

    def _take_waiting_here(self, now: float) -> None:
        """Start taking the free permits that the plan gives to sessions of this worker."""
        assert self.limit is not None
        held = self._tenants_of_held(now)
        ours = self._waiting_here(now)
        others = self._waiting_elsewhere(now)
        # After a limit was lowered, permits beyond it are kept; as many others stay free.
        room = min(self.limit - len(held), 2 * len(ours) + len(others))
        if room <= 0:
            self._left_to_others.clear()
            return
        free = list(islice((number for number in range(self.limit) if number not in held), room))
        if not others:
            random.shuffle(free)  # a worker without our announcement may be choosing too
        plan = share(len(free), Counter(held.values()), [*ours, *others])
        left_to_others: dict[int, float] = {}
        left = len(ours)
        for number, one in zip(free, plan, strict=False):
            if one.instance == self.instance:
                self._start_taking(number, one.tenant)
                left -= 1
            else:
                patience = random.uniform(*_PATIENCE_S)  # noqa: S311 - jitter
                left_to_others[number] = self._left_to_others.get(number, now + patience)
        self._left_to_others = left_to_others
        overdue = [number for number, until in left_to_others.items() if until < now]
        if left and overdue:
            # The other workers did not take them: they died, or their plan differs.
            taken = Counter(self._tenants_of_held(now).values())
            for one in share(len(overdue), taken, self._waiting_here(now)):
                self._start_taking(overdue.pop(), one.tenant)

    def _waiting_here(self, now: float) -> list[Waiting]:
        """The sessions that wait in this worker, except those for which a permit is being taken."""
        coming = Counter(holder.tenant for holder in self._taking.values())
        waiting = []
        for waiter in self.waiters:
            if waiter.adopt is not None:
                continue
            if coming[waiter.tenant]:
                coming[waiter.tenant] -= 1
                continue
            waiting.append(Waiting(waiter.tenant, now - waiter.since, self.instance))
        return waiting

    def _waiting_elsewhere(self, now: float) -> list[Waiting]:
        for instance, (received, _) in list(self._elsewhere.items()):
            if now - received > _FORGET_S:
                del self._elsewhere[instance]
        return [
            one._replace(seconds=one.seconds + now - received)
            for received, waiting in self._elsewhere.values()
            for one in waiting
        ]

    def _start_taking(self, number: int, tenant: str) -> None:
        holder = Holder(id=secrets.token_hex(8), tenant=tenant, by=self.instance)
        self._taking[number] = holder
        # If the permit changes before the task runs, its write is refused.
        take = self._take(number, holder, self._entries.get(number))
        self._tasks.create_task(take, name=f"take {self._subject}.{number}")

    async def _take(self, number: int, holder: Holder, entry: _Entry | None) -> None:
        sent = time.monotonic()
        former = entry.holder.id if entry is not None and entry.holder is not None else ""
        expected = entry.sequence if entry is not None else 0
        try:
            sequence = await self._write(number, holder.payload, expected)
        except _Refused:
            await self._learn_winner(number, expected)
        except _Unknown as error:
            log.debug(
                "permit not taken: %s", error, extra=fields(subject=self._subject, slot=number)
            )
            if self.renews:  # a permit to dial is not given back
                self._settle_later(number, holder, sent)
            await asyncio.sleep(_TICK_S)
        else:
            self._learn(f"{self._subject}.{number}", sequence, holder.payload)
            self._grant(Permit(self, number, holder, sequence, sent), former)
        finally:
            del self._taking[number]
            self._wake.set()

    async def _learn_winner(self, number: int, expected: int) -> None:
        """After a refusal, learn which write was stored, unless it was received already."""
        entry = self._entries.get(number)
        if (entry.sequence if entry is not None else 0) == expected:
            try:
                await self._read_leader(number)
            except _Unknown:
                await asyncio.sleep(_TICK_S)

    def _settle_later(self, number: int, holder: Holder, sent: float) -> None:
        entry = self._entries.get(number)
        if entry is not None and entry.holder == holder:
            self._queue_release(Permit(self, number, holder, entry.sequence, sent))
        else:
            self._unanswered[holder.id] = sent

    def _grant(self, permit: Permit, former: str = "") -> None:
        """Grant a permit to the session that is first now. `former` is its former holder's id."""
        if self.renews:
            if (old := self.permits.get(permit.number)) is not None:
                self._lose(old)
            self.permits[permit.number] = permit
        waiter = self._first(permit.holder.tenant, former)
        if waiter is not None:
            self.waiters.remove(waiter)
            waiter.granted.set_result(permit)
        elif self.renews:
            self._release_soon(permit)
        self._on_change()

    def _first(self, tenant: str, former: str) -> _Waiter | None:
        waiting = [waiter for waiter in self.waiters if not waiter.granted.done()]
        for waiter in waiting:
            if waiter.adopt is not None and waiter.adopt.id == former:
                return waiter
        return next((w for w in waiting if w.tenant == tenant and w.adopt is None), None)

    # ---- permits of this worker -----------------------------------------------------------------

    async def _renew_permits(self) -> None:
        """Renew every permit each third of the permit time, with one timer for all of them."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_RETRY_S, self.seconds / 6)):
                    await self._release_queued.wait()
            self._release_queued.clear()
            if not self._broker.connected:
                continue
            now = time.monotonic()
            for holder_id, sent in list(self._unanswered.items()):
                if now - sent > 2 * self.seconds:
                    del self._unanswered[holder_id]
            due = [p for p in self.permits.values() if now - p.confirmed >= self.seconds / 3]
            await asyncio.gather(
                *(self._renew(permit) for permit in due),
                *(self._free(permit) for permit in list(self._leaving.values())),
            )

    async def _renew(self, permit: Permit) -> None:
        async with permit.lock:
            if self.permits.get(permit.number) is not permit:
                return
            await self._set(permit, permit.holder.payload)

    async def _set(self, permit: Permit, data: bytes) -> bool:
        """Write to a permit of this worker. False if it is lost, or may not have been stored."""
        for _ in range(2):
            sent = time.monotonic()
            try:
                sequence = await self._write(permit.number, data, permit.sequence)
            except _Refused:
                pass
            except _Unknown as error:
                log.debug("not renewed: %s", error, extra=fields(slot=permit.ticket))
                return False
            else:
                permit.sequence, permit.confirmed = sequence, sent
                self._learn(f"{self._subject}.{permit.number}", sequence, data)
                return True
            # Our own write may have been stored without an answer, or the broker lost the stream.
            try:
                stored = await self._read_leader(permit.number)
            except _Unknown:
                return False
            if stored is None:
                permit.sequence = 0
            elif stored.holder is not None and stored.holder.id == permit.holder.id:
                permit.sequence = stored.sequence
            else:
                self._lose(permit)
                return False
        return False

    def _lose(self, permit: Permit) -> None:
        if self.permits.get(permit.number) is permit:
            del self.permits[permit.number]
            log.warning("permit lost to another worker", extra=fields(slot=permit.ticket))
        self._leaving.pop(permit.holder.id, None)
        permit.lost.set()
        self._on_change()

    def stop_renewing(self, permit: Permit) -> None:
        if self.permits.get(permit.number) is permit:
            del self.permits[permit.number]
            self._on_change()

    def _release_soon(self, permit: Permit) -> None:
        """Give back without waiting; `_renew_permits` frees the permit."""
        if self.permits.get(permit.number) is permit:
            del self.permits[permit.number]
            self._queue_release(permit)

    def _queue_release(self, permit: Permit) -> None:
        self._leaving[permit.holder.id] = permit
        self._release_queued.set()
        self._on_change()

    async def release(self, permit: Permit) -> None:
        if self.permits.get(permit.number) is permit:
            del self.permits[permit.number]
            self._leaving[permit.holder.id] = permit
            self._on_change()
            # `_renew_permits` frees it later if this takes too long.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await self._free(permit)

    async def _free(self, permit: Permit) -> None:
        async with permit.lock:
            if permit.holder.id not in self._leaving:
                return
            # After twice the permit time any worker may take the permit.
            expired = time.monotonic() - permit.confirmed > 2 * self.seconds
            if expired or await self._set(permit, b""):
                self._leaving.pop(permit.holder.id, None)
