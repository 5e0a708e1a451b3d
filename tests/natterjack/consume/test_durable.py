"""durable() on a real broker: acknowledged events, several processes' worth of participants."""

from __future__ import annotations

from datetime import UTC, datetime

import natterjack
from natterjack.broker.connection import Broker
from natterjack.consume.durable import Delivery
from natterjack.events import FinalEvent
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, transcript_subject
from tests.waiting import within


def final(n: int, speaker: str = "s", conversation: str = "c") -> FinalEvent:
    return FinalEvent(
        session_id=f"session-{conversation}-{speaker}", tenant="t", conversation=conversation,
        speaker=speaker, epoch=1, published_at=datetime.now(UTC), sequence=n, segment=n,
        text=f"final {n}", start=n, end=n + 1,
    )  # fmt: skip


async def publish(broker: Broker, *events: FinalEvent) -> None:
    js = broker.client.jetstream()
    for event in events:
        key = SessionKey(event.tenant, event.conversation, event.speaker)
        await js.publish(transcript_subject(key, "final"), event.encode())


async def take(deliveries: natterjack.Deliveries, count: int) -> list[Delivery]:
    async with within(30):
        return [await anext(deliveries) for _ in range(count)]


async def test_what_is_acknowledged_does_not_come_again(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    async with natterjack.durable("x", start="start", settings=broker_settings) as deliveries:
        for n in range(3):
            (one,) = await take(deliveries, 1)
            assert (one.event.id, one.attempt) == (f"session-c-s:{n}", 1)
            await one.ack()
        (left,) = await take(deliveries, 1)
        assert left.event.id == "session-c-s:3"
    async with natterjack.durable("x", settings=broker_settings) as deliveries:
        (again,) = await take(deliveries, 1)
        assert (again.event.id, again.attempt) == ("session-c-s:3", 2)
        assert again.position == left.position
        await again.ack()
        (last,) = await take(deliveries, 1)
        assert (last.event.id, last.attempt) == ("session-c-s:4", 1)
