"""The fence, against a real broker: two publishers that both believe they hold the session."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from natterjack.broker import streams
from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.broker.connection import Broker, connected
from natterjack.broker.stored import Stored, StoreUnavailable, StreamStore
from natterjack.events import Durable, FinalEvent, StatusEvent, StatusState, parse_event
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.subjects import SessionKey
from tests.faults.proxy import NatsProxy
from tests.limited import LimitedServer
from tests.waiting import soon, until
from worker.errors import LeaseLost, Overtaken
from worker.session.checkpoint import Checkpoint, CheckpointStore
from worker.session.output.publish import Publisher

pytestmark = pytest.mark.process

KEY = SessionKey("t", "c", "s")


class Holder:
    """A publisher, and events for it to publish."""

    def __init__(
        self, broker: Broker, epoch: int, session_id: str = "session-1", name: str = "a"
    ) -> None:
        self.session_id, self.epoch = session_id, epoch
        self.lost = False
        js = broker.client.jetstream()
        self.publisher = Publisher(broker, js, KEY, session_id, epoch, name)

    async def establish(self) -> Durable | None:
        return await self.publisher.establish(
            await self.publisher.look(), self.status, self.confirm
        )

    async def confirm(self) -> None:
        """Succeeds while the lease is this holder's."""
        if self.lost:
            raise LeaseLost("the checkpoint was replaced")

    async def end(self, state: StatusState) -> None:
        await self.publisher.durable("status", lambda n: self.status(n, state))

    def status(self, sequence: int, state: StatusState = "assigned") -> bytes:
        return StatusEvent(
            session_id=self.session_id, **KEY._asdict(), epoch=self.epoch, sequence=sequence,
            state=state, worker=f"w{self.epoch}", published_at=datetime.now(UTC),
        ).encode()  # fmt: skip

    async def final(self, text: str) -> None:
        await self.publisher.durable(
            "final",
            lambda n: FinalEvent(
                session_id=self.session_id, **KEY._asdict(), epoch=self.epoch, sequence=n,
                segment=0, text=text, start=0, end=1, published_at=datetime.now(UTC),
            ).encode(),
        )  # fmt: skip


async def stored_events(broker: Broker) -> list[tuple[int, str]]:
    store = StreamStore(broker, streams.TRANSCRIPTS)
    await store.start()

    async def look() -> list[Stored] | None:
        try:
            subject = f"stt.transcript.{KEY}.>"
            messages, _ = await store.read(subject, 1, batch=1024, max_bytes=10**7)
        except StoreUnavailable:  # a busy machine's disk may stand still for seconds
            return None
        return messages

    messages = await until(look, "the stream can be read", 30)
    events = [parse_event(message.data) for message in messages]
    return [
        (e.sequence, e.text if isinstance(e, FinalEvent) else e.type)
        for e in events
        if e.type != "interim"
    ]


async def test_numbers_go_on_over_holders_and_start_anew_with_a_session(
    ready_broker: Broker,
) -> None:
    first, second = Holder(ready_broker, 1), Holder(ready_broker, 2)
    assert await first.establish() is None
    await first.final("one")
    before = await second.establish()
    assert isinstance(before, FinalEvent)
    await second.final("two")
    other = Holder(ready_broker, 1, "session-2")
    assert await other.establish() is None
    assert await stored_events(ready_broker) == [
        (0, "status"), (1, "one"), (2, "status"), (3, "two"), (0, "status"),
    ]  # fmt: skip


async def test_the_end_of_an_earlier_session_is_found(ready_broker: Broker) -> None:
    publisher = Holder(ready_broker, 1, "session-9").publisher
    assert await publisher.end_of("session-1") is None
    ends: dict[str, StatusState] = {"session-1": "failed", "session-2": "closed"}
    for session_id, state in ends.items():
        holder = Holder(ready_broker, 1, session_id)
        await holder.establish()
        await holder.final("one")
        await holder.end(state)
    await Holder(ready_broker, 1, "session-3").establish()
    for session_id, state in ends.items():
        event = await publisher.end_of(session_id)
        assert event is not None
        assert (event.session_id, event.state) == (session_id, state)
    assert await publisher.end_of("session-3") is None, "it has not ended"


@pytest.mark.parametrize("news", [{"type": "summary", "points": 3}, {"state": "dreaming"}])
async def test_numbers_go_on_behind_an_event_of_a_later_release(
    ready_broker: Broker, news: dict[str, object]
) -> None:
    first, second = Holder(ready_broker, 1), Holder(ready_broker, 2)
    await first.establish()
    await first.publisher.durable(
        "status", lambda n: json.dumps({**json.loads(first.status(n)), **news}).encode()
    )
    before = await second.establish()
    assert before is not None
    assert (before.sequence, before.epoch) == (1, 1)
    await second.final("two")
    finals = await ready_broker.client.jetstream().get_last_msg(
        streams.TRANSCRIPTS, f"stt.transcript.{KEY}.final"
    )
    assert json.loads(finals.data or b"")["sequence"] == 3


