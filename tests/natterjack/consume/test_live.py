"""Which events of the live subject are yielded, and which are said to be missing."""

from __future__ import annotations

import asyncio

import pytest

from natterjack.consume import live
from natterjack.consume.interims import InterimQueue
from natterjack.consume.live import LiveEvents
from natterjack.events import Event
from natterjack.subjects import transcript_subject
from tests.waiting import within

from .events import final, interim, status


def receive(events: LiveEvents, *received: Event) -> None:
    for event in received:
        subject = transcript_subject(event.key, event.type).encode()
        events.received(subject, b"", None, event.encode())


async def drain(events: LiveEvents) -> list[object]:
    found: list[object] = []
    while events.waiting:
        async with within(5):
            item = await events.next()
        found.append(getattr(item, "id", getattr(item, "type", None)))
    return found


async def test_each_event_comes_once() -> None:
    events = LiveEvents(None)
    receive(events, final(0), final(0), final(1), status(2, "closed"), final(1))
    assert await drain(events) == ["session-1:0", "session-1:1", "session-1:2"]


async def test_a_later_holder_counts() -> None:
    events = LiveEvents(None)
    receive(events, final(4), final(4, epoch=2), final(5), final(5, epoch=2))
    assert await drain(events) == ["session-1:4", "session-1:4", "session-1:5"]


async def test_missing_events_are_said_to_be_lost() -> None:
    events = LiveEvents(None)
    receive(events, final(7), final(9), final(0, session_id="session-2"))
    assert await drain(events) == ["session-1:7", "history_lost", "session-1:9", "session-2:0"]


async def test_a_slow_program_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_EVENTS", 4)
    events = LiveEvents(None)
    receive(events, *(final(n) for n in range(8)))
    assert await drain(events) == ["history_lost", "session-1:5", "session-1:6", "session-1:7"]


async def test_interims_and_what_makes_them_stale() -> None:
    interims = InterimQueue("latest")
    events = LiveEvents(interims)
    receive(events, interim(0, "stale"), final(0), interim(1, "current"))
    assert await drain(events) == ["session-1:0"]
    event = interims.next()
    assert event is not None
    assert event.text == "current"


async def test_what_is_no_event_of_its_subject_is_left_out() -> None:
    events = LiveEvents(InterimQueue("latest"))
    for subject, data in (
        (b"stt.transcript.t.c.s.final", b"{]"),
        (b"stt.transcript.t.c.s.final", interim(0, "x").encode()),
        (b"stt.transcript.t.c.s.interim", final(0).encode()),
    ):
        events.received(subject, b"", None, data)
    assert not events.waiting


async def test_a_poke_ends_a_wait() -> None:
    events = LiveEvents(None)
    waiting = asyncio.create_task(events.next())
    await asyncio.sleep(0)
    events.poke()
    async with within(5):
        assert await waiting is None
