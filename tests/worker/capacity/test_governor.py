"""The governor of several workers, each with its own connection to a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connect
from natterjack.errors import UsageError
from natterjack.fleet.limits import AccountLimit, limit_key, parse_account_limit
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.subjects import REPUBLISHED_PREFIX, SLOT_PREFIX
from tests.freezing import freeze
from tests.waiting import bound, lateness, soon, until, within
from worker.capacity import permits
from worker.capacity.governor import Governor
from worker.capacity.permits import Permit
from worker.metrics import Metrics

_permit_seconds = 2.0
"""Duration of a permit in the current test."""


class Worker:
    """The parts of a worker that the governor needs."""

    def __init__(self, broker: Broker, name: str, permit_seconds: float) -> None:
        self.broker = broker
        self.refusals: list[tuple[str, str, float]] = []
        self.metrics = Metrics(slots=1)
        self.governor = Governor(
            broker,
            broker.client.jetstream(),
            self.metrics,
            {"flux": "deepgram"},
            name,
            permit_seconds=permit_seconds,
            on_refusal=lambda *refusal: self.refusals.append(refusal),
        )
        self.running = asyncio.ensure_future(self.governor.run())
        self.tasks: set[asyncio.Task[Any]] = set()

    def admit(self, tenant: str = "t", adopt: str | None = None) -> asyncio.Task[Permit]:
        """Start waiting for a permit."""

        async def wait() -> Permit:
            permit = await self.governor.admit("deepgram", tenant, adopt=adopt)
            assert permit is not None
            return permit

        task = asyncio.ensure_future(wait())
        self.tasks.add(task)
        return task

    async def take(self, tenant: str = "t", adopt: str | None = None) -> Permit:
        return await soon(self.admit(tenant, adopt), 10)

    async def stop(self) -> None:
        assert not self.running.done() or self.running.exception() is None
        for task in (*self.tasks, self.running):
            task.cancel()
        await asyncio.gather(*self.tasks, self.running, return_exceptions=True)

    def knows(self) -> Counter[str]:
        """The waiting sessions that it knows of, its own included, per tenant."""
        pool, now = self.governor._pools[SLOT_PREFIX, "deepgram"], time.monotonic()
        waiting = (*pool._waiting_here(now), *pool._waiting_elsewhere(now))
        return Counter(one.tenant for one in waiting)

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"account": "deepgram"})


class Fleet:
    def __init__(self, settings: BrokerSettings, broker: Broker) -> None:
        self._settings = settings
        self.broker = broker
        self.workers: list[Worker] = []

    async def worker(self, factor: float = 1) -> Worker:
        """Start a worker whose permits last `factor` times as long as usual."""
        name = f"worker-{len(self.workers)}"
        broker = await connect(self._settings, name=name, once=True)
        worker = Worker(broker, name, factor * _permit_seconds)
        self.workers.append(worker)
        await soon(worker.governor._limit_watch.ready.wait(), 10)
        return worker

    async def limit(self, account: str = "deepgram", /, **limit: int) -> None:
        """Set a limit and wait until every worker has it."""
        await self.entry(json.dumps(limit).encode(), account)
        connections = limit.get("connections")

        def known() -> bool:
            return all(
                w.governor._limits.get(account) == AccountLimit(**limit) for w in self.workers
            )

        await until(known, f"limit {connections} known")

    async def entry(self, value: bytes, account: str = "deepgram") -> None:
        js = self.broker.client.jetstream()
        await js.publish(streams.bucket_subject(streams.BUDGETS_BUCKET, limit_key(account)), value)

    async def stop(self) -> None:
        for worker in self.workers:
            await worker.stop()
            await worker.broker.close()


@pytest.fixture
async def fleet(
    broker_settings: BrokerSettings, ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    """Workers whose permits last long enough to be renewed in time under the present load, and
    that have enough patience with each other."""
    global _permit_seconds
    _permit_seconds = bound(1)
    monkeypatch.setattr(permits, "_PATIENCE_S", (bound(0.5), bound(1)))
    monkeypatch.setattr(permits, "_FORGET_S", bound(3))
    fleet = Fleet(broker_settings, ready_broker)
    yield fleet
    await fleet.stop()


@pytest.fixture
def plan_alone(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plan grants permits: no worker takes one that was left to a worker which stalls, or
    forgets its announcement, or takes a permit for expired because its renewal is late."""
    global _permit_seconds
    _permit_seconds = 3600
    monkeypatch.setattr(permits, "_PATIENCE_S", (3600, 3600))
    monkeypatch.setattr(permits, "_FORGET_S", 3600)


