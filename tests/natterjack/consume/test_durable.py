"""durable() on a real broker: acknowledged events, in order, shared among participants."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import shutil
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connect
from natterjack.broker.streams import ensure
from natterjack.consume.sharing.backlog import Share
from natterjack.consume.sharing.members import LIFE_S
from natterjack.consume.sharing.shares import SHARES, digest, share_of
from natterjack.errors import InvalidKey, UsageError
from natterjack.events import FinalEvent, TurnEvent
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.subjects import SessionKey, transcript_subject
from tests.faults.proxy import NatsProxy
from tests.nats_server import NatsServer
from tests.waiting import soon, until, within


def _common(n: int, speaker: str) -> dict[str, Any]:
    return {
        "session_id": f"session-{speaker}", "tenant": "t", "conversation": "c", "speaker": speaker,
        "epoch": 1, "sequence": n, "published_at": datetime.now(UTC),
    }  # fmt: skip


def final(n: int, speaker: str = "s") -> FinalEvent:
    return FinalEvent(**_common(n, speaker), segment=n, text=f"final {n}", start=n, end=n + 1)


def turn(n: int, speaker: str = "s") -> TurnEvent:
    return TurnEvent(**_common(n, speaker), turn=n, event="ended")


async def publish(broker: Broker, *events: FinalEvent | TurnEvent) -> None:
    js = broker.client.jetstream()
    for event in events:
        key = SessionKey(event.tenant, event.conversation, event.speaker)
        await js.publish(transcript_subject(key, event.type), event.encode())


async def stored(broker: Broker, event: FinalEvent) -> bool:
    """Try to publish."""
    try:
        await publish(broker, event)
    except (NatsError, TimeoutError):
        return False
    return True


async def take(deliveries: natterjack.Deliveries, count: int) -> list[natterjack.Delivery]:
    async with within(60):
        return [await anext(deliveries) for _ in range(count)]


async def acknowledged(deliveries: natterjack.Deliveries, count: int) -> list[str]:
    """The ids of the next events, each acknowledged."""
    found = []
    for _ in range(count):
        (one,) = await take(deliveries, 1)
        await one.ack()
        found.append(str(one.event.id))
    return found


def ids(deliveries: list[natterjack.Delivery]) -> list[str]:
    return [str(delivery.event.id) for delivery in deliveries]


@contextlib.asynccontextmanager
async def quiet(deliveries: natterjack.Deliveries) -> AsyncIterator[None]:
    """Nothing is delivered during the block."""
    waiting = asyncio.ensure_future(anext(deliveries))
    try:
        yield
        assert not waiting.done(), waiting.result().event
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


@pytest.fixture
def options(broker_settings: BrokerSettings) -> dict[str, Any]:
    return {"start": "start", "settings": broker_settings}


async def test_what_is_acknowledged_does_not_come_again(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    async with natterjack.durable("x", **options) as deliveries:
        assert await acknowledged(deliveries, 3) == [f"session-s:{n}" for n in range(3)]
        (left,) = await take(deliveries, 1)
        assert (left.event.id, left.attempt) == ("session-s:3", 1)
    async with natterjack.durable("x", **options) as deliveries:
        (again,) = await take(deliveries, 1)
        assert (again.event.id, again.attempt) == ("session-s:3", 2)
        assert again.position == left.position == again.event.position
        await left.ack()  # of a delivery that does not count any more
        async with quiet(deliveries):
            await publish(ready_broker, final(5))
            await until(lambda: deliveries.pending == 3, "it is read")
        await again.ack()
        assert await acknowledged(deliveries, 2) == ["session-s:4", "session-s:5"]
        assert deliveries.pending == 0


async def test_a_retried_event_holds_back_its_session_only(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, final(0, "a"), final(1, "a"), final(0, "b"), final(1, "b"))
    async with natterjack.durable("x", **options) as deliveries:
        first, other = await take(deliveries, 2)
        assert ids([first, other]) == ["session-a:0", "session-b:0"]
        await first.retry(0.5)
        await other.ack()
        later = await take(deliveries, 2)
        assert [(d.event.id, d.attempt) for d in later] == [("session-b:1", 1), ("session-a:0", 2)]
        await later[1].ack()
        assert ids(await take(deliveries, 1)) == ["session-a:1"]


async def test_a_clock_that_is_set_back_delays_no_retry(
    ready_broker: Broker, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(ready_broker, final(0))
    async with natterjack.durable("x", **options) as deliveries:
        (one,) = await take(deliveries, 1)
        await one.retry(0.5)
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() - 36_000)
        (again,) = await take(deliveries, 1)
        assert again.attempt == 2


async def test_a_retry_without_a_time_is_refused(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, final(0))
    async with natterjack.durable("x", **options) as deliveries:
        (one,) = await take(deliveries, 1)
        for never in (math.inf, math.nan):
            with pytest.raises(UsageError, match="use `reject`"):
                await one.retry(never)
        await one.ack()


async def test_a_retry_is_remembered_by_the_next_process(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, final(0, "a"), final(0, "b"))
    async with natterjack.durable("x", **options) as deliveries:
        for _ in range(2):
            first, second = await take(deliveries, 2)
            await first.retry(0)
            await second.retry(0)
        first, second = await take(deliveries, 2)
        await first.retry(3600)
        await second.ack()
    await publish(ready_broker, final(1, "a"), final(1, "b"))
    async with natterjack.durable("x", **options) as deliveries:
        wanted = "session-b:1" if first.event.speaker == "a" else "session-a:1"
        assert await acknowledged(deliveries, 1) == [wanted]
        async with quiet(deliveries):
            await until(lambda: deliveries.pending == 2, "the rest waits")


async def test_a_rejected_event_is_a_dead_letter(
    ready_broker: Broker, options: dict[str, Any], broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, final(0), final(1))
    async with natterjack.durable("x", **options) as deliveries:
        (one,) = await take(deliveries, 1)
        await one.retry()
        (one,) = await take(deliveries, 1)
        await one.reject('no "customer"\nof this name')
        assert await acknowledged(deliveries, 1) == ["session-s:1"]
    (letter,) = [
        letter async for letter in natterjack.dead_letters("x", "t", settings=broker_settings)
    ]
    assert letter.event == one.event
    assert (letter.reason, letter.attempt) == ('no "customer"\nof this name', 2)
    assert letter.position == one.position
    assert letter.rejected_at.tzinfo is not None
    for name, tenant in (("y", None), ("x", "other")):
        assert [x async for x in natterjack.dead_letters(name, tenant, broker=ready_broker)] == []


async def test_a_batch_has_events_of_many_sessions_in_order(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    events = [final(n, speaker) for n in range(4) for speaker in "abc"]
    await publish(ready_broker, *events)
    async with natterjack.durable("x", **options) as deliveries:
        batches = deliveries.batches(10, 30)
        async with within(30):
            first = await anext(batches)
        assert ids(first) == [event.id for event in events[:10]]
        await first[1].retry()  # the second event of the batch: what follows of b comes again
        for delivery in (first[0], *first[2:]):
            await delivery.ack()
        async with within(30):
            second = await anext(deliveries.batches(10, 0.5))
        # The events of b that followed it in the batch were acknowledged, and are delivered again.
        assert [one for one in ids(second) if "-b:" in one] == [f"session-b:{n}" for n in range(4)]
        assert len(second) == 5
        assert "session-c:3" in ids(second)
    with pytest.raises(UsageError, match="size"):
        await anext(deliveries.batches(0, 1))


async def test_a_batch_that_is_not_full_ends_in_time(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    async with natterjack.durable("x", **options) as deliveries:
        batch = asyncio.ensure_future(anext(deliveries.batches(10, 0.2)))
        await publish(ready_broker, final(0))
        async with within(30):
            assert ids(await batch) == ["session-s:0"]


async def test_a_batch_that_is_canceled_before_it_is_full_was_not_delivered(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    async with natterjack.durable("x", **options) as deliveries:
        waiting = asyncio.ensure_future(anext(deliveries.batches(10, 3600)))
        await publish(ready_broker, final(0), final(1))
        backlog = deliveries._participant.backlog
        await until(lambda: backlog.out == 2, "both are in the batch")
        waiting.cancel()
        await asyncio.wait([waiting])
        (first,) = await take(deliveries, 1)
        assert (first.event.id, first.attempt) == ("session-s:0", 1)


async def test_an_event_that_is_not_settled_in_time_comes_again(
    ready_broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await publish(ready_broker, final(0))
    async with natterjack.durable("x", ack_wait=0.3, **options) as deliveries:
        first, second = await take(deliveries, 2)
        assert first.event == second.event
        assert second.attempt == 2
        assert not first.counts
        await first.reject("too late")
        await second.ack()
    assert "not settled within 0.3 s" in caplog.text
    assert [x async for x in natterjack.dead_letters("x", broker=ready_broker)] == []


async def test_work_that_takes_longer_than_the_time_for_it_is_done_once(
    ready_broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await publish(ready_broker, *(final(n) for n in range(3)))
    done = []
    async with natterjack.durable("x", ack_wait=0.1, **options) as deliveries:
        for n in range(3):
            (one,) = await take(deliveries, 1)
            await until(lambda n=n: caplog.text.count("not settled within") > n, "it is overdue")
            await (one.reject("slow") if n == 1 else one.ack())
            done.append(one.event.id)
        assert done == [f"session-s:{n}" for n in range(3)]
        assert deliveries.pending == 0
    letters = [letter.event async for letter in natterjack.dead_letters("x", broker=ready_broker)]
    assert [letter and letter.id for letter in letters] == ["session-s:1"]


async def test_a_batch_is_no_larger_than_what_may_be_under_way(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    async with natterjack.durable("x", max_in_flight=2, **options) as deliveries:
        assert len(await soon(anext(deliveries.batches(10, seconds=3600)), 20)) == 2


@pytest.mark.parametrize("reason", ["x" * 1_000_000, "not \ud800 text", ValueError("no"), ""])
async def test_any_reason_will_do(
    ready_broker: Broker, options: dict[str, Any], reason: Any
) -> None:
    await publish(ready_broker, final(0))
    async with natterjack.durable("x", **options) as deliveries:
        (one,) = await take(deliveries, 1)
        await one.reject(reason)
    (letter,) = [x async for x in natterjack.dead_letters("x", broker=ready_broker)]
    assert letter.reason == str(reason)[:1000].replace("\ud800", r"\ud800")


async def test_no_more_events_are_under_way_than_allowed(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, *(final(0, speaker) for speaker in "abcd"))
    async with natterjack.durable("x", max_in_flight=2, **options) as deliveries:
        first, _ = await take(deliveries, 2)
        async with quiet(deliveries):
            await until(lambda: deliveries.pending == 4, "all are read")
        await first.ack()
        assert len(await take(deliveries, 1)) == 1


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [(["turn"], ["1"]), (["final", "turn"], ["0", "1"]), (None, ["0", "1"]), (["status"], [])],
)
async def test_kinds(
    ready_broker: Broker, options: dict[str, Any], kinds: list[str] | None, wanted: list[str]
) -> None:
    await publish(ready_broker, final(0), turn(1))
    async with natterjack.durable("x", kinds=kinds, **options) as deliveries:
        assert await acknowledged(deliveries, len(wanted)) == [f"session-s:{n}" for n in wanted]
        async with quiet(deliveries):
            await until(lambda: deliveries.pending == 0, "nothing else is wanted")


async def test_where_a_durable_consumer_begins(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, final(0), final(1))
    async with natterjack.durable("all", start="start", settings=broker_settings) as deliveries:
        (first,) = await take(deliveries, 1)
    starts = {
        "new": None, "after": first.position, "ago": timedelta(hours=1),
        "at": datetime.now(UTC) + timedelta(hours=1),
    }  # fmt: skip
    found = {}
    for name, start in starts.items():
        async with natterjack.durable(name, start=start, settings=broker_settings) as deliveries:
            await until(lambda d=deliveries: d._participant.backlog.shares, "it has begun")
        if name == "new":  # later: it has begun, though it does not run
            await publish(ready_broker, final(2))
        async with natterjack.durable(name, settings=broker_settings) as deliveries:
            if name != "at":
                found[name] = await acknowledged(deliveries, 1)
            else:
                async with quiet(deliveries):
                    await publish(ready_broker, final(3))
    assert found == {"new": ["session-s:2"], "after": ["session-s:1"], "ago": ["session-s:0"]}


async def test_processes_share_the_work_and_take_over_from_one_that_ends(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    async with natterjack.durable("x", **options) as one:
        async with natterjack.durable("x", **options) as two:
            shares = [d._participant.backlog.shares for d in (one, two)]
            await until(lambda: [len(s) for s in shares] == [SHARES / 2] * 2, "each has half")
            speakers = [f"s{number}" for number in range(40)]
            await publish(ready_broker, *(final(0, speaker) for speaker in speakers))
            got: list[set[str]] = [set(), set()]

            async def read(deliveries: natterjack.Deliveries, into: set[str]) -> None:
                async for delivery in deliveries:
                    into.add(delivery.event.speaker)
                    await delivery.ack()

            reading = [
                asyncio.create_task(read(d, g)) for d, g in zip((one, two), got, strict=True)
            ]
            await until(lambda: len(got[0] | got[1]) == 40, "all is read")
            for task in reading:
                task.cancel()
            await asyncio.wait(reading)
            assert got[0]
            assert got[1]
            assert not got[0] & got[1]
            await publish(ready_broker, *(final(1, speaker) for speaker in speakers))
            await take(two, 3)  # and not acknowledged
        found = await take(one, 40)
    assert {delivery.event.speaker for delivery in found} == set(speakers)
    assert [d.attempt for d in found].count(2) == 3


@pytest.mark.parametrize(
    ("first", "second"),
    [({"kinds": ["final"]}, {"kinds": ["turn"]}), ({"tenant": "t"}, {"tenant": "other"}),
     ({}, {"kinds": ["final"]})],
)  # fmt: skip
async def test_a_process_that_reads_other_events_waits_for_the_end_of_the_others(
    ready_broker: Broker,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    first: dict[str, Any],
    second: dict[str, Any],
) -> None:
    speakers = [f"s{number}" for number in range(20)]
    async with contextlib.AsyncExitStack() as later:
        async with natterjack.durable("x", **options, **first) as one:
            await until(lambda: len(one._participant.backlog.shares) == SHARES, "it has all shares")
            two = await later.enter_async_context(natterjack.durable("x", **options, **second))
            await until(lambda: "reads other events" in caplog.text, "the other one is told")
            await publish(ready_broker, *(final(0, speaker) for speaker in speakers))
            assert sorted(await acknowledged(one, 20)) == sorted(f"session-{s}:0" for s in speakers)
            assert not two._participant.backlog.shares
        shares = two._participant.backlog.shares
        await until(lambda: len(shares) == SHARES, "the other one goes on")


async def test_a_process_that_is_cut_off_delivers_nothing_that_others_may_have(
    nats_server: NatsServer,
    ready_broker: Broker,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its connection hangs, and it does not notice: one event is under way, the next one waits."""
    await publish(ready_broker, final(0), final(1))
    async with NatsProxy(nats_server.port) as proxy:
        cut_off = {**options, "settings": BrokerSettings(url=proxy.url)}
        async with natterjack.durable("x", **cut_off) as one:
            (first,) = await take(one, 1)
            await until(lambda: one.pending == 2, "the other one is read")
            proxy.stall()
            async with natterjack.durable("x", **options) as two:
                assert ids(await take(two, 1)) == ["session-s:0"]
                await first.ack()
                async with quiet(one):
                    await publish(ready_broker, final(2))
                    await until(lambda: two.pending == 3, "it is read")
                proxy.heal()
                async with quiet(one):
                    await until(lambda: "another process has taken over" in caplog.text, "it knows")
            await first.ack()
            assert (await acknowledged(one, 1))[0] == "session-s:0"


