"""Enforcement of budgets by several workers.

A worker here is a connection, a tally and sessions that record calls. test_program_budget.py runs
real sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest
from nats.js.kv import KeyValue

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey
from tests.faults.proxy import NatsProxy
from tests.waiting import bound, until, within
from worker.metering import budgets as budget
from worker.metering.budgets import Budgets
from worker.metering.tally import Tally
from worker.metering.usage import Usage
from worker.metrics import Metrics

pytestmark = pytest.mark.process

DAY = "2026-11-20"


class RecordedSession:
    """A session that records the budget's calls."""

    def __init__(self, tenant: str) -> None:
        self.key = SessionKey(tenant, "c", "s")
        self.lows: list[float | None] = []
        self.ends: list[str] = []

    def warn_budget(self, remaining_seconds: float | None) -> None:
        self.lows.append(remaining_seconds)

    def exhaust(self, detail: str) -> None:
        self.ends.append(detail)


class Clock:
    day = DAY


class Worker:
    """Running budgets and their dependencies."""

    def __init__(self, broker: Broker, name: str, clock: Clock) -> None:
        self.broker = broker
        self.metrics = Metrics(1, most_tenants=2)
        self.tally = Tally(name, lambda: clock.day)
        self.sessions: list[RecordedSession] = []
        self.checks = 0
        self.budgets = Budgets(
            broker,
            broker.client.jetstream(),
            self.tally,
            self.metrics,
            (0.5, 0.8),
            lambda: clock.day,
        )

    def _held(self) -> Iterable[RecordedSession]:
        self.checks += 1
        return list(self.sessions)

    async def run(self) -> None:
        await self.budgets.run(self._held)

    def session(self, tenant: str) -> RecordedSession:
        session = RecordedSession(tenant)
        self.sessions.append(session)
        return session

    def use(
        self, tenant: str, seconds: float, *, replayed: float = 0, cost: float = 0, money: str = ""
    ) -> None:
        used = Usage(sent=seconds, replayed=replayed, cost=cost)
        self.tally.add(tenant, "deepgram", money or "USD", used)

    def left(self, tenant: str, unit: str = "seconds") -> float | None:
        labels = {"tenant": tenant, "unit": unit}
        return self.metrics.registry.get_sample_value("natterjack_budget_remaining", labels)

    async def checked(self, times: int = 2) -> None:
        """Wait until the worker has checked its sessions so many more times."""
        before = self.checks
        await until(lambda: self.checks >= before + times, "the worker checks its sessions")


