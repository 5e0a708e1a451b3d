"""The plugin against the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import ProviderEvent, ProviderStream, StreamRequest
from tests.emulators.deepgram import DeepgramEmulator
from worker.providers.deepgram import DeepgramProvider
from worker.providers.deepgram.settings import DeepgramSettings

SECRET = "s3cret-0f-deepgram"
LINEAR_16K = AudioFormat("linear16", 16000, 1)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment."""
    for name in DeepgramSettings.model_fields:
        monkeypatch.delenv(f"DEEPGRAM_{name.upper()}", raising=False)


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator(api_key=SECRET) as emulator:
        yield emulator


@pytest.fixture
async def make(emulator: DeepgramEmulator) -> AsyncIterator[Callable[..., DeepgramProvider]]:
    """A factory of providers that connect to the emulator."""
    made: list[DeepgramProvider] = []

    def make(**settings: Any) -> DeepgramProvider:
        defaults = {"api_key": SecretStr(SECRET), "url": emulator.url}
        made.append(DeepgramProvider(DeepgramSettings(**{**defaults, **settings})))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(make: Callable[..., DeepgramProvider]) -> DeepgramProvider:
    return make()


def request(audio_format: AudioFormat = LINEAR_16K, **changes: Any) -> StreamRequest:
    return StreamRequest(session_id="test", format=audio_format, **changes)


@asynccontextmanager
async def opened(provider: DeepgramProvider, **changes: Any) -> AsyncIterator[ProviderStream]:
    stream = await provider.open(request(**changes))
    try:
        yield stream
    finally:
        await stream.close()


async def send(stream: ProviderStream, audio: bytes, chunk: int = 2560) -> None:
    for at in range(0, len(audio), chunk):
        await stream.send(audio[at : at + chunk])


async def hear(stream: ProviderStream) -> list[ProviderEvent]:
    return [event async for event in stream]