async def test_an_old_holder_is_refused_for_good(ready_broker: Broker) -> None:
    old, new = Holder(ready_broker, 1), Holder(ready_broker, 2)
    await old.establish()
    await new.establish()
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await old.final("ghost")
    assert old.publisher.fenced
    await new.final("real")
    assert [text for _, text in await stored_events(ready_broker)] == ["status", "status", "real"]


async def test_a_new_holder_gets_through_although_the_old_one_goes_on(ready_broker: Broker) -> None:
    old, new = Holder(ready_broker, 1), Holder(ready_broker, 2)
    await old.establish()

    async def chatter() -> None:
        n = 0
        while True:
            await old.final(f"old {n}")
            n += 1
            await asyncio.sleep(0.002)  # many times faster than speech

    chattering = asyncio.create_task(chatter())
    await new.establish()
    with pytest.raises(LeaseLost):
        await chattering
    await new.final("new")
    events = await stored_events(ready_broker)
    assert [n for n, _ in events] == list(range(len(events)))
    assert events[-1][1] == "new"


async def test_a_session_that_was_closed_is_not_opened_again(ready_broker: Broker) -> None:
    first, second = Holder(ready_broker, 1), Holder(ready_broker, 2)
    await first.establish()
    await first.publisher.durable("status", lambda n: first.status(n, "closed"))
    before = await second.establish()
    assert isinstance(before, StatusEvent)
    assert before.closing
    assert len(await stored_events(ready_broker)) == 2


async def test_an_older_epoch_does_not_take_over(ready_broker: Broker) -> None:
    new, old = Holder(ready_broker, 5), Holder(ready_broker, 4)
    await new.establish()
    with pytest.raises(LeaseLost):
        await old.establish()


async def test_a_holder_that_stood_still_begins_nothing_after_later_sessions(
    ready_broker: Broker,
) -> None:
    """It stood still after it had taken the lease. Its session has ended since, and another one has
    begun, whose events say nothing of that."""
    late, holder = Holder(ready_broker, 1), Holder(ready_broker, 2, name="b")
    before = await late.publisher.look()
    late.lost = True
    await holder.establish()
    await holder.publisher.durable("status", lambda n: holder.status(n, "closed"))
    following = Holder(ready_broker, 1, "session-2", "c")
    await following.establish()
    with pytest.raises(LeaseLost):
        await late.publisher.establish(before, late.status, late.confirm)
    await following.final("next")
    texts = [text for _, text in await stored_events(ready_broker)]
    assert texts == ["status", "status", "status", "next"]