async def test_who_stood_still_takes_nothing_from_others_that_live(
    ready_broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It has not heard them, but neither could it."""
    async with natterjack.durable("x", **options) as one, natterjack.durable("x", **options) as two:
        shares = [d._participant.backlog.shares for d in (one, two)]
        await until(lambda: [len(s) for s in shares] == [SHARES / 2] * 2, "each has half")
        before = [set(each) for each in shares]
        time.sleep(LIFE_S + 1)
        await publish(ready_broker, *(final(0, f"s{number}") for number in range(20)))
        reading = [asyncio.create_task(read_on(deliveries)) for deliveries in (one, two)]
        await until(lambda: not one.pending and not two.pending, "all is read")
        assert [set(each) for each in shares] == before
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
    assert "took over" not in caplog.text
    assert "has taken over" not in caplog.text


async def read_on(deliveries: natterjack.Deliveries) -> None:
    async for delivery in deliveries:
        await delivery.ack()


async def test_a_connection_that_does_not_hear_itself_is_refused(
    broker_settings: BrokerSettings,
) -> None:
    broker = await connect(broker_settings, name="deaf", echo=False)
    try:
        with pytest.raises(UsageError, match="connect with echo"):
            async with natterjack.durable("x", broker=broker):
                pass
    finally:
        await broker.close()


async def test_a_restart_of_the_broker_costs_nothing(
    nats_server: NatsServer, ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, *(final(n) for n in range(3)))
    async with natterjack.durable("x", **options) as deliveries:
        (one,) = await take(deliveries, 1)
        nats_server.kill()
        await one.ack()
        nats_server.start()
        await until(lambda: stored(ready_broker, final(3)), "the broker is back")
        assert await acknowledged(deliveries, 3) == [f"session-s:{n}" for n in (1, 2, 3)]
    await publish(ready_broker, final(4))
    async with natterjack.durable("x", **options) as deliveries:
        assert await acknowledged(deliveries, 1) == ["session-s:4"]


async def test_a_broker_that_has_lost_its_last_writes_costs_nothing_but_twins(
    nats_server: NatsServer, ready_broker: Broker, options: dict[str, Any], tmp_path: Path
) -> None:
    """As after a power failure: what was acknowledged last is gone, progress included."""
    await publish(ready_broker, *(final(n) for n in range(6)))
    async with natterjack.durable("x", **options) as deliveries:
        share = await held(deliveries)
        for wanted, seen in (([0, 1], "copy"), ([2, 3], "lost")):
            assert await acknowledged(deliveries, 2) == [f"session-s:{n}" for n in wanted]
            await until(lambda: not share.dirty and share.saved, "progress is stored")
            nats_server.kill()
            if seen == "copy":
                shutil.copytree(nats_server.store, tmp_path / "copy")
            else:
                shutil.rmtree(nats_server.store)
                shutil.copytree(tmp_path / "copy", nats_server.store)
            nats_server.start()
        assert await acknowledged(deliveries, 2) == ["session-s:4", "session-s:5"]
    await until(lambda: stored(ready_broker, final(6)), "the broker is back")
    async with natterjack.durable("x", **options) as deliveries:
        # Those again whose progress could not be stored, because the broker was not back yet.
        given = await acknowledged(deliveries, 1)
        while given[-1] != "session-s:6":
            given += await acknowledged(deliveries, 1)
    every = [f"session-s:{n}" for n in range(7)]
    assert given == every[-len(given) :]
    assert len(given) <= 5, "what was stored before the failure is repeated"


async def held(deliveries: natterjack.Deliveries) -> Share[Any]:
    """The share of the only key, once it is held."""
    number = share_of(digest(b"t.c.s"))
    shares = deliveries._participant.backlog.shares
    await until(lambda: number in shares, "the share is held")
    return shares[number]


async def test_consumers_that_are_deleted_on_the_broker_cost_nothing(
    ready_broker: Broker, options: dict[str, Any]
) -> None:
    await publish(ready_broker, final(0))
    js = ready_broker.client.jetstream()
    async with natterjack.durable("x", **options) as deliveries:
        assert await acknowledged(deliveries, 1) == ["session-s:0"]
        consumers = await js.consumers_info(streams.TRANSCRIPTS)
        assert consumers
        for consumer in consumers:
            await js.delete_consumer(streams.TRANSCRIPTS, consumer.name)
        await publish(ready_broker, final(1))
        assert await acknowledged(deliveries, 1) == ["session-s:1"]


async def test_dead_letters_that_are_removed_meanwhile_are_not_waited_for(
    ready_broker: Broker, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natterjack.consume.dead_letters._SILENCE_S", 0.5)
    await publish(ready_broker, *(final(n) for n in range(900)))
    async with natterjack.durable("x", **options) as deliveries:
        async for batch in deliveries.batches(500, 1):
            await asyncio.gather(*(delivery.reject("bad") for delivery in batch))
            if deliveries.pending == 0:
                break
    letters = natterjack.dead_letters("x", broker=ready_broker)
    async with within(60):
        assert (await anext(letters)).reason == "bad"
        await ready_broker.client.jetstream().purge_stream(streams.DEAD_LETTERS)
        assert len([letter async for letter in letters]) < 900


async def test_progress_that_is_deleted_is_written_again(
    ready_broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await publish(ready_broker, final(0), final(1))
    js, bucket = ready_broker.client.jetstream(), f"KV_{streams.DURABLES_BUCKET}"
    async with natterjack.durable("x", **options) as deliveries:
        assert await acknowledged(deliveries, 1) == ["session-s:0"]
        await js.purge_stream(bucket)
        assert await acknowledged(deliveries, 1) == ["session-s:1"]
        await until(lambda: "the stored progress was deleted" in caplog.text, "it is noticed")
        await js.delete_stream(bucket)
        await publish(ready_broker, final(2))
        assert await acknowledged(deliveries, 1) == ["session-s:2"]
        await until(lambda: "bucket stt_durables is missing" in caplog.text, "it is noticed")
        await ensure(ready_broker, StreamSettings())
        await publish(ready_broker, final(3))
        assert await acknowledged(deliveries, 1) == ["session-s:3"]
    await publish(ready_broker, final(4))
    async with natterjack.durable("x", **options) as deliveries:
        assert await acknowledged(deliveries, 1) == ["session-s:4"]


@pytest.mark.parametrize("running", [True, False])
async def test_events_of_a_stream_that_was_recreated_are_delivered(
    ready_broker: Broker, options: dict[str, Any], running: bool
) -> None:
    js = ready_broker.client.jetstream()
    await publish(ready_broker, *(final(n) for n in range(5)))

    async def recreate() -> None:
        await js.delete_stream(streams.TRANSCRIPTS)
        await ensure(ready_broker, StreamSettings())
        await publish(ready_broker, final(10), final(11))

    async with natterjack.durable("x", **options) as deliveries:
        await acknowledged(deliveries, 5)
        if running:
            await recreate()
            assert await acknowledged(deliveries, 2) == ["session-s:10", "session-s:11"]
    if not running:
        await recreate()
    await publish(ready_broker, final(12))
    async with natterjack.durable("x", **options) as deliveries:
        left = ["session-s:12"] if running else [f"session-s:{n}" for n in (10, 11, 12)]
        assert await acknowledged(deliveries, len(left)) == left


async def test_it_waits_for_streams(
    broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with natterjack.durable("x", **options) as deliveries:
        await until(lambda: "bucket stt_durables is missing: a worker" in caplog.text, "it says so")
        await ensure(broker, StreamSettings())
        await publish(broker, final(0))
        assert await acknowledged(deliveries, 1) == ["session-s:0"]
    assert caplog.text.count("is missing") <= 2


async def test_a_message_that_is_no_event_is_left_out(
    ready_broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await ready_broker.client.jetstream().publish("stt.transcript.t.c.s.final", b"nonsense")
    await publish(ready_broker, final(0))
    caplog.set_level(logging.WARNING)
    async with natterjack.durable("x", **options) as deliveries:
        assert await acknowledged(deliveries, 1) == ["session-s:0"]
    assert "not an event" in caplog.text


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("a.b", {}, InvalidKey),
        ("x", {"tenant": "a b"}, InvalidKey),
        ("x", {"kinds": ["interim"]}, UsageError),
        ("x", {"kinds": ["words"]}, UsageError),
        ("x", {"start": "yesterday"}, UsageError),
        ("x", {"ack_wait": 0}, UsageError),
        ("x", {"ack_wait": float("nan")}, UsageError),
        ("x", {"max_in_flight": 0}, UsageError),
    ],
)
async def test_impossible_values(name: str, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        async with natterjack.durable(name, settings=BrokerSettings(url="nats://x"), **values):
            pass
