"""Slots: how many connections, and new ones a second, all workers open on a provider account.

Each slot of an account is a subject of the stream STT_SLOTS, whose last message says who has it.
Every write is a compare-and-set on that subject, so whoever was acknowledged has the slot, and
whoever was refused knows that for certain: a holder that stood still, a successor, and a race
between workers are all settled by the same refusal. (Tokens in a pull consumer cannot do it:
nats-server 2.15 answers an `in_progress` of a former holder as if it still had the message, and
lets its `nak` take the message from the present one.)

    free --take--> held --renewed every third of the slot time--> held --released--> free
                    '--not renewed for a slot time: whoever sees that may take it--> held

A dial is a slot that is neither renewed nor released: each may be taken again a second after it
was seen to be taken. So nothing here compares the clocks of two machines.

What is stored is republished by the server on core NATS with its sequence, refused writes are not;
every worker that uses a limited account hears that and so knows who holds what. Workers with
waiting sessions tell each other so. From the two each works out the same plan: a free slot goes to
the tenant that holds fewest in the fleet, then to the session that has waited longest. Slots that
the plan gives to another worker are left alone for a moment, then taken all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
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

log = logging.getLogger(__name__)


_WRITE_TIMEOUT_S = 2.0
_TICK_S = 0.25
_RETRY_S = 1.0
_TELL_S, _TELL_SOON_S, _GHOST_S = 1.0, 0.05, 3.0
"""Waiting is told each second, news of it within 50 ms; a worker unheard for 3 s waits no more."""
_YIELD_S = (0.5, 1.0)
"""How long a slot is left to the worker that the plan gives it to."""
_COMPLAIN_S = 30.0
_WRONG_LAST_SEQUENCE = 10071


class Waiting(NamedTuple):
    """A session that waits somewhere in the fleet."""

    tenant: str
    seconds: float
    instance: str


def share(slots: int, held: Mapping[str, int], waiting: Iterable[Waiting]) -> list[Waiting]:
    """Who gets `slots` free slots, in order: always the longest waiting session of the tenant that
    holds fewest by then (`held`: by tenant), of equal tenants the longest waiting session."""
    queues: dict[str, deque[Waiting]] = {}
    for one in sorted(waiting, key=lambda w: (-w.seconds, w.instance)):
        queues.setdefault(one.tenant, deque()).append(one)
    count = Counter(held)
    chosen: list[Waiting] = []
    while queues and len(chosen) < slots:
        tenant = min(queues, key=lambda t: (count[t], -queues[t][0].seconds, t))
        chosen.append(queues[tenant].popleft())
        count[tenant] += 1
        if not queues[tenant]:
            del queues[tenant]
    return chosen


class Claim(BaseModel):
    """What a held slot's message says. A free one's is empty."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    tenant: str
    by: str

    @classmethod
    def parse(cls, data: bytes) -> Claim | None:
        """None: free. What is no claim of ours is somebody's, until its time is over."""
        if not data:
            return None
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return cls(id="", tenant="", by="")

    @property
    def payload(self) -> bytes:
        return self.model_dump_json().encode()


class _Ticket(NamedTuple):
    """Names one holding of a slot. Text: `<account>.<slot>.<claim id>`."""

    account: str
    slot: int
    id: str

    @classmethod
    def parse(cls, text: str | None) -> _Ticket | None:
        """None for what is no ticket: whoever has it waits as if it had none."""
        parts = text.split(".") if text else []
        if len(parts) != 3 or not parts[1].isdecimal() or not parts[2]:
            return None
        return cls(parts[0], int(parts[1]), parts[2])

    def __str__(self) -> str:
        return f"{self.account}.{self.slot}.{self.id}"


class _Refused(Exception):
    """Another write came first."""


class _Unanswered(Exception):
    """Whether it was stored is not known."""


class _Entry(NamedTuple):
    """A slot as last heard of. `seen`: monotonic seconds."""

    sequence: int
    claim: Claim | None
    seen: float


class _Waiter:
    def __init__(self, tenant: str, adopt: _Ticket | None) -> None:
        self.tenant = tenant
        self.adopt = adopt
        """The ticket that it came with, until that has proved to be of no use."""
        self.since = time.monotonic()
        self.granted: asyncio.Future[Permit | None] = asyncio.get_running_loop().create_future()


