"""The voice against the emulator."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest

from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from worker.voices.deepgram_flux_voice import DeepgramFluxVoice
from worker.voices.deepgram_flux_voice.settings import DeepgramFluxVoiceSettings

KEY = "the-key-of-the-test"

Make = Callable[..., DeepgramFluxVoice]
"""Makes a voice from settings without their prefix `flux_voice_`."""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DEEPGRAM_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramFluxSpeakEmulator]:
    async with DeepgramFluxSpeakEmulator(api_key=KEY, speech_pace=20) as emulator:
        yield emulator


@pytest.fixture
async def make(emulator: DeepgramFluxSpeakEmulator) -> AsyncIterator[Make]:
    made: list[DeepgramFluxVoice] = []

    def make(api_key: str = KEY, **settings: object) -> DeepgramFluxVoice:
        values = {f"flux_voice_{name}": value for name, value in settings.items()}
        voice = DeepgramFluxVoice(
            DeepgramFluxVoiceSettings(api_key=api_key, url=emulator.url, **values)  # type: ignore[arg-type]
        )
        made.append(voice)
        return voice

    yield make
    for voice in made:
        await voice.close()
