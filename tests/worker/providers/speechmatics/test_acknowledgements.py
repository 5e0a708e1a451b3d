"""Streams against the emulator: how much audio and how many events wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.plugin.errors import (
    Dropped,
)
from natterjack.plugin.provider import (
    ProviderEvent,
)
from tests.waiting import soon, until, within
from worker.providers.speechmatics import SpeechmaticsProvider

from ..emulated.streams import (
    AUDIO,
    WORDS,
    codes,
    collect,
    final_words,
    finals,
    opened,
    request,
    send,
    transcribe,
)

Make = Callable[..., SpeechmaticsProvider]


async def test_sending_waits_for_acknowledgements(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(withhold_acks_after_seconds=1.0)
    provider = make(max_unacknowledged_seconds=2.0)
    stream = await provider.open(request())
    sending = asyncio.create_task(send(stream, tones.silence(60)))
    collecting = asyncio.create_task(collect(stream))
    await until(lambda: emulator.log[0].audio_seconds >= 2.9, "the window is full")
    assert not sending.done()
    assert emulator.log[0].audio_seconds <= 3.1
    await soon(stream.close(), 1)
    for task in (sending, collecting):
        with pytest.raises(Dropped):
            await soon(task, 1)


async def test_acknowledgements_are_handled_while_nobody_iterates(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    async with opened(make(max_unacknowledged_seconds=1.0)) as stream:
        async with within(10):
            await send(stream, AUDIO)
        await stream.finish()
        await until(lambda: emulator.log[0].closed, "the server has closed the connection")
        assert final_words(await collect(stream)) == WORDS


async def test_the_window_is_also_limited_in_frames(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    await emulator.set(withhold_acks_after_seconds=0)
    async with opened(make(max_unacknowledged_frames=5)) as stream:
        sending = asyncio.create_task(send(stream, AUDIO))
        await until(lambda: emulator.log[0].audio_frames == 5, "five frames were sent")
        assert not sending.done()
        sending.cancel()


async def test_a_slow_server_is_not_overrun(make: Make, emulator: SpeechmaticsEmulator) -> None:
    """Audio is sent without delays to a server that reads at ten times real time."""
    await emulator.set(pace=10.0)
    async with opened(make(max_unacknowledged_seconds=1.0)) as stream:
        ahead: list[float] = []
        collecting = asyncio.create_task(collect(stream))
        for at in range(0, len(AUDIO), 2560):
            await stream.send(AUDIO[at : at + 2560])
            ahead.append((at + 2560) / 32000 - emulator.log[0].audio_seconds)
        await stream.finish()
        async with within(10):
            assert final_words(await collecting) == WORDS
    assert max(ahead) < 1.3


async def test_silence_is_answered(
    provider: SpeechmaticsProvider, emulator: SpeechmaticsEmulator
) -> None:
    """At least acknowledgements arrive, so a session can tell silence from a dead server."""
    await emulator.set(quiet_in_silence=True)
    events = await transcribe(provider, tones.silence(20))
    assert finals(events) == []
    assert codes(events).count("audio_added") >= 18


async def test_a_slow_iterator_holds_the_server_back(
    make: Make, emulator: SpeechmaticsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of waiting events is limited, and none is lost."""
    monkeypatch.setattr("worker.providers.speechmatics.connection._MAX_EVENTS", 5)
    async with opened(make(max_unacknowledged_seconds=1.0)) as stream:
        sending = asyncio.create_task(send(stream, AUDIO))
        await until(lambda: len(stream._events) >= 5, "events wait")  # type: ignore[attr-defined]
        assert not sending.done()
        events = aiter(stream)
        found = [await anext(events)]
        collecting = asyncio.create_task(_rest(events, found))
        await sending
        await stream.finish()
        await soon(collecting, 10)
        assert final_words(found) == WORDS


async def _rest(events: Any, found: list[ProviderEvent]) -> None:
    async for event in events:
        found.append(event)