class Permit:
    """A slot of an account, until released, left, or lost."""

    def __init__(self, lane: Lane, slot: int, claim: Claim, sequence: int, sent: float) -> None:
        self._lane = lane
        self.slot = slot
        self.claim = claim
        self.sequence = sequence
        self.confirmed = sent
        self.lock = asyncio.Lock()
        self.lost = asyncio.Event()
        """Set once somebody else has the slot: close the connection. Known for certain."""

    @property
    def ticket(self) -> str:
        """What a successor goes on with (`Governor.admit`); the same as long as it is held."""
        return str(_Ticket(self._lane.account, self.slot, self.claim.id))

    @property
    def sure(self) -> bool:
        """Nobody else can have the slot. False: the broker has confirmed nothing for so long that
        it may have been taken over; with the broker's return it is known."""
        age = time.monotonic() - self.confirmed
        return not self.lost.is_set() and age < self._lane.seconds

    async def release(self) -> None:
        """Give the slot back; when the broker is away, as soon as it is there. Idempotent,
        cancel-safe, returns within seconds, raises nothing."""
        await self._lane.release(self)

    def leave(self) -> None:
        """Renew no more and do not give back: the slot is for whoever comes with the ticket, within
        the slot time (handover). Idempotent."""
        self._lane.leave(self)