async def stays_waiting(task: asyncio.Task[Any], why: str) -> None:
    """Fail if `task` gets a permit within twice the duration of a permit."""
    done, _ = await asyncio.wait([task], timeout=2 * _permit_seconds)
    assert not done, why


class HeldPermits:
    """Counts the permits held at a time by all workers."""

    def __init__(self) -> None:
        self.now = self.peak = self.served = 0
        self.order: list[str] = []

    async def session(self, worker: Worker, tenant: str, seconds: float) -> None:
        permit = await worker.governor.admit("deepgram", tenant)
        assert permit is not None
        self.now += 1
        self.served += 1
        self.peak = max(self.peak, self.now)
        self.order.append(tenant)
        await asyncio.sleep(seconds)
        assert not permit.lost.is_set()
        self.now -= 1
        await permit.release()


# Limits


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"50", "object"),
        (b'{"connections": 0}', "connections"),
        (b'{"connections": "5"}', "connections"),
        (b'{"dials_per_second": 1.5}', "dials_per_second"),
        (b'{"conections": 5}', "conections"),
        (b"{", "JSON"),
    ],
)
def test_the_error_for_a_bad_limit_shows_the_format(text: bytes, what: str) -> None:
    with pytest.raises(UsageError, match=f'{what}.*it looks like {{"connections": 50'):
        parse_account_limit(text)