async def test_an_event_published_while_the_server_is_killed_is_stored_once(
    nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    holder = Holder(ready_broker, 1)
    await holder.establish()

    async def speak() -> None:
        for n in range(300):
            await holder.final(str(n))

    speaking = asyncio.create_task(speak())
    for _ in range(2):
        await asyncio.sleep(0.05)  # somewhere in the middle; the place does not matter
        nats_server.kill()
        nats_server.start()
    await soon(speaking, 60)
    events = await stored_events(ready_broker)
    assert [n for n, _ in events] == list(range(301))
    assert [text for _, text in events] == ["status", *map(str, range(300))]


async def test_an_acknowledgement_that_was_lost_is_no_lost_lease(
    nats_server: EmbeddedServer, ready_broker: Broker
) -> None:
    async with (
        NatsProxy(nats_server.port) as proxy,
        connected(BrokerSettings(url=proxy.url), name="near", once=True) as near,
    ):
        proxy.after(f"stt.transcript.{KEY}.final")
        proxy.after(f"$KV.{streams.CHECKPOINTS_BUCKET}.{KEY}")
        holder = Holder(near, 1)
        await holder.establish()
        for text in ("one", "two"):
            await holder.final(text)
        bucket = await near.client.jetstream().key_value(streams.CHECKPOINTS_BUCKET)
        checkpoints = CheckpointStore(near, bucket, KEY, Checkpoint)
        for _ in range(2):
            await checkpoints.write(_checkpoint("a", 1), "{}")
        assert near.reconnects == 2
    assert await stored_events(ready_broker) == [(0, "status"), (1, "one"), (2, "two")]


@pytest.mark.parametrize("stored", [True, False])
async def test_a_limit_that_shrinks_while_an_event_is_published(
    limited_server: LimitedServer, stored: bool
) -> None:
    """The connection is lost with the acknowledgement, or with the event itself."""
    final = f"stt.transcript.{KEY}.final"
    async with (
        NatsProxy(limited_server.port) as proxy,
        connected(BrokerSettings(url=proxy.url), name="near", once=True) as near,
    ):
        await streams.ensure(near, StreamSettings())
        holder = Holder(near, 1)
        await holder.establish()
        trigger = proxy.after if stored else proxy.before
        trigger(final, lambda: limited_server.reload(2048))
        long = "long " * 1000
        if stored:
            await holder.final(long)
        else:
            with pytest.raises(MessageTooLarge):
                await holder.final(long)
        for text in ("short", "another"):
            await holder.final(text)
        assert near.reconnects == 1
        expected = ["status", *([long] if stored else []), "short", "another"]
        assert await stored_events(near) == [*enumerate(expected)]


async def test_an_event_that_arrives_after_its_replacement_fences_the_holder(
    limited_server: LimitedServer,
) -> None:
    """A large event can be stored after the holder has asked for it and publishes a smaller one in
    its place. Then the holder must not take the large one for the smaller one."""
    async with connected(BrokerSettings(url=limited_server.url), name="near", once=True) as near:
        await streams.ensure(near, StreamSettings())
        holder = Holder(near, 1)
        await holder.establish()
        with pytest.raises(MessageTooLarge):
            await holder.final("too long " * 10_000)
        late = Holder(near, 1)  # publishes as the same holder would have
        await late.publisher.resume()
        await late.final("late")
        with pytest.raises(LeaseLost):
            await holder.final("part")
        assert await stored_events(near) == [(0, "status"), (1, "late")]


async def test_a_cancelled_publish_is_neither_missed_nor_mixed_up(ready_broker: Broker) -> None:
    holder = Holder(ready_broker, 1)
    await holder.establish()
    stored = 1
    for n in range(150):
        publishing = asyncio.create_task(holder.final(str(n)))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.wait({publishing})
        await holder.publisher.resume()
        last = (await stored_events(ready_broker))[-1]
        stored += last[1] == str(n)
        assert last[0] == stored - 1
        await holder.publisher.durable("status", lambda n: holder.status(n, "recovering"))
        stored += 1
    events = await stored_events(ready_broker)
    assert [n for n, _ in events] == list(range(stored))
    finals = [text for _, text in events if text != "status"]
    assert len(finals) > 50, "hardly any final was published"
    assert finals == sorted(set(finals), key=int)


@pytest.mark.parametrize(
    ("epoch", "session_id"), [(2, "session-1"), (1, "session-1"), (1, "session-2")]
)
async def test_a_suspended_holder_does_not_get_around_the_fence(
    ready_broker: Broker, epoch: int, session_id: str
) -> None:
    """A suspended holder learns from the broker that it is fenced. A broker that was killed may
    assign the same epoch twice."""
    old, new = Holder(ready_broker, 1), Holder(ready_broker, epoch, session_id, "b")
    await old.establish()
    await old.final("a")
    await old.publisher.resume()
    await new.establish()
    await new.final("b")
    with pytest.raises(LeaseLost):
        await old.publisher.resume()
    with pytest.raises(LeaseLost):
        await old.final("c")
    assert [text for _, text in await stored_events(ready_broker)] == ["status", "a", "status", "b"]


def _checkpoint(worker: str, epoch: int) -> Checkpoint:
    return Checkpoint(
        session_id="session-1", epoch=epoch, worker=worker, holder=worker, state="streaming",
        opened_at=datetime.now(UTC),
    )  # fmt: skip


async def test_checkpoints_are_compare_and_set(ready_broker: Broker) -> None:
    bucket = await ready_broker.client.jetstream().key_value(streams.CHECKPOINTS_BUCKET)
    a, b = (CheckpointStore(ready_broker, bucket, KEY, Checkpoint) for _ in range(2))
    assert await a.read() is None
    await a.write(_checkpoint("a", 1), "{}")
    await a.write(_checkpoint("a", 1), "{}")
    stored = await b.read()
    assert stored is not None
    assert stored.worker == "a"
    await b.write(_checkpoint("b", 2), "{}")
    with pytest.raises(LeaseLost, match="b has the session"):
        await a.write(_checkpoint("a", 1), "{}")


async def test_checkpoints_of_other_holders(ready_broker: Broker) -> None:
    """A holder whose write is refused has lost the session. If its epoch is greater, it has
    to read what the older holder wrote last, and does not replace it unread."""
    bucket = await ready_broker.client.jetstream().key_value(streams.CHECKPOINTS_BUCKET)
    a, b, c = (CheckpointStore(ready_broker, bucket, KEY, Checkpoint) for _ in range(3))
    for store in (a, b, c):
        assert await store.read() is None
    await a.write(_checkpoint("a", 1), "{}")
    for _ in range(2):  # a refusal must not reveal the revision that the next write needs
        with pytest.raises(LeaseLost) as refused:
            await b.write(_checkpoint("b", 1), "{}")
        assert not isinstance(refused.value, Overtaken)
    with pytest.raises(Overtaken):
        await c.write(_checkpoint("c", 2), "{}")
    stored = await c.read()
    assert stored is not None
    assert stored.holder == "a"
    await c.write(_checkpoint("c", 2), "{}")
