"""The provider keeps the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from natterjack.plugin.contract import ProviderContract, Speech
from tests.emulators import tones
from tests.emulators.deepgram_rest import DeepgramRestEmulator
from worker.providers.deepgram_rest import DeepgramRestProvider

from .conftest import LINEAR_16K, SECRET


def speech_of(words: list[str]) -> Speech:
    # Voice in the first frame: what holds silence only is not posted, and holds nothing up.
    audio = tones.encode(words, phrase_words=4, tail_seconds=0.5)
    return Speech(audio, LINEAR_16K, words=tuple(words))


class TestDeepgramRest(ProviderContract):
    """`break_connection` is left out: there is none between two recordings; see test_stream.py."""

    @pytest.fixture
    def provider(self, make: Callable[..., DeepgramRestProvider]) -> DeepgramRestProvider:
        return make()

    @pytest.fixture
    def speech(self) -> Speech:
        return speech_of(tones.sequence(10))

    @pytest.fixture
    def other_speech(self) -> Speech:
        return speech_of(tones.sequence(20)[10:])

    @pytest.fixture
    def block_reading(self, emulator: DeepgramRestEmulator) -> Callable[[], Awaitable[object]]:
        async def block() -> None:
            await emulator.set(never_answers=True)

        return block

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)
