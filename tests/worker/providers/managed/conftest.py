"""The plugin against the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import ProviderEvent, ProviderStream, StreamRequest
from tests.emulators.managed import ManagedEmulator
from worker.providers.managed import ManagedProvider
from worker.providers.managed.settings import ManagedSettings

TOKEN = "t0ken-of-an-account"
LINEAR_16K = AudioFormat("linear16", 16000, 1)
FRAME = 2048
"""64 ms."""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment."""
    for name in ManagedSettings.model_fields:
        monkeypatch.delenv(f"MANAGED_{name.upper()}", raising=False)


@pytest.fixture(params=[False, True], ids=["plain", "extended"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[ManagedEmulator]:
    """A proxy without extensions, and one that implements the fact sheet's proposals."""
    async with ManagedEmulator(api_key=TOKEN, extended=request.param) as emulator:
        yield emulator


@pytest.fixture
async def make(emulator: ManagedEmulator) -> AsyncIterator[Callable[..., ManagedProvider]]:
    """Makes providers that speak to the emulator, from settings; closes them. They wait less for
    the last texts than the defaults say."""
    made: list[ManagedProvider] = []

    def make(**settings: Any) -> ManagedProvider:
        defaults: dict[str, Any] = {
            "token": SecretStr(TOKEN),
            "url": emulator.url,
            "end_settle_seconds": 0.1,
        }
        made.append(ManagedProvider(ManagedSettings(**{**defaults, **settings})))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(make: Callable[..., ManagedProvider]) -> ManagedProvider:
    return make()


def request(audio_format: AudioFormat = LINEAR_16K, **changes: Any) -> StreamRequest:
    return StreamRequest(session_id="test", format=audio_format, **changes)


@asynccontextmanager
async def opened(provider: ManagedProvider, **changes: Any) -> AsyncIterator[ProviderStream]:
    stream = await provider.open(request(**changes))
    try:
        yield stream
    finally:
        await stream.close()


async def send(stream: ProviderStream, audio: bytes) -> None:
    for at in range(0, len(audio), FRAME):
        await stream.send(audio[at : at + FRAME])


async def hear(stream: ProviderStream) -> list[ProviderEvent]:
    return [event async for event in stream]
