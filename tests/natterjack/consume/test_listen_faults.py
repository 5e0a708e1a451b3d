"""listen() over crashes of the broker, replaced streams, bad messages and slow programs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from nats.errors import Error as NatsError

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.consume.markers import CaughtUp, StreamReplaced
from natterjack.events import FinalEvent, StatusEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from tests.waiting import until, within

from .events import (
    KEY,
    everything,
    final,
    interim,
    listening,
    publish,
    status,
    texts,
    until_consumers,
)

pytestmark = pytest.mark.process


@pytest.mark.slow
async def test_no_event_is_missed_or_repeated_over_crashes_of_both(
    nats_server: EmbeddedServer, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    """One listener stays; another is ended again and again, and continues at a stored position."""
    stored = 0
    going_on = True

    async def store(event: FinalEvent | StatusEvent) -> None:
        """Publish as a worker does, until it is known to be stored."""
        subject, headers = f"stt.transcript.{KEY}.{event.type}", {"Nats-Msg-Id": event.id}
        while True:
            with contextlib.suppress(NatsError, TimeoutError):  # the broker is away
                await ready_broker.client.jetstream().publish(
                    subject, event.encode(), timeout=1, headers=headers
                )
                return
            await asyncio.sleep(0.02)  # nats-py may fail at once

    async def work() -> None:
        nonlocal stored
        while going_on:
            await store(final(stored))
            stored += 1
        await store(status(stored, "closed"))

    async def resume() -> list[str]:
        found: list[str] = []
        position: Any = "start"
        while True:
            source = natterjack.listen(since=position, settings=broker_settings)
            async with contextlib.aclosing(source):
                for _ in range(1 + len(found) % 50):
                    event = await anext(source)
                    found.append(event.id or "")
                    if event.type == "status":
                        return found
                    position = event.position

    async def stay() -> list[str]:
        return [
            event.id or ""
            async for event in natterjack.listen(
                "t", "c", since="start", until="closed", settings=broker_settings
            )
        ]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work())
        readers = [tasks.create_task(resume()), tasks.create_task(stay())]
        for kill in range(1, 7):
            enough = stored + 30
            while stored < enough or ready_broker.reconnects < kill - 1:
                await asyncio.sleep(0.02)  # between two looks; the test has a time limit
            nats_server.kill()
            nats_server.start()
        enough = stored + 100
        while stored < enough:
            await asyncio.sleep(0.02)  # between two looks
        going_on = False
    expected = [f"session-1:{n}" for n in range(stored + 1)]
    for reader in readers:
        assert reader.result() == expected


async def test_a_stream_that_is_deleted_and_made_again(
    ready_broker: Broker, broker_settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    js = ready_broker.client.jetstream()
    async with listening(settings=broker_settings, since="start", markers=True) as take:
        assert await take(1) == [CaughtUp(None)]
        await publish(ready_broker, *(final(n) for n in range(5)))
        last = (await take(5))[-1]
        await js.delete_stream(streams.TRANSCRIPTS)
        await until(lambda: "is missing" in caplog.text, "it is noticed", 30)
        await ensure(ready_broker, StreamSettings())
        await publish(ready_broker, *(final(n, session_id="session-2") for n in range(3)))
        events = [event for event in await take(5) if not isinstance(event, CaughtUp)]
        assert isinstance(events[0], StreamReplaced)
        assert texts(events[1:]) == ["final 0", "final 1", "final 2"][: len(events) - 1]
    async with listening(settings=broker_settings, since=last.position, markers=True) as take:
        replaced, *events = await take(4)
        assert isinstance(replaced, StreamReplaced)
        assert texts(events) == ["final 0", "final 1", "final 2"], "later than the position"
    assert caplog.text.count("is missing") == 1


async def test_a_position_of_a_stream_that_was_replaced_by_a_longer_one(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(3)))
    options: dict[str, Any] = {"settings": broker_settings, "until": "stored", "markers": True}
    position = (await everything(since="start", **options))[1].position
    await ready_broker.client.jetstream().delete_stream(streams.TRANSCRIPTS)
    await ensure(ready_broker, StreamSettings())
    await publish(ready_broker, *(final(n, session_id="session-2") for n in range(9)))
    replaced, *events, end = await everything(since=position, **options)
    assert (replaced.type, end.type) == ("stream_replaced", "caught_up")
    assert texts(events) == [f"final {n}" for n in range(9)]


async def test_bad_messages_are_logged_and_left_out(
    ready_broker: Broker, broker_settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    js = ready_broker.client.jetstream()
    subject = f"stt.transcript.{KEY}"
    bad = [b"", b"{]", b"null", b"[1]", b"\xff\xfe", b"{}", b'{"type":"final"}', b"1" * 5000]
    for number, payload in enumerate(bad):
        await js.publish(f"{subject}.final", payload, headers={"Status": "100", "x": "y\r\n z"[:1]})
        await publish(ready_broker, final(number))
    async with listening(settings=broker_settings, since="start") as take:
        assert texts(await take(len(bad))) == [f"final {n}" for n in range(len(bad))]
        await until_consumers(ready_broker, 1)
        for payload in bad:
            await ready_broker.client.publish(f"{subject}.interim", payload)
        await publish(ready_broker, interim(len(bad), "to"))
        assert texts(await take(1)) == ["to"]
    assert caplog.text.count("not an event") == 2 * len(bad)
    assert all(len(record.getMessage()) < 500 for record in caplog.records)


@pytest.mark.parametrize("blocks", [False, True], ids=["waits", "blocks"])
async def test_a_slow_program_sees_no_stale_interim(
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    blocks: bool,
) -> None:
    """Interims of a segment are published faster than they are taken, until its final comes. The
    program waits between two events, or computes, so that the connection is not read."""
    seen: list[Any] = []

    async def read() -> None:
        async for event in natterjack.listen(since="start", settings=broker_settings):
            seen.append(event)
            if blocks:
                time.sleep(0.05)  # what is tested
            else:
                await asyncio.sleep(0.05)  # as slow, without blocking
            if event.type == "status" and event.closing:
                closed.set()

    closed = asyncio.Event()
    reading = asyncio.create_task(read())
    await until_consumers(ready_broker, 1)
    sequence = 0
    async with connected(broker_settings, name="worker", once=True) as worker:
        for segment in range(3):
            for number in range(40):
                await publish(worker, interim(segment, f"{segment}.{number}"))
                await worker.client.flush()
                await asyncio.sleep(0.002)  # the pace of interims
            event = final(sequence).model_copy(update={"segment": segment})
            await publish(worker, event)
            sequence += 1
        for number in range(40):
            await publish(worker, interim(3, f"3.{number}"))
        await publish(worker, status(sequence, "closed"))
        await publish(worker, interim(3, "late"))
        async with within(60):
            await closed.wait()
        await publish(worker, interim(0, "end", session_id="session-2"))
        await until(lambda: seen[-1].type == "interim" and seen[-1].text == "end", "the rest came")
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    final_segment, ended = -1, False
    for event in seen[:-1]:
        if event.type == "interim":
            assert not ended, "after the closing event"
            assert event.segment > final_segment, "after the final of its segment"
        elif event.type == "final":
            final_segment = event.segment
        else:
            ended = ended or event.closing
    assert final_segment == 2
    assert ended
    interims = [event for event in seen if event.type == "interim"]
    assert len(interims) > 1
    if not blocks:  # else they are published as slowly
        assert len(interims) < 100, "conflated"


async def test_all_interims_arrive_if_wanted(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    async with listening(settings=broker_settings, since="start", interims="all") as take:
        await until_consumers(ready_broker, 1)
        await publish(ready_broker, *(interim(0, f"{n}") for n in range(200)))
        assert texts(await take(200)) == [f"{n}" for n in range(200)]


async def test_it_reads_nothing_live_without_interims(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    async with listening(settings=broker_settings, since="start", interims=None) as take:
        await until_consumers(ready_broker, 1)
        await publish(ready_broker, interim(0, "to"), final(0))
        assert texts(await take(1)) == ["final 0"]
