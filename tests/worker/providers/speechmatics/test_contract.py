"""The provider keeps the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from natterjack.plugin.contract import ProviderContract, Speech
from tests.emulators import tones
from tests.emulators.speechmatics import SpeechmaticsEmulator
from worker.providers.speechmatics import SpeechmaticsProvider

from .conftest import LINEAR_16K, SECRET


def speech_of(words: list[str]) -> Speech:
    audio = tones.encode(words, phrase_words=4, lead_seconds=0.3, tail_seconds=0.5)
    return Speech(audio, LINEAR_16K, words=tuple(words))


class TestSpeechmatics(ProviderContract):
    @pytest.fixture
    def provider(self, make: Callable[..., SpeechmaticsProvider]) -> SpeechmaticsProvider:
        return make()

    @pytest.fixture
    def speech(self) -> Speech:
        return speech_of(tones.sequence(10))

    @pytest.fixture
    def other_speech(self) -> Speech:
        return speech_of(tones.sequence(20)[10:])

    @pytest.fixture
    def break_connection(self, emulator: SpeechmaticsEmulator) -> Callable[[], Awaitable[object]]:
        async def drop() -> int:
            return emulator.drop()

        return drop

    @pytest.fixture
    def block_reading(self, emulator: SpeechmaticsEmulator) -> Callable[[], Awaitable[object]]:
        async def block() -> None:
            await emulator.set(stop_reading_after_seconds=0)

        return block

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)
