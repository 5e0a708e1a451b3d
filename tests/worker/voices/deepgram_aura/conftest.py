"""The voice against the emulator."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest

from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from worker.voices.deepgram_aura import DeepgramAura
from worker.voices.deepgram_aura.settings import DeepgramSpeakSettings

KEY = "s3cret-0f-aura"

Make = Callable[..., DeepgramAura]
"""Makes a voice from settings without their prefix `speak_`."""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DEEPGRAM_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramSpeakEmulator]:
    async with DeepgramSpeakEmulator(api_key=KEY, pace=20) as emulator:
        yield emulator


@pytest.fixture
async def make(emulator: DeepgramSpeakEmulator) -> AsyncIterator[Make]:
    made: list[DeepgramAura] = []

    def make(api_key: str = KEY, **settings: object) -> DeepgramAura:
        values = {f"speak_{name}": value for name, value in settings.items()}
        made.append(
            DeepgramAura(DeepgramSpeakSettings(api_key=api_key, url=emulator.url, **values))  # type: ignore[arg-type]
        )
        return made[-1]

    yield make
    for voice in made:
        await voice.close()
