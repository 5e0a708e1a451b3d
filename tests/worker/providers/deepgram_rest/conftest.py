"""The plugin against the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import ProviderEvent, ProviderStream, StreamRequest
from tests.emulators.deepgram_rest import DeepgramRestEmulator
from worker.providers.deepgram_rest import DeepgramRestProvider
from worker.providers.deepgram_rest.settings import DeepgramRestSettings

SECRET = "s3cret-0f-deepgram"
LINEAR_16K = AudioFormat("linear16", 16000, 1)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment."""
    for name in DeepgramRestSettings.model_fields:
        monkeypatch.delenv(f"DEEPGRAM_{name.upper()}", raising=False)
        monkeypatch.delenv(f"DEEPGRAM_REST_{name.upper()}", raising=False)


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramRestEmulator]:
    async with DeepgramRestEmulator(api_key=SECRET) as emulator:
        yield emulator


@pytest.fixture
async def make(
    emulator: DeepgramRestEmulator,
) -> AsyncIterator[Callable[..., DeepgramRestProvider]]:
    """A factory of providers that connect to the emulator."""
    made: list[DeepgramRestProvider] = []

    def make(**settings: Any) -> DeepgramRestProvider:
        defaults = {"api_key": SecretStr(SECRET), "url": emulator.url}
        made.append(DeepgramRestProvider(DeepgramRestSettings(**{**defaults, **settings})))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(make: Callable[..., DeepgramRestProvider]) -> DeepgramRestProvider:
    return make()


def request(audio_format: AudioFormat = LINEAR_16K, **changes: Any) -> StreamRequest:
    return StreamRequest(session_id="test", format=audio_format, **changes)


@asynccontextmanager
async def opened(provider: DeepgramRestProvider, **changes: Any) -> AsyncIterator[ProviderStream]:
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