async def test_a_bad_entry_is_logged_once_and_the_last_valid_one_applies(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    first = await worker.take()
    caplog.set_level(logging.ERROR)
    await fleet.entry(b'{"connections": "many"}')
    await until(lambda: "connections" in caplog.text, "the error is logged")
    second = worker.admit()
    await stays_waiting(second, "the last valid limit was forgotten")
    assert caplog.text.count("invalid account limit, the old one stays") == 1
    await first.release()
    await soon(second, 5)


async def test_without_a_limit_nothing_is_sent(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit("another", connections=1, dials_per_second=1)
    assert await worker.governor.admit("deepgram", "t") is None
    sent = worker.broker.client.stats["out_msgs"]
    for _ in range(100):
        assert await worker.governor.admit("deepgram", "t") is None
        await worker.governor.dial("deepgram")
    assert not worker.governor.limited("deepgram")
    assert worker.governor.limited("another")
    assert worker.broker.client.stats["out_msgs"] == sent


async def test_providers_of_one_account_share_its_limit(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    permit = await worker.governor.admit("flux", "t")
    assert permit is not None
    second = worker.admit()
    await stays_waiting(second, "a second permit under a limit of one")
    await permit.release()
    await soon(second, 5)


# Never more than the limit


async def test_50_permits_for_200_sessions_of_four_workers(fleet: Fleet) -> None:
    workers = [await fleet.worker() for _ in range(4)]
    await fleet.limit(connections=50)
    out = HeldPermits()
    async with within(60), asyncio.TaskGroup() as tasks:
        for number in range(200):
            tenant = "small" if number >= 197 else f"big-{number % 2}"
            seconds = random.uniform(0.1, 0.4)
            tasks.create_task(out.session(workers[number % 4], tenant, seconds))
    assert out.served == 200
    assert out.peak == 50
    for worker in workers:
        assert worker.metric("natterjack_provider_slots_held") == 0
        assert worker.metric("natterjack_provider_slots_waited_for") == 0
        assert worker.metric("natterjack_provider_slot_wait_seconds_count") == 50


@pytest.mark.slow
async def test_never_more_than_the_limit_while_connections_break(fleet: Fleet) -> None:
    workers = [await fleet.worker() for _ in range(4)]
    await fleet.limit(connections=7)
    rng = random.Random(5)
    out, ends = HeldPermits(), time.monotonic() + bound(6)
    over: list[int] = []

    async def session(worker: Worker) -> None:
        while time.monotonic() < ends:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 1)):
                    permit = await worker.governor.admit("deepgram", f"t{rng.randrange(3)}")
                    assert permit is not None
                    out.now += 1
                    out.served += 1
                    over.extend([out.now] if out.now > 7 else [])
                    try:
                        await asyncio.sleep(rng.uniform(0, 0.3))
                    finally:
                        out.now -= 1
                        release = asyncio.ensure_future(permit.release())
                        worker.tasks.add(release)

    async def breaks() -> None:
        while time.monotonic() < ends:
            await asyncio.sleep(rng.uniform(0, 0.4))
            cut(rng.choice(workers))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(breaks())
        for number in range(40):
            tasks.create_task(session(workers[number % 4]))
    assert not over
    assert out.served > 40
    assert sum(worker.broker.reconnects for worker in workers) > 3
    # No permit was lost: all seven are available again.
    async with within(15):
        for worker in workers:
            await worker.broker.wait_connected()
        await asyncio.gather(*(workers[n % 4].take() for n in range(7)))


def cut(worker: Worker) -> None:
    """Abort the worker's connection."""
    if worker.broker.connected:
        worker.broker.client.abort()


# Fairness


@pytest.mark.usefixtures("plan_alone")
async def test_a_small_tenant_gets_the_next_permit(fleet: Fleet) -> None:
    big, small, other = [await fleet.worker() for _ in range(3)]
    await fleet.limit(connections=5)
    held = [await big.take("big") for _ in range(5)]
    crowd = [big.admit("big") for _ in range(60)] + [other.admit("big") for _ in range(60)]
    async with all_waiting(fleet, {"big": 120, "small": 1}):
        late = small.admit("small")
    await held[0].release()
    await soon(late, 5)
    assert not [task for task in crowd if task.done()]
    await held[1].release()
    await until(lambda: [task for task in crowd if task.done()], "then the other tenant")


@pytest.mark.usefixtures("plan_alone")
async def test_permits_are_shared_evenly_among_tenants(fleet: Fleet) -> None:
    workers = [await fleet.worker() for _ in range(3)]
    await fleet.limit(connections=6)
    held = [await workers[0].take("big") for _ in range(6)]
    tasks = {
        "big": [workers[n % 3].admit("big") for n in range(30)],
        "b": [workers[1].admit("b") for _ in range(10)],
    }

    def granted() -> dict[str, int]:
        return {tenant: sum(task.done() for task in tasks[tenant]) for tenant in tasks}

    def waiting() -> dict[str, int]:
        return {tenant: len(tasks[tenant]) - count for tenant, count in granted().items()}

    async with announcements(fleet) as received:
        tasks["c"] = [workers[n].admit("c") for n in range(3)]
        await received(waiting())
        for number, permit in enumerate(held[:4]):
            await permit.release()
            await until(lambda n=number: sum(granted().values()) > n, "a permit is passed on")
            await received(waiting())  # each knows it before the next one is passed on
    assert granted() == {"big": 0, "b": 2, "c": 2}


Waiting = Callable[[Mapping[str, int]], Awaitable[None]]


@contextlib.asynccontextmanager
async def announcements(fleet: Fleet) -> AsyncIterator[Waiting]:
    """A function that waits until every worker has received these numbers of waiting sessions, in
    announcements of the block."""
    broker = fleet.broker
    reported: dict[str, Counter[str]] = {}

    async def take(message: Any) -> None:
        report = json.loads(message.data)
        reported[report["by"]] = Counter({t: len(ages) for t, ages in report["waiting"].items()})

    async def received(wanted: Mapping[str, int]) -> None:
        def total() -> Counter[str]:
            return sum(reported.values(), Counter())

        await until(lambda: total() == Counter(wanted), f"{wanted} waiting")
        for worker in fleet.workers:  # one that has just begun to listen may have missed some
            await until(lambda w=worker: w.knows() == Counter(wanted), f"{wanted} known")

    subscription = await broker.client.subscribe(
        f"{REPUBLISHED_PREFIX}.waiting.slot.deepgram", cb=take
    )
    await broker.client.flush()
    yield received
    await subscription.unsubscribe()


@contextlib.asynccontextmanager
async def all_waiting(fleet: Fleet, wanted: dict[str, int]) -> AsyncIterator[None]:
    """After the block, wait until every worker has received these numbers of waiting sessions."""
    async with announcements(fleet) as received:
        yield
        await received(wanted)


async def test_another_tenant_in_place_of_one_is_announced_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the others would share a permit out without it."""
    monkeypatch.setattr(permits, "_ANNOUNCE_S", 3600)
    worker = await fleet.worker(factor=3600)  # no permit looks expired
    await fleet.limit(connections=1)
    await worker.take()
    async with announcements(fleet) as received:
        first = worker.admit("a")
        await received({"a": 1})
        first.cancel()
        worker.admit("b")
        await received({"b": 1})


async def test_permits_left_for_a_dead_workers_session_are_taken_soon(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    first = await worker.take()
    second = worker.admit("big")
    ghost = {"by": "ghost", "waiting": {"small": [99.0]}}
    announcing = asyncio.ensure_future(keep_announcing(fleet.broker, ghost))
    try:
        async with all_waiting(fleet, {"small": 1, "big": 1}):
            pass
        await first.release()
        await soon(second, 10)
    finally:
        announcing.cancel()


async def keep_announcing(broker: Broker, waiting: dict[str, Any]) -> None:
    subject = f"{REPUBLISHED_PREFIX}.waiting.slot.deepgram"
    while True:
        await broker.client.publish(subject, json.dumps(waiting).encode())
        await asyncio.sleep(0.1)  # paces messages: a worker repeats this several times a second


# Dials


async def test_dials_of_the_fleet_are_spread(fleet: Fleet) -> None:
    workers = [await fleet.worker() for _ in range(3)]
    await fleet.limit(dials_per_second=10)
    assert not workers[0].governor.limited("deepgram"), "there is no limit on connections"
    times: list[float] = []

    async def dial(worker: Worker) -> None:
        await worker.governor.dial("deepgram")
        times.append(time.monotonic())

    async with lateness() as ours, within(30), asyncio.TaskGroup() as tasks:
        for number in range(45):
            tasks.create_task(dial(workers[number % 3]))
    assert len(times) == 45
    # 0.7 s instead of 1 s, because a slow machine may delay one dial and not the next. Dials due
    # while this process stalled come all at once.
    for start in times:
        assert sum(start <= t < start + 0.7 for t in times) <= 10 * (1 + ours.seconds)
    assert times[-1] - times[0] > 3


async def test_a_cancelled_dial_does_not_delay_the_others(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(dials_per_second=1)
    await worker.governor.dial("deepgram")
    waiting = [asyncio.ensure_future(worker.governor.dial("deepgram")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await soon(waiting[2], 2.5)


# Workers that are killed, freeze, or hand over


class Holder:
    """A process that holds permits until it is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, settings: BrokerSettings, slots: int) -> Holder:
        program = f"from {__name__} import hold; hold({settings.url!r}, {slots}, {_permit_seconds})"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        holder = cls(process)
        assert await holder.line() == "held"
        return holder

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await soon(self.process.stdout.readline(), 30)).decode().strip()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


