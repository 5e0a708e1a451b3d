"""The contract suite for a provider that speaks to an emulator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.emulators import tones
from natterjack.emulators.server import Emulator
from natterjack.plugin.contract import ProviderContract, Speech
from tests.waiting import bound

from .table import Emulated

BreakOrBlock = Callable[[], Awaitable[object]]


class EmulatedContract(ProviderContract):
    """Uses the fixtures of fixtures.py."""

    lead_seconds = 0.3
    close_seconds = property(lambda self: bound(2))

    def speech_of(self, words: list[str]) -> Speech:
        audio = tones.encode(
            words, phrase_words=4, lead_seconds=self.lead_seconds, tail_seconds=0.5
        )
        return Speech(audio, AudioFormat("linear16", 16000, 1), words=tuple(words))

    @pytest.fixture
    def provider(self, make: Callable[..., Any]) -> Any:
        return make()

    @pytest.fixture
    def secrets(self, case: Emulated) -> tuple[str, ...]:
        return (case.secret,)

    @pytest.fixture
    def speech(self) -> Speech:
        return self.speech_of(tones.sequence(10))

    @pytest.fixture
    def other_speech(self) -> Speech:
        return self.speech_of(tones.sequence(20)[10:])

    @pytest.fixture
    def break_connection(self, emulator: Emulator) -> BreakOrBlock | None:
        async def drop() -> int:
            return emulator.drop()

        return drop

    @pytest.fixture
    def block_reading(self, emulator: Emulator) -> BreakOrBlock:
        async def block() -> None:
            await emulator.set(stop_reading_after_seconds=0)

        return block
