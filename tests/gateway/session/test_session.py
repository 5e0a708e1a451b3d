"""A client's session with a real broker, a worker and an emulated provider."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from signal import SIGKILL
from typing import Any

import pytest

from gateway.access import Grant
from gateway.session import ClientSession, Opening, SessionEvent, Sessions
from natterjack.emulators import tones
from natterjack.events import FinalEvent, InterimEvent, StatusEvent

from ...nats_server import NatsServer
from ...waiting import until, within
from ...worker.programs import UNDISTURBED, StartWorker, holder

pytestmark = pytest.mark.process

GRANT = Grant.everything("t")
RATE = 16_000
HOW: dict[str, Any] = {"phrase_words": 6, "pause_seconds": 0.8, "lead_seconds": 0.3}


def frames(audio: bytes, milliseconds: int = 100) -> Iterator[bytes]:
    size = RATE * 2 * milliseconds // 1000
    for at in range(0, len(audio), size):
        yield audio[at : at + size]


async def speak(session: ClientSession, audio: bytes, speed: float = 4) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number, frame in enumerate(frames(audio)):
        await asyncio.sleep(started + number * 0.1 / speed - loop.time())
        await session.send(frame)


def words_of(events: list[SessionEvent]) -> list[str]:
    return [
        tones.plain(word.text)
        for event in events
        if isinstance(event, FinalEvent)
        for word in event.words
    ]


async def collect(session: ClientSession) -> list[SessionEvent]:
    return [event async for event in session]


async def test_words_come_back_once_and_in_order(
    sessions: Sessions, start_worker: StartWorker
) -> None:
    await start_worker(**UNDISTURBED)
    words = tones.sequence(18)
    session = await sessions.open(GRANT, Opening())
    async with within(60):
        collecting = asyncio.create_task(collect(session))
        await speak(session, tones.encode(words, RATE, **HOW))
        await session.end()
        events = await collecting
    assert words_of(events) == words
    assert any(isinstance(event, InterimEvent) for event in events)
    finals = [event for event in events if isinstance(event, FinalEvent)]
    assert all(a.end <= b.start for a, b in pairwise(finals))
    assert isinstance(events[-1], StatusEvent)
    assert events[-1].state == "closed"
    assert session.over


async def test_a_killed_worker_and_broker_lose_and_double_nothing(
    sessions: Sessions, start_worker: StartWorker, nats_server: NatsServer
) -> None:
    workers = [await start_worker(), await start_worker()]
    words = tones.sequence(30)
    session = await sessions.open(GRANT, Opening())
    async with within(90):
        collecting = asyncio.create_task(collect(session))
        speaking = asyncio.create_task(speak(session, tones.encode(words, RATE, **HOW), speed=2))
        (await holder(workers)).signal(SIGKILL)
        await until(lambda: session.received_seconds > 6, "6 s are sent")
        nats_server.kill()
        nats_server.start()
        await speaking
        await session.end()
        events = await collecting
    assert words_of(events) == words


async def test_finalize_returns_when_everything_sent_is_final(
    sessions: Sessions, start_worker: StartWorker
) -> None:
    await start_worker(**UNDISTURBED)
    words = tones.sequence(4)
    session = await sessions.open(GRANT, Opening())
    async with within(60):
        events: list[SessionEvent] = []

        async def read() -> None:
            async for event in session:
                events.append(event)

        reading = asyncio.create_task(read())
        await speak(session, tones.encode(words, RATE, lead_seconds=0.3, tail_seconds=0.1))
        assert await session.finalize()
        assert words_of(events) == words
        assert await session.finalize(), "there is nothing to make final"
        await session.end()
        await reading
    assert words_of(events) == words