def hold(url: str, slots: int, permit_seconds: float) -> None:
    """Run in a Holder process: hold permits, and release all of them once one is lost."""

    async def main() -> None:
        worker = Worker(await connect(BrokerSettings(url=url), name="h"), "holder", permit_seconds)
        permits = [await worker.take() for _ in range(slots)]
        print("held", flush=True)
        await permits[0].lost.wait()
        for permit in permits:
            await permit.release()
        print(f"lost {sum(permit.lost.is_set() for permit in permits)}", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


async def test_permits_of_a_killed_worker_become_free(
    fleet: Fleet, broker_settings: BrokerSettings
) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=3)
    holder = await Holder.start(broker_settings, 3)
    try:
        tasks = [worker.admit() for _ in range(3)]
        await stays_waiting(tasks[0], "taken from a live worker")
        killed = time.monotonic()
        holder.process.send_signal(signal.SIGKILL)
        await soon(asyncio.gather(*tasks), _permit_seconds + 3)
        # Permits are renewed each third of their duration and checked each sixth.
        assert time.monotonic() - killed > _permit_seconds / 3
    finally:
        await holder.end()


async def test_a_frozen_worker_notices_its_lost_permits_on_resuming(
    fleet: Fleet, broker_settings: BrokerSettings
) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=2)
    holder = await Holder.start(broker_settings, 2)
    try:
        freeze(holder.process.pid)
        permits = [await worker.take() for _ in range(2)]
        waiting = worker.admit()
        holder.process.send_signal(signal.SIGCONT)
        # It releases both once it sees that one is lost, which must not free another's permit.
        assert await holder.line() == "lost 2"
        await stays_waiting(waiting, "the frozen worker released another worker's permit")
        assert all(permit.valid for permit in permits)
    finally:
        await holder.end()


