"""listen() against a real broker: stored first, then live, no hole and no double."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

import natterjack
from natterjack.connection import Broker, connected
from natterjack.embedded import EmbeddedServer
from natterjack.errors import InvalidKey, StreamMismatch
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, transcript_subject

from ..waiting import bound

KEY = SessionKey("t", "c", "s")


def _common(epoch: int) -> dict[str, object]:
    return {
        "session_id": "session-1", **KEY._asdict(), "epoch": epoch,
        "published_at": datetime.now(UTC),
    }  # fmt: skip


def final(n: int, epoch: int = 1) -> FinalEvent:
    return FinalEvent(
        **_common(epoch), sequence=n, segment=n, text=f"final {n}", start=n, end=n + 1
    )


def interim(segment: int, text: str, epoch: int = 1) -> InterimEvent:
    return InterimEvent(
        **_common(epoch), segment=segment, text=text, start=segment, end=segment + 1
    )


async def publish(broker: Broker, *events: Event) -> None:
    for event in events:
        subject = transcript_subject(event.key, event.type)
        if isinstance(event, InterimEvent):
            await broker.client.publish(subject, event.encode())
        else:
            await broker.client.jetstream().publish(subject, event.encode())


@contextlib.asynccontextmanager
async def listening(
    settings: BrokerSettings, **options: bool | str
) -> AsyncIterator[Callable[[int], asyncio.Future[list[Event]]]]:
    """A listener that is under way; gives a way to take the next so many events."""
    source = natterjack.listen(settings=settings, **options)  # type: ignore[arg-type]
    queue: asyncio.Queue[Event] = asyncio.Queue()

    async def pump() -> None:
        async for event in source:
            queue.put_nowait(event)

    async def take(count: int) -> list[Event]:
        async with asyncio.timeout(bound(15)):
            return [await queue.get() for _ in range(count)]

    pumping = asyncio.create_task(pump())
    try:
        yield lambda count: asyncio.ensure_future(take(count))
    finally:
        pumping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pumping


def texts(events: list[Event]) -> list[str]:
    return [e.text if isinstance(e, FinalEvent | InterimEvent) else e.type for e in events]


async def test_stored_first_then_live(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(600)))
    async with listening(broker_settings, from_start=True) as take:
        events = await take(600)
        await publish(ready_broker, *(final(n) for n in range(600, 620)))
        events += await take(20)
    assert texts(events) == [f"final {n}" for n in range(620)]


async def test_without_from_start_only_what_is_new(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, final(0))
    async with listening(broker_settings) as take:
        # An interim tells when it listens: interims are kept nowhere.
        first = take(1)
        while not first.done():
            await publish(ready_broker, interim(5, "ready"))
            await asyncio.wait({first}, timeout=0.05)
        await publish(ready_broker, final(1))
        seen = await take(1)
        while texts(seen) == ["ready"]:
            seen = await take(1)
    assert texts(seen) == ["final 1"]


async def test_interims_behind_a_final_or_an_epoch_are_dropped(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, final(0, epoch=2))
    async with listening(broker_settings, from_start=True) as take:
        await take(1)
        await publish(
            ready_broker,
            interim(0, "late", epoch=2),
            interim(1, "zombie", epoch=1),
            interim(1, "good", epoch=2),
        )
        assert texts(await take(1)) == ["good"]


async def test_filters(ready_broker: Broker, broker_settings: BrokerSettings) -> None:
    async with listening(broker_settings, from_start=True, tenant="other") as take:
        await publish(ready_broker, final(0))
        status = StatusEvent(
            session_id="session-2", tenant="other", conversation="c", speaker="s", epoch=1,
            sequence=0, state="assigned", worker="w", published_at=datetime.now(UTC),
        )  # fmt: skip
        await publish(ready_broker, status)
        assert await take(1) == [status]
    with pytest.raises(InvalidKey, match=r"tenant .a\.b."):
        async for _ in natterjack.listen("a.b", settings=broker_settings):
            pass


async def test_what_is_no_event_is_skipped(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await ready_broker.client.jetstream().publish("stt.transcript.t.c.s.final", b"{]")
    await publish(ready_broker, final(0))
    async with listening(broker_settings, from_start=True) as take:
        assert texts(await take(1)) == ["final 0"]


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    nats_server: EmbeddedServer, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    async with listening(broker_settings, from_start=True) as take:
        events = await take(5)
        for start in (5, 10):
            nats_server.kill()
            nats_server.start()
            async with connected(broker_settings, name="worker", once=True) as own:
                await publish(own, *(final(n) for n in range(start, start + 5)))
            events += await take(5)
    assert texts(events) == [f"final {n}" for n in range(15)]


async def test_without_the_stream_it_says_so(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    with pytest.raises(StreamMismatch, match="STT_TRANSCRIPTS is missing"):
        async for _ in natterjack.listen(settings=broker_settings):
            pass
