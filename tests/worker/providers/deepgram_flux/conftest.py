"""The plugin against the emulator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import ProviderError
from natterjack.plugin.provider import (
    Final,
    Notice,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
    Turn,
)
from tests.emulators import tones
from tests.emulators.deepgram_flux import DeepgramFluxEmulator
from tests.waiting import within
from worker.providers.deepgram_flux import DeepgramFluxProvider
from worker.providers.deepgram_flux.settings import DeepgramFluxSettings

SECRET = "s3cret-0f-flux"
LINEAR_16K = AudioFormat("linear16", 16000, 1)
Make = Callable[..., DeepgramFluxProvider]
WORDS = tones.sequence(12)
AUDIO = tones.encode(WORDS, phrase_words=4, lead_seconds=0.3, tail_seconds=1)
LONG = tones.sequence(40)
MONOLOGUE = tones.encode(LONG, lead_seconds=0.3, tail_seconds=0.1)
EARLY = {"commit_updates": 2, "commit_seconds": 1, "commit_length_seconds": 2}
"""Settings that make heads of turns final early."""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment."""
    for name in DeepgramFluxSettings.model_fields:
        monkeypatch.delenv(f"DEEPGRAM_{name.upper()}", raising=False)


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramFluxEmulator]:
    async with DeepgramFluxEmulator(api_key=SECRET) as emulator:
        yield emulator


@pytest.fixture
async def make(emulator: DeepgramFluxEmulator) -> AsyncIterator[Make]:
    """Makes providers that speak to the emulator, from settings (`flux_` is added where it
    belongs); closes them."""
    made: list[DeepgramFluxProvider] = []

    def make(**settings: Any) -> DeepgramFluxProvider:
        own = {
            name if name in ("api_key", "url") else f"flux_{name}": value
            for name, value in settings.items()
        }
        defaults = {"api_key": SecretStr(SECRET), "url": emulator.url}
        made.append(DeepgramFluxProvider(DeepgramFluxSettings(**{**defaults, **own})))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(make: Make) -> DeepgramFluxProvider:
    return make()


def request(audio_format: AudioFormat = LINEAR_16K, **changes: Any) -> StreamRequest:
    return StreamRequest(**{"session_id": "test", "format": audio_format, **changes})


@asynccontextmanager
async def opened(provider: DeepgramFluxProvider, **changes: Any) -> AsyncIterator[ProviderStream]:
    stream = await provider.open(request(**changes))
    try:
        yield stream
    finally:
        await stream.close()


async def send(stream: ProviderStream, audio: bytes, frame_bytes: int = 2560) -> None:
    for at in range(0, len(audio), frame_bytes):
        await stream.send(audio[at : at + frame_bytes])


async def hear(stream: ProviderStream, into: list[ProviderEvent] | None = None) -> Any:
    """All events; also those before an error, in `into`."""
    events = [] if into is None else into
    async for event in stream:
        events.append(event)
    return events


async def transcribed(
    stream: ProviderStream, audio: bytes, frame_bytes: int = 2560
) -> list[ProviderEvent]:
    """All that a stream says about `audio`."""
    events: list[ProviderEvent] = []
    async with within(15), asyncio.TaskGroup() as tasks:
        tasks.create_task(hear(stream, events))
        await send(stream, audio, frame_bytes)
        await stream.finish()
    return events


async def fails(stream: ProviderStream, audio: bytes) -> ProviderError:
    """Return the error that the iterator ends with."""
    async with within(15):
        iterating = asyncio.create_task(hear(stream))
        with contextlib.suppress(ProviderError):
            await send(stream, audio)
        with pytest.raises(ProviderError) as caught:
            await iterating
    return caught.value


def finals(events: list[ProviderEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def said(events: list[ProviderEvent]) -> list[str]:
    """The words of the finals."""
    return [word for final in finals(events) for word in tones.words_of(final.text)]


def turns(events: list[ProviderEvent]) -> list[str]:
    return [event.event for event in events if isinstance(event, Turn)]


def codes(events: list[ProviderEvent]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice)]
