"""The provider keeps the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from natterjack.plugin.contract import ProviderContract, Speech
from tests.emulators import tones
from tests.emulators.deepgram_flux import DeepgramFluxEmulator
from worker.providers.deepgram_flux import DeepgramFluxProvider

from .conftest import LINEAR_16K, SECRET, Make


def speech_of(words: list[str]) -> Speech:
    audio = tones.encode(words, phrase_words=4, lead_seconds=0.3, tail_seconds=0.5)
    return Speech(audio, LINEAR_16K, words=tuple(words))


class TestDeepgramFlux(ProviderContract):
    @pytest.fixture
    def provider(self, make: Make) -> DeepgramFluxProvider:
        return make()

    @pytest.fixture
    def speech(self) -> Speech:
        return speech_of(tones.sequence(10))

    @pytest.fixture
    def other_speech(self) -> Speech:
        return speech_of(tones.sequence(20)[10:])

    @pytest.fixture
    def break_connection(self, emulator: DeepgramFluxEmulator) -> Callable[[], Awaitable[object]]:
        async def drop() -> int:
            return emulator.drop()

        return drop

    @pytest.fixture
    def block_reading(self, emulator: DeepgramFluxEmulator) -> Callable[[], Awaitable[object]]:
        async def block() -> None:
            await emulator.set(stop_reading_after_seconds=0)

        return block

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)


class TestDeepgramFluxThatCommitsEarly(TestDeepgramFlux):
    """The same, with heads of turns made final as soon as can be."""

    @pytest.fixture
    def provider(self, make: Make) -> DeepgramFluxProvider:
        return make(commit_updates=2, commit_seconds=0.5, commit_length_seconds=0.2)

    @pytest.fixture
    def speech(self) -> Speech:
        words = tones.sequence(10)
        audio = tones.encode(words, lead_seconds=0.3, tail_seconds=0.5)
        return Speech(audio, LINEAR_16K, words=tuple(words))
