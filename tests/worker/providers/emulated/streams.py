"""Opening streams, sending audio and collecting events."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.emulators import tones
from natterjack.plugin.errors import ProviderError
from natterjack.plugin.provider import (
    Final,
    Notice,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
    Turn,
)
from tests.waiting import within

LINEAR_16K = AudioFormat("linear16", 16000, 1)
WORDS = tones.sequence(12)
AUDIO = tones.encode(WORDS, phrase_words=4, lead_seconds=0.3, tail_seconds=1)
PLACES = tones.places(WORDS, phrase_words=4, lead_seconds=0.3)
Failure = tuple[list[ProviderEvent], ProviderError]
"""The events of a stream and the error that it ended with."""


def request(audio_format: AudioFormat = LINEAR_16K, **changes: Any) -> StreamRequest:
    return StreamRequest(**{"session_id": "test", "format": audio_format, **changes})


@asynccontextmanager
async def opened(provider: Provider, **changes: Any) -> AsyncIterator[ProviderStream]:
    """Open a stream, and close it at the end. `changes` are those of the request."""
    stream = await provider.open(request(**changes))
    try:
        yield stream
    finally:
        await stream.close()


def frame_bytes(provider: Provider) -> int:
    """Return the size of the provider's frames of 16 kHz linear16, or of 80 ms."""
    return 32 * (provider.capabilities.frame_ms or 80)


async def send(stream: ProviderStream, audio: bytes, size: int = 2560) -> None:
    """Send `audio` in frames of `size` bytes."""
    for at in range(0, len(audio), size):
        await stream.send(audio[at : at + size])


async def collect(
    stream: ProviderStream, into: list[ProviderEvent] | None = None
) -> list[ProviderEvent]:
    """Return all events. Those before an error are in `into`."""
    events = [] if into is None else into
    async for event in stream:
        events.append(event)
    return events


async def transcribed(
    stream: ProviderStream, audio: bytes = AUDIO, size: int = 2560
) -> list[ProviderEvent]:
    """Send `audio`, finish the stream and return all events."""
    events: list[ProviderEvent] = []
    async with within(15), asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(stream, events))
        await send(stream, audio, size)
        await stream.finish()
    return events


async def failure(stream: ProviderStream, audio: bytes = AUDIO, size: int = 2560) -> Failure:
    """Send `audio`, and return the events until iteration fails and its error."""
    events: list[ProviderEvent] = []
    async with within(15):
        collecting = asyncio.create_task(collect(stream, events))
        with contextlib.suppress(ProviderError):
            await send(stream, audio, size)
        with pytest.raises(ProviderError) as caught:
            await collecting
    return events, caught.value


async def transcribe(
    provider: Provider, audio: bytes = AUDIO, **changes: Any
) -> list[ProviderEvent]:
    """Return all events of a new stream that receives `audio`."""
    async with opened(provider, **changes) as stream:
        return await transcribed(stream, audio, frame_bytes(provider))


async def fail(provider: Provider, audio: bytes = AUDIO, **changes: Any) -> Failure:
    """Return the events and the error of a new stream that receives `audio`."""
    async with opened(provider, **changes) as stream:
        return await failure(stream, audio, frame_bytes(provider))


async def resume(provider: Provider, events: Iterable[ProviderEvent]) -> None:
    """Resume after `events` as the worker does, at the end of the finals, and check that no word is
    lost or repeated."""
    before = finals(events)
    at = 2 * round(16000 * max((final.end for final in before), default=0.0))
    assert final_words(before) + final_words(await transcribe(provider, AUDIO[at:])) == WORDS


def finals(events: Iterable[ProviderEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def final_words(events: Iterable[ProviderEvent]) -> list[str]:
    """Return the words of the finals."""
    return [word for final in finals(events) for word in tones.words_of(final.text)]


def turns(events: Iterable[ProviderEvent]) -> list[str]:
    return [event.event for event in events if isinstance(event, Turn)]


def codes(events: Iterable[ProviderEvent]) -> list[str]:
    """Return the codes of the notices."""
    return [event.code for event in events if isinstance(event, Notice)]


def shown(error: BaseException) -> str:
    """Return everything that a log might show of an error: tracebacks, representations and
    attributes, also those of its causes."""
    text = "".join(traceback.format_exception(error))
    cause: BaseException | None = error
    while cause is not None:
        text += repr(cause) + repr(vars(cause))
        cause = cause.__cause__
    return text