class Lane:
    """The slots, or the dials, of one account: who has them, and who of this worker waits."""

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
        """`seconds`: after how long without a write a slot may be taken over."""
        self._broker = broker
        self._js = js
        self._store = store
        self._subject = f"{prefix}.{account}"
        self._heard_subject = f"{REPUBLISHED_PREFIX}.{self._subject.removeprefix('stt.')}.*"
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
        """Released, and not yet acknowledged."""
        self.waiters: list[_Waiter] = []
        self._taking: dict[int, Claim] = {}
        self._unanswered: dict[str, float] = {}
        """Claims of ours that may have been stored, and when they were sent. One that turns out to
        have been is given back: its time may be nearly over."""
        self._others: dict[str, tuple[float, list[Waiting]]] = {}
        self._yielded: dict[int, float] = {}
        """Free slots that are for other workers, and when they are no longer left to them."""
        self._told, self._told_waiters = 0.0, 0
        self._complain_at = 0.0
        self._read = False
        self._stale = asyncio.Event()
        self._wake = asyncio.Event()
        self._given_back = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    # What the fleet does

    async def run(self) -> None:
        """Until cancelled."""
        heard = await self._broker.client.subscribe(self._heard_subject, cb=self._heard)
        waiting = await self._broker.client.subscribe(self._waiting_subject, cb=self._heard_waiting)
        self._broker.on_reconnect.add(self._reconnected)
        try:
            async with self._tasks:
                self._tasks.create_task(self._watch(), name=f"slots {self._subject}")
                if self.renews:
                    self._tasks.create_task(self._keep(), name=f"permits {self._subject}")
                await self._hand_out()
        finally:
            self._broker.on_reconnect.discard(self._reconnected)
            with contextlib.suppress(NatsError):
                await heard.unsubscribe()
                await waiting.unsubscribe()

    def _reconnected(self) -> None:
        self._read = False
        self._stale.set()

    async def _watch(self) -> None:
        """Read all at start and after each reconnect. Until then nothing is taken."""
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
            # While we were away renewals went unheard, so all times begin now.
            self._read = not self._stale.is_set()
            self._wake.set()
            await self._stale.wait()

    async def _heard(self, message: Msg) -> None:
        sequence = (message.headers or {}).get("Nats-Sequence", "")
        if sequence.isdecimal():
            self._learn(message.subject, int(sequence), message.data)

    def _learn(self, subject: str, sequence: int, data: bytes, *, truth: bool = False) -> None:
        """`truth`: what the stream's leader says, older than what was heard or not."""
        token = subject.rpartition(".")[2]
        if not token.isdecimal():
            return
        slot = int(token)
        known = self._entries.get(slot)
        if known is not None and (
            sequence == known.sequence or (sequence < known.sequence and not truth)
        ):
            return
        claim = Claim.parse(data)
        self._entries[slot] = _Entry(sequence, claim, time.monotonic())
        permit = self.permits.get(slot)
        other = permit is not None and (claim is None or claim.id != permit.claim.id)
        if permit is not None and other and (truth or sequence > permit.sequence):
            self._lose(permit)
        sent = self._unanswered.pop(claim.id, None) if claim is not None else None
        if claim is not None and sent is not None:
            self._return(Permit(self, slot, claim, sequence, sent))
        if claim is None:
            self._wake.set()

    async def _look(self, slot: int) -> _Entry | None:
        """Ask the leader, whose word is final; direct gets may be answered by a replica that lags.
        None: there is nothing. Raises _Unanswered."""
        subject = f"{self._subject}.{slot}"
        try:
            async with self._broker.asking(), asyncio.timeout(_WRITE_TIMEOUT_S):
                stored = await self._js.get_last_msg(streams.SLOTS, subject)
        except NotFoundError:
            self._entries.pop(slot, None)
            return None
        except (NatsError, TimeoutError) as error:
            raise _Unanswered(repr(error)) from None
        self._learn(subject, stored.seq or 0, stored.data or b"", truth=True)
        return self._entries[slot]

    async def _write(self, slot: int, data: bytes, expected: int) -> int:
        """Store, if nobody did since `expected` (0: never). Raises _Refused, _Unanswered."""
        if not self._broker.connected:
            raise _Unanswered("not connected")
        try:
            async with self._broker.asking():
                ack = await self._js.publish(
                    f"{self._subject}.{slot}",
                    data,
                    timeout=_WRITE_TIMEOUT_S,
                    headers={"Nats-Expected-Last-Subject-Sequence": str(expected)},
                )
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise _Refused from None
            if time.monotonic() >= self._complain_at:
                self._complain_at = time.monotonic() + _COMPLAIN_S
                log.warning("%s refuses: %s", streams.SLOTS, error.description or error)
            raise _Unanswered(repr(error)) from None
        except (NatsError, TimeoutError) as error:
            raise _Unanswered(repr(error)) from None
        return ack.seq

    # Who waits

    def set_limit(self, limit: int | None) -> None:
        self.limit = limit
        self._wake.set()

    async def admit(self, tenant: str, adopt: str | None = None) -> Permit | None:
        """A slot; None if there is no limit (any more). Cancel-safe."""
        waiter = _Waiter(tenant, _Ticket.parse(adopt))
        self.waiters.append(waiter)
        self._on_change()
        self._wake.set()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                permit = waiter.granted.result()
                if permit is not None and self.renews:
                    self._give_back(permit)
            raise
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
            self._on_change()
            self._wake.set()

    async def _heard_waiting(self, message: Msg) -> None:
        try:
            told = json.loads(message.data)
            instance = str(told["by"])
            waiting = [
                Waiting(str(tenant), float(age), instance)
                for tenant, ages in told["waiting"].items()
                for age in ages
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if instance == self.instance:
            return
        if waiting:
            self._others[instance] = (time.monotonic(), waiting)
        else:
            self._others.pop(instance, None)
        if self.waiters:
            self._wake.set()

    async def _tell_waiting(self, now: float) -> bool:
        """Let the other workers know who waits here, at once when that has changed. False: there
        is news that is still to be told."""
        ours = self._ours(now)
        news = len(ours) != self._told_waiters
        if not news and (not ours or now - self._told < _TELL_S):
            return True
        if now - self._told < _TELL_SOON_S:
            return False
        self._told, self._told_waiters = now, len(ours)
        waiting: dict[str, list[float]] = {}
        for one in ours:
            waiting.setdefault(one.tenant, []).append(round(one.seconds, 3))
        told = {"by": self.instance, "waiting": waiting}
        with contextlib.suppress(NatsError):
            await self._broker.client.publish(self._waiting_subject, json.dumps(told).encode())
        return True

    # Who gets what

    async def _hand_out(self) -> None:
        while True:
            self._wake.clear()
            now, told = time.monotonic(), True
            if self.limit is None:
                self._let_all_in()
            elif self.waiters and self._read and self._broker.connected:
                self._adopt()
                self._take_ours(now)
            if self._broker.connected:
                told = await self._tell_waiting(now)
            delay = self._delay(now) if self.waiters or self._told_waiters else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay if told else _TELL_SOON_S):
                    await self._wake.wait()

    def _delay(self, now: float) -> float:
        """Seconds until something may have changed that nobody tells."""
        ends = (e.seen + self.seconds - now for e in self._entries.values() if e.claim is not None)
        return max(0.001, min((end for end in ends if 0 < end < _TICK_S), default=_TICK_S))

    def _let_all_in(self) -> None:
        for waiter in self.waiters:
            if not waiter.granted.done():
                waiter.granted.set_result(None)
        self.waiters.clear()

    def _adopt(self) -> None:
        """Begin to take over the slots that sessions came with a ticket for."""
        for waiter in self.waiters:
            ticket = waiter.adopt
            if ticket is None or ticket.slot in self._taking:
                continue
            entry = self._entries.get(ticket.slot)
            claim = entry.claim if entry is not None else None
            if ticket.account != self.account or claim is None or claim.id != ticket.id:
                waiter.adopt = None  # it was given back, or is another's: wait like the others
            else:
                self._start_taking(ticket.slot, claim.tenant)

    def _held(self, now: float) -> dict[int, str]:
        """Tenants of the slots that are taken, those on their way to us included."""
        held = {
            slot: entry.claim.tenant
            for slot, entry in self._entries.items()
            if entry.claim is not None and now - entry.seen < self.seconds
        }
        held |= {slot: permit.claim.tenant for slot, permit in self.permits.items()}
        return held | {slot: claim.tenant for slot, claim in self._taking.items()}

    def _take_ours(self, now: float) -> None:
        """Begin to take the free slots that are for sessions of this worker."""
        assert self.limit is not None
        held = self._held(now)
        ours = self._ours(now)
        others = self._waiting_elsewhere(now)
        # Slots beyond a limit that was lowered are held to their end: as many others stay free.
        room = min(self.limit - len(held), 2 * len(ours) + len(others))
        if room <= 0:
            self._yielded.clear()
            return
        free = list(islice((slot for slot in range(self.limit) if slot not in held), room))
        if not others:
            random.shuffle(free)  # who does not know of us yet may be choosing too
        plan = share(len(free), Counter(held.values()), [*ours, *others])
        yielded: dict[int, float] = {}
        left = len(ours)
        for slot, one in zip(free, plan, strict=False):
            if one.instance == self.instance:
                self._start_taking(slot, one.tenant)
                left -= 1
            else:
                patience = random.uniform(*_YIELD_S)  # noqa: S311 - jitter
                yielded[slot] = self._yielded.get(slot, now + patience)
        self._yielded = yielded
        overdue = [slot for slot, until in yielded.items() if until < now]
        if left and overdue:
            # They do not come for them: they died, or do not see what we see.
            taken = Counter(self._held(now).values())
            for one in share(len(overdue), taken, self._ours(now)):
                self._start_taking(overdue.pop(), one.tenant)

    def _ours(self, now: float) -> list[Waiting]:
        """Sessions that wait here, without those for which a slot is being taken."""
        coming = Counter(claim.tenant for claim in self._taking.values())
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
        for instance, (heard, _) in list(self._others.items()):
            if now - heard > _GHOST_S:
                del self._others[instance]
        return [
            one._replace(seconds=one.seconds + now - heard)
            for heard, waiting in self._others.values()
            for one in waiting
        ]

    def _start_taking(self, slot: int, tenant: str) -> None:
        claim = Claim(id=secrets.token_hex(8), tenant=tenant, by=self.instance)
        self._taking[slot] = claim
        # What is heard of the slot before the task runs makes the decision void: it is refused.
        take = self._take(slot, claim, self._entries.get(slot))
        self._tasks.create_task(take, name=f"take {self._subject}.{slot}")

    async def _take(self, slot: int, claim: Claim, entry: _Entry | None) -> None:
        sent = time.monotonic()
        former = entry.claim.id if entry is not None and entry.claim is not None else ""
        expected = entry.sequence if entry is not None else 0
        try:
            sequence = await self._write(slot, claim.payload, expected)
        except _Refused:
            await self._see_who(slot, expected)
        except _Unanswered as error:
            log.debug("slot not taken: %s", error, extra=fields(subject=self._subject, slot=slot))
            if self.renews:  # a dial is used up, and used a second later by someone else
                self._settle_later(slot, claim, sent)
            await asyncio.sleep(_TICK_S)
        else:
            self._learn(f"{self._subject}.{slot}", sequence, claim.payload)
            self._grant(Permit(self, slot, claim, sequence, sent), former)
        finally:
            del self._taking[slot]
            self._wake.set()

    async def _see_who(self, slot: int, expected: int) -> None:
        """After a refusal: who was first, if that was not heard already."""
        entry = self._entries.get(slot)
        if (entry.sequence if entry is not None else 0) == expected:
            try:
                await self._look(slot)
            except _Unanswered:
                await asyncio.sleep(_TICK_S)

    def _settle_later(self, slot: int, claim: Claim, sent: float) -> None:
        entry = self._entries.get(slot)
        if entry is not None and entry.claim == claim:
            self._return(Permit(self, slot, claim, entry.sequence, sent))
        else:
            self._unanswered[claim.id] = sent

    def _grant(self, permit: Permit, former: str = "") -> None:
        """Give a slot to the session that is first by now. `former`: whose claim it was."""
        if self.renews:
            if (old := self.permits.get(permit.slot)) is not None:
                self._lose(old)
            self.permits[permit.slot] = permit
        waiter = self._first(permit.claim.tenant, former)
        if waiter is not None:
            self.waiters.remove(waiter)
            waiter.granted.set_result(permit)
        elif self.renews:
            self._give_back(permit)
        self._on_change()

    def _first(self, tenant: str, former: str) -> _Waiter | None:
        waiting = [waiter for waiter in self.waiters if not waiter.granted.done()]
        for waiter in waiting:
            if waiter.adopt is not None and waiter.adopt.id == former:
                return waiter
        return next((w for w in waiting if w.tenant == tenant and w.adopt is None), None)

    # Permits

    async def _keep(self) -> None:
        """Renew every permit each third of the slot time; one timer for all of them."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_RETRY_S, self.seconds / 6)):
                    await self._given_back.wait()
            self._given_back.clear()
            if not self._broker.connected:
                continue
            now = time.monotonic()
            for claim_id, sent in list(self._unanswered.items()):
                if now - sent > 2 * self.seconds:
                    del self._unanswered[claim_id]
            due = [p for p in self.permits.values() if now - p.confirmed >= self.seconds / 3]
            await asyncio.gather(
                *(self._renew(permit) for permit in due),
                *(self._free(permit) for permit in list(self._leaving.values())),
            )

    async def _renew(self, permit: Permit) -> None:
        async with permit.lock:
            if self.permits.get(permit.slot) is not permit:
                return
            await self._set(permit, permit.claim.payload)

    async def _set(self, permit: Permit, data: bytes) -> bool:
        """Write over the permit's own claim; False: not known to be stored yet, or lost."""
        for _ in range(2):
            sent = time.monotonic()
            try:
                sequence = await self._write(permit.slot, data, permit.sequence)
            except _Refused:
                pass
            except _Unanswered as error:
                log.debug("not renewed: %s", error, extra=fields(slot=permit.ticket))
                return False
            else:
                permit.sequence, permit.confirmed = sequence, sent
                self._learn(f"{self._subject}.{permit.slot}", sequence, data)
                return True
            # Perhaps by our own write, whose acknowledgement was lost; or the broker lost it all.
            try:
                stored = await self._look(permit.slot)
            except _Unanswered:
                return False
            if stored is None:
                permit.sequence = 0
            elif stored.claim is not None and stored.claim.id == permit.claim.id:
                permit.sequence = stored.sequence
            else:
                self._lose(permit)
                return False
        return False

    def _lose(self, permit: Permit) -> None:
        if self.permits.get(permit.slot) is permit:
            del self.permits[permit.slot]
            log.warning("slot lost to another worker", extra=fields(slot=permit.ticket))
        self._leaving.pop(permit.claim.id, None)
        permit.lost.set()
        self._on_change()

    def leave(self, permit: Permit) -> None:
        if self.permits.get(permit.slot) is permit:
            del self.permits[permit.slot]
            self._on_change()

    def _give_back(self, permit: Permit) -> None:
        """Let go without waiting: the keeper frees it."""
        if self.permits.get(permit.slot) is permit:
            del self.permits[permit.slot]
            self._return(permit)

    def _return(self, permit: Permit) -> None:
        self._leaving[permit.claim.id] = permit
        self._given_back.set()
        self._on_change()

    async def release(self, permit: Permit) -> None:
        if self.permits.get(permit.slot) is permit:
            del self.permits[permit.slot]
            self._leaving[permit.claim.id] = permit
            self._on_change()
            # What takes longer is left to the keeper.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await self._free(permit)

    async def _free(self, permit: Permit) -> None:
        async with permit.lock:
            if permit.claim.id not in self._leaving:
                return
            # After twice the slot time nobody holds it against us any more.
            over = time.monotonic() - permit.confirmed > 2 * self.seconds
            if over or await self._set(permit, b""):
                self._leaving.pop(permit.claim.id, None)