async def test_a_successor_adopts_the_permit_of_a_dead_worker(
    fleet: Fleet, broker_settings: BrokerSettings
) -> None:
    first, second = await fleet.worker(), await fleet.worker()
    await fleet.limit(connections=1)
    permit = await first.take()
    crowd = second.admit("other")
    async with all_waiting(fleet, {"other": 1}):
        pass
    permit.stop_renewing()
    adopted = await second.take(adopt=permit.ticket)
    assert not crowd.done()
    assert adopted.ticket != permit.ticket
    await stays_waiting(crowd, "the adopted permit was not renewed")
    await adopted.release()
    await soon(crowd, 5)


async def test_a_live_former_holder_loses_its_permit_to_the_successor(fleet: Fleet) -> None:
    first, second = await fleet.worker(), await fleet.worker()
    await fleet.limit(connections=1)
    permit = await first.take()
    adopted = await second.take(adopt=permit.ticket)
    await soon(permit.lost.wait(), 5)
    assert not permit.valid
    await permit.release()
    await stays_waiting(first.admit(), "the former holder released its successor's permit")
    assert adopted.valid


async def test_an_invalid_ticket_has_to_wait(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    former = await worker.take()
    await former.release()
    holder = await worker.take()
    tickets = (former.ticket, "deepgram.0.", "deepgram.0.abc", "x.0.a", "??", "")
    waiting = {worker.admit(adopt=ticket) for ticket in tickets}
    first = asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await stays_waiting(asyncio.ensure_future(first), "one permit has two holders")
    while waiting:
        await holder.release()
        admitted, waiting = await soon(
            asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED), 5
        )
        [holder] = [task.result() for task in admitted]


# Cancellation and release


async def test_cancelled_waiters_lose_no_permit(fleet: Fleet) -> None:
    worker, other = await fleet.worker(), await fleet.worker()
    await fleet.limit(connections=2)
    for steps in range(60):
        task = worker.admit()
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps % 3 == 0:
            await asyncio.sleep(steps / 20_000)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).release()
    # Both are available at once, before they could expire.
    async with asyncio.timeout(_permit_seconds * 0.9):
        await asyncio.gather(other.admit(), other.admit())