Join = Callable[..., Awaitable[Worker]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def join(
    ready_broker: Broker, broker_settings: BrokerSettings, clock: Clock
) -> AsyncIterator[Join]:
    """Start workers, each with its own connection."""
    async with contextlib.AsyncExitStack() as stack:
        tasks: list[asyncio.Task[None]] = []

        async def join(name: str = "w1", url: str | None = None, *, running: bool = True) -> Worker:
            settings = BrokerSettings(url=url) if url else broker_settings
            broker = await stack.enter_async_context(connected(settings, name=name, once=True))
            worker = Worker(broker, name, clock)
            if running:
                tasks.append(asyncio.create_task(worker.run()))
            return worker

        yield join
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [e for e in ended if not isinstance(e, asyncio.CancelledError)] == []


@pytest.fixture
async def bucket(ready_broker: Broker) -> KeyValue:
    """The bucket of budgets, for edits as by any NATS tool."""
    return await ready_broker.client.jetstream().key_value(streams.BUDGETS_BUCKET)


# ---- one worker ---------------------------------------------------------------------------------


async def test_a_session_is_warned_at_each_threshold_and_then_ended(
    join: Join, bucket: KeyValue
) -> None:
    await bucket.put("tenant.acme", b"100")
    worker = await join()
    session, other = worker.session("acme"), worker.session("other")
    worker.use("other", 1000)
    worker.use("acme", 49)
    await until(lambda: worker.left("acme") == 51, "the remaining budget is shown")
    assert session.lows == []
    worker.use("acme", 11)
    await until(lambda: session.lows == [40], "the first warning")
    worker.use("acme", 10)
    await until(lambda: worker.left("acme") == 30, "further use is counted")
    worker.use("acme", 15, replayed=5)  # audio sent again is not counted
    await until(lambda: session.lows == [40, 20], "the second warning")
    assert worker.budgets.spent("acme") is None
    worker.use("acme", 21)
    await until(lambda: session.ends, "the end")
    await worker.checked(3)
    assert session.ends == [f"tenant acme has used 101 of 100 s of {DAY}"]
    assert worker.budgets.spent("acme") == session.ends[0]
    assert session.lows == [40, 20]
    assert worker.left("acme") == 0
    assert (other.lows, other.ends) == ([], [])
    assert worker.budgets.spent("other") is None


async def test_a_late_session_gets_only_the_highest_warning(join: Join, bucket: KeyValue) -> None:
    await bucket.put("tenant.acme", b"100")
    worker = await join()
    worker.use("acme", 90)
    first = worker.session("acme")
    await until(lambda: first.lows == [10], "the warning")
    second = worker.session("acme")
    await until(lambda: second.lows == [10], "the warning for the later session")
    await worker.checked()
    assert (first.lows, second.lows) == ([10], [10])


async def test_costs_include_replayed_audio_and_only_their_own_currency(
    join: Join, bucket: KeyValue
) -> None:
    await bucket.put("tenant.acme", b'{"cost_per_day": 10, "currency": "EUR"}')
    worker = await join()
    session = worker.session("acme")
    worker.tally.add("acme", "speechmatics", "USD", Usage(sent=0.001, cost=1000))
    worker.use("acme", 40, replayed=20, cost=6, money="EUR")
    await until(lambda: session.lows, "the warning")
    assert session.lows == [pytest.approx(4 * 20 / 6, abs=0.01)], "at the day's price per second"
    assert worker.left("acme", "EUR") == 4
    worker.use("acme", 10, replayed=10, cost=4.5, money="EUR")
    await until(lambda: session.ends, "the end")
    assert session.ends == [f"tenant acme has used 10.5 of 10 EUR of {DAY}"]


async def test_the_default_budget_applies_to_each_tenant(join: Join, bucket: KeyValue) -> None:
    await bucket.put("default", b"100")
    await bucket.put("tenant.big", b"1000")
    worker = await join()
    small, other, big = (worker.session(tenant) for tenant in ("small", "other", "big"))
    for session in (small, other, big):
        worker.use(session.key.tenant, 60)
    worker.use("small", 50)
    await until(lambda: small.ends and other.lows, "the end of one, a warning of the other")
    await worker.checked()
    assert (other.lows, other.ends, big.lows, big.ends) == ([40], [], [], [])
    # Only two tenants have their own labels; a shared label shows the smallest remainder.
    assert worker.left("small") == 0
    assert {worker.left(name) for name in ("other", "big")} == {40, None}


async def test_a_budget_of_zero_admits_no_session(join: Join, bucket: KeyValue) -> None:
    await bucket.put("default", b"0")
    worker = await join()
    await worker.budgets.ready("acme")
    assert worker.budgets.spent("acme") == f"tenant acme has used 0 of 0 s of {DAY}"


async def test_a_raised_or_removed_budget_admits_sessions_at_once(
    join: Join, bucket: KeyValue
) -> None:
    await bucket.put("tenant.acme", b"100")
    worker = await join()
    first = worker.session("acme")
    worker.use("acme", 150)
    await until(lambda: first.ends, "the end")
    worker.sessions.clear()
    await bucket.put("tenant.acme", b"200")
    await until(lambda: worker.budgets.spent("acme") is None, "sessions are admitted")
    second = worker.session("acme")
    await until(lambda: second.lows == [50], "the warning of the new budget")
    await bucket.put("tenant.acme", b"1000")
    await until(lambda: worker.left("acme") == 850, "the higher budget applies")
    worker.use("acme", 450)
    await until(lambda: second.lows == [50, 400], "the same threshold of a higher budget")
    await bucket.put("tenant.acme", b"10")
    await until(lambda: second.ends, "a lowered budget ends running sessions")
    await bucket.delete("tenant.acme")
    await until(lambda: worker.budgets.spent("acme") is None, "nothing is limited")
    await until(lambda: worker.left("acme") is None, "nothing is shown")


async def test_a_new_day_begins_at_midnight(join: Join, bucket: KeyValue, clock: Clock) -> None:
    await bucket.put("tenant.acme", b"100")
    one, two = await join("w1"), await join("w2")
    sessions = [worker.session("acme") for worker in (one, two)]
    one.use("acme", 60)
    await until(lambda: all(s.lows == [40] for s in sessions), "both are warned")
    clock.day = "2026-11-21"
    await until(
        lambda: (one.left("acme"), two.left("acme")) == (100, 100),
        "the full budget is available again",
    )
    two.use("acme", 70)
    await until(lambda: all(s.lows == [40, 30] for s in sessions), "both are warned again")
    two.use("acme", 40)
    await until(lambda: all(s.ends for s in sessions), "both are ended")
    assert sessions[0].ends == ["tenant acme has used 110 of 100 s of 2026-11-21"]
    assert one.budgets.spent("acme") == sessions[0].ends[0]
    clock.day = "2026-11-22"
    assert one.budgets.spent("acme") is None, "the first session of the day is admitted"


@pytest.mark.parametrize("levels", [(0.0,), (0.5, 1.0), (-1.0,), (float("nan"),)])
async def test_thresholds_must_lie_between_0_and_1(
    levels: tuple[float, ...], ready_broker: Broker
) -> None:
    js = ready_broker.client.jetstream()
    with pytest.raises(ValueError, match="between 0 and 1"):
        Budgets(ready_broker, js, Tally("w"), Metrics(1), levels)


# ---- invalid entries ----------------------------------------------------------------------------


async def test_the_last_valid_budget_applies(
    join: Join, bucket: KeyValue, caplog: pytest.LogCaptureFixture
) -> None:
    await bucket.put("tenant.acme", b"100")
    await bucket.put("tenant.new", b"so much")
    await bucket.put("default", b"1000")
    await bucket.put("account.deepgram", b'{"connections": 50}')
    worker = await join()
    await worker.budgets.ready("acme")
    worker.session("acme")
    await bucket.put("tenant.acme", b"an hour")
    await until(
        lambda: "tenant.acme in stt_budgets: not a budget" in caplog.text, "the error is logged"
    )
    worker.use("acme", 100)
    worker.use("new", 999)
    await until(lambda: worker.budgets.spent("acme"), "the valid budget applies")
    assert worker.budgets.spent("new") is None
    worker.use("new", 1)
    assert worker.budgets.spent("new"), "without a valid budget, the default applies"
    await bucket.put("tenant.acme", b"an hour")
    await bucket.put("tenant.acme", b"300")
    await until(lambda: worker.budgets.spent("acme") is None, "the next valid budget")
    complaints = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len([c for c in complaints if c.startswith("tenant.acme")]) == 1
    assert complaints[0].endswith("; ignored")
    assert "account" not in caplog.text


# ---- several workers ----------------------------------------------------------------------------


async def test_use_is_summed_over_workers(join: Join, bucket: KeyValue) -> None:
    await bucket.put("tenant.acme", b"100")
    workers = [await join(f"w{n}") for n in range(3)]
    sessions = [worker.session("acme") for worker in workers]
    for worker in workers:
        worker.use("acme", 20)
    await until(lambda: all(s.lows == [40] for s in sessions), "all are warned")
    assert all(worker.budgets.spent("acme") is None for worker in workers)
    workers[0].use("acme", 40)
    await until(lambda: all(s.ends for s in sessions), "all are ended")
    assert {session.ends[0] for session in sessions} == {
        f"tenant acme has used 100 of 100 s of {DAY}"
    }


async def test_the_first_session_of_a_new_worker_is_limited(join: Join, bucket: KeyValue) -> None:
    await bucket.put("tenant.acme", b"100")
    before = await join("w1")
    before.session("acme")
    before.use("acme", 100)
    await until(lambda: before.budgets.spent("acme"), "the budget is used up")
    await until(lambda: not before.tally.unwritten(), "the use is written")
    worker = await join("w2")
    await worker.budgets.ready("acme")  # the worker has read nothing yet
    assert worker.budgets.spent("acme") == f"tenant acme has used 100 of 100 s of {DAY}"
    session = worker.session("acme")
    await until(lambda: session.ends, "a session that did not check is ended")


async def test_use_refused_by_the_bucket_does_not_lower_the_sum(
    join: Join, bucket: KeyValue, ready_broker: Broker
) -> None:
    """Writes for a dead worker are conditional, and all workers receive them, even refused ones."""
    await bucket.put("tenant.acme", b"100")
    one, two = await join("w1"), await join("w2")
    session = one.session("acme")
    two.session("acme")
    two.use("acme", 60)
    await until(lambda: session.lows == [40], "the other worker's use")
    subject = streams.bucket_subject(streams.USAGE_BUCKET, f"{DAY}.acme.w2")
    older = b'{"providers": {"deepgram": {"sent_seconds": 5}}}'
    await ready_broker.client.publish(
        subject, older, headers={"Nats-Expected-Last-Subject-Sequence": "7777"}
    )
    await ready_broker.client.publish(subject, b"no use at all")
    one.use("acme", 40)
    await until(lambda: session.ends, "the sum of all")


async def test_without_a_budget_no_message_is_sent(join: Join, bucket: KeyValue) -> None:
    worker = await join()
    worker.session("free")
    await worker.budgets.ready("free")
    sent = worker.broker.client.stats["out_msgs"]
    for n in range(100):
        await worker.budgets.ready(f"tenant-{n}")
        assert worker.budgets.spent(f"tenant-{n}") is None
    assert worker.broker.client.stats["out_msgs"] == sent
    assert worker.checks == 0
    await bucket.put("tenant.acme", b"100")
    paying = worker.session("acme")
    for tenant in ("free", "acme"):
        worker.use(tenant, 60)
    await until(lambda: paying.lows, "the budget is enforced")
    await until(lambda: len(worker.tally.unwritten()) == 1, "its use is written")
    assert list(worker.tally.unwritten()) == [f"{DAY}.free.w1"]


async def test_a_tenant_without_sessions_is_unsubscribed(
    join: Join, bucket: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_LINGER_S", 0.5)
    await bucket.put("tenant.acme", b"100")
    here = await join()
    client = here.broker.client
    await here.budgets.ready("other")
    before = client.subscription_count
    await here.budgets.ready("acme")
    assert client.subscription_count == before + 2
    await until(lambda: client.subscription_count == before, "subscriptions are removed")
    session = here.session("acme")
    here.use("acme", 100)
    await until(lambda: session.ends, "the tenant's new session ends")


# ---- broker outages -----------------------------------------------------------------------------


async def test_budgets_outlive_the_broker(
    join: Join, bucket: KeyValue, nats_server: EmbeddedServer
) -> None:
    await bucket.put("tenant.acme", b"100")
    one, two = await join("w1"), await join("w2")
    sessions = [worker.session("acme") for worker in (one, two)]
    one.use("acme", 20)
    await until(lambda: two.left("acme") == 80, "the other worker has the use")
    nats_server.kill()
    await until(lambda: not one.broker.connected and not two.broker.connected, "NATS is down")
    for worker in (one, two):
        worker.use("acme", 100)
        await worker.checked(3)
    assert [session.ends for session in sessions] == [[], []]
    assert one.budgets.spent("acme") is None
    nats_server.start()
    await until(lambda: all(s.ends for s in sessions), "both are ended", 30)
    await until(lambda: one.left("acme") == two.left("acme") == 0, "nothing is left")
    await until(lambda: not one.tally.unwritten() and not two.tally.unwritten(), "all is written")
    late = await join("w3")
    await late.budgets.ready("acme")
    assert late.budgets.spent("acme") == f"tenant acme has used 220 of 100 s of {DAY}"


async def test_a_budget_raised_during_an_outage_ends_no_session(
    join: Join, bucket: KeyValue, nats_server: EmbeddedServer
) -> None:
    await bucket.put("tenant.acme", b"100")
    async with NatsProxy(nats_server.port) as line:
        worker = await join("w1", line.url)
        session = worker.session("acme")
        worker.use("acme", 10)
        await until(lambda: worker.left("acme") == 90, "the budget is known")
        line.cut()
        await until(lambda: not worker.broker.connected, "the worker is cut off")
        await bucket.put("tenant.acme", b"300")
        worker.use("acme", 100)
        await worker.checked(3)
        line.heal()
        await until(lambda: worker.left("acme") == 190, "the worker has the new budget", 30)
        assert (session.lows, session.ends) == ([], [])
        assert worker.budgets.spent("acme") is None
        worker.use("acme", 200)
        await until(lambda: session.ends, "the end of the current budget")


async def test_no_session_ends_before_the_budget_is_read_again(
    join: Join, bucket: KeyValue, nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_READY_S", 60.0)
    await bucket.put("tenant.acme", b"100")
    async with NatsProxy(nats_server.port) as line:
        worker = await join("w1", line.url)
        session = worker.session("acme")
        worker.use("acme", 10)
        await until(lambda: worker.left("acme") == 90, "the budget is known")
        line.cut()
        await until(lambda: not worker.broker.connected, "the worker is cut off")
        worker.use("acme", 100)
        line.before("$JS.API.DIRECT.GET.KV_stt_budgets", line.stall)
        line.heal()
        await until(lambda: worker.broker.connected, "the connection is back", 30)
        asking = asyncio.create_task(worker.budgets.ready("acme"))
        await worker.checked(3)
        assert session.ends == []
        assert worker.budgets.spent("acme") is None
        assert not asking.done()
        line.heal()
        await asking
        assert worker.budgets.spent("acme") == f"tenant acme has used 110 of 100 s of {DAY}"
        await until(lambda: session.ends, "the end")


async def test_unreadable_budgets_delay_sessions_only_briefly(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The buckets do not exist here."""
    worker = Worker(broker, "w1", Clock())
    task = asyncio.create_task(worker.run())
    try:
        async with within(20):
            await worker.budgets.ready("acme")
            await worker.budgets.ready("other")
        assert worker.budgets.spent("acme") is None
        assert caplog.text.count("cannot be read, sessions start") == 1
    finally:
        task.cancel()
        await asyncio.wait({task})


# ---- overshoot ----------------------------------------------------------------------------------


async def test_overshoot_of_a_budget(join: Join, bucket: KeyValue) -> None:
    """Ledgers report once a second, as in a worker, and each session sends at four times real time.
    docs/explanation/metering.md gives about 1.5 s per session."""
    speed, limit = 4.0, 60.0
    await bucket.put("tenant.acme", b"60")
    workers = [await join(f"w{n}") for n in range(3)]
    sent: list[float] = []
    late = bound(3)

    async def stream(worker: Worker, offset: float) -> None:
        nonlocal late
        session = worker.session("acme")
        loop = asyncio.get_running_loop()
        await asyncio.sleep(offset)
        reported_at = last = loop.time()
        sent_seconds = unreported = 0.0
        while not session.ends:
            await asyncio.sleep(0.02)  # paces real-time audio, as a session sends it
            now = loop.time()
            late = max(late, bound(3))
            passed, last = min(now - last, 0.2), now  # a stalled process sends nothing
            sent_seconds += passed * speed
            unreported += passed * speed
            if now - reported_at >= 1:
                worker.use("acme", unreported)
                reported_at, unreported = now, 0.0
        worker.use("acme", unreported)
        sent.append(sent_seconds)

    async with within(60):
        await asyncio.gather(*(stream(worker, n / 6) for n, worker in enumerate(workers * 2)))
    over = sum(sent) - limit
    assert over > 0, "a session ended before the budget was exhausted"
    assert over <= 6 * speed * late, f"{over / speed / 6:.2f} s per session"