async def test_release_is_idempotent(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    permit = await worker.take()
    await permit.release()
    second = await worker.take()
    await permit.release()
    third = worker.admit()
    await stays_waiting(third, "released twice")
    assert second.valid


async def test_release_during_a_broker_outage(fleet: Fleet, nats_server: EmbeddedServer) -> None:
    worker, other = await fleet.worker(20), await fleet.worker(20)
    await fleet.limit(connections=1)
    permit = await worker.take()
    nats_server.kill()
    await until(lambda: not worker.broker.connected, "the broker is down")
    await permit.release()
    waiting = other.admit()
    nats_server.start()
    # Long before the permit could expire.
    await soon(waiting, 8)


# Limits that change


async def test_a_raised_limit_admits_more_at_once(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    await worker.take()
    tasks = [worker.admit() for _ in range(4)]
    await stays_waiting(tasks[0], "over the limit")
    await fleet.limit(connections=4)
    await until(lambda: sum(task.done() for task in tasks) == 3, "three more")
    await stays_waiting(next(task for task in tasks if not task.done()), "over the limit")


async def test_a_lowered_limit_revokes_nothing_and_admits_nothing(fleet: Fleet) -> None:
    one, two = await fleet.worker(), await fleet.worker()
    await fleet.limit(connections=4)
    held = [await (one, two)[n % 2].take() for n in range(4)]
    await fleet.limit(connections=2)
    waiting = two.admit()
    held.sort(key=lambda permit: permit.number)
    await held[0].release()  # below the new limit, but three permits are held
    await held[1].release()
    await stays_waiting(waiting, "two permits are held under a limit of two")
    assert all(permit.valid for permit in held[2:])
    await held[3].release()
    await soon(waiting, 5)


async def test_removing_the_limit_admits_all_waiting_sessions(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=1)
    permit = await worker.take()
    waiting = [asyncio.ensure_future(worker.governor.admit("deepgram", "t")) for _ in range(3)]
    await asyncio.sleep(0)
    await fleet.limit()
    assert await soon(asyncio.gather(*waiting), 5) == [None] * 3
    await fleet.limit(connections=1)
    await stays_waiting(worker.admit(), "the permit is still held")
    assert permit.valid


# A broker that dies or loses its data


async def test_permits_outlive_the_broker(fleet: Fleet, nats_server: EmbeddedServer) -> None:
    one, two = await fleet.worker(), await fleet.worker()
    await fleet.limit(connections=4)
    held = [await (one, two)[n % 2].take() for n in range(4)]
    waiting = [worker.admit() for worker in (one, two)]
    nats_server.kill()
    await asyncio.sleep(_permit_seconds * 1.5)  # longer than a permit lasts
    assert not any(permit.valid for permit in held)
    nats_server.start()
    await until(lambda: all(permit.valid for permit in held), "all renewed")
    await stays_waiting(waiting[0], "a permit was granted twice")
    assert not waiting[1].done()
    await held[0].release()
    await held[1].release()
    await soon(asyncio.gather(*waiting), 10)
    assert not any(permit.lost.is_set() for permit in held)


async def test_permits_survive_a_purged_stream(fleet: Fleet) -> None:
    worker = await fleet.worker()
    await fleet.limit(connections=2)
    held = [await worker.take() for _ in range(2)]
    await fleet.broker.client.jetstream().purge_stream(streams.SLOTS)
    js = fleet.broker.client.jetstream()

    async def there() -> bool:
        return (await js.stream_info(streams.SLOTS)).state.messages == 2

    await until(there, "both permits are written again")
    await stays_waiting((await fleet.worker()).admit(), "three permits under a limit of two")
    assert all(permit.valid for permit in held)


async def test_a_cut_connection_costs_no_permit(fleet: Fleet) -> None:
    one, two = await fleet.worker(), await fleet.worker()
    await fleet.limit(connections=1)
    permit = await one.take()
    waiting = two.admit()
    cut(one)
    await until(lambda: one.broker.reconnects == 1, "reconnected")
    await stays_waiting(waiting, "a cut connection lost the permit")
    assert permit.valid


# Refusals announced among workers


async def test_all_other_workers_learn_of_a_refusal(fleet: Fleet) -> None:
    sender, receiver = await fleet.worker(), await fleet.worker()
    assert await sender.governor.admit("deepgram", "t") is None  # starts the watches
    assert await receiver.governor.admit("deepgram", "t") is None
    await sender.governor.announce("flux", "rate_limit", 30)
    await until(lambda: receiver.refusals, "the refusal arrives")
    late = await fleet.worker()
    await until(lambda: late.refusals, "a new worker learns of it")
    for worker in (receiver, late):
        [(provider, cause, left)] = worker.refusals
        assert (provider, cause) == ("flux", "rate_limit")
        assert 0 < left <= 30
    assert late.refusals[0][2] < receiver.refusals[0][2]
    assert not sender.refusals


async def test_repeated_refusals_are_announced_once(fleet: Fleet) -> None:
    sender, receiver = await fleet.worker(), await fleet.worker()
    for _ in range(50):
        await sender.governor.announce("deepgram", "credit", 30)
    await sender.governor.announce("other", "credit", 30)
    await until(
        lambda: "other" in [provider for provider, *_ in receiver.refusals], "the last announcement"
    )
    # The refusal applies to the provider and to all others of the account.
    assert Counter(provider for provider, *_ in receiver.refusals)["deepgram"] <= 1


async def test_old_or_invalid_announcements_are_ignored(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await fleet.worker()
    assert await worker.governor.admit("deepgram", "t") is None
    js = fleet.broker.client.jetstream()
    old = {"cause": "credit", "seconds": 5, "by": "x", "at": "2020-01-01T00:00:00Z"}
    zoneless = {"cause": "credit", "seconds": 5, "by": "x", "at": "2020-01-01T00:00:00"}
    for account, news in (("old", old), ("a", zoneless), ("b", {"cause": 1})):
        subject = streams.bucket_subject(streams.PROVIDERS_BUCKET, account)
        await js.publish(subject, json.dumps(news).encode())
    sender = await fleet.worker()
    await sender.governor.announce("good", "credit", 5)
    await until(lambda: worker.refusals, "the valid announcement")
    assert [provider for provider, *_ in worker.refusals] == ["good"]
    assert "cannot be read" in caplog.text
