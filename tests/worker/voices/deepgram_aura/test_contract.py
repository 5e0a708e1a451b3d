"""The voice keeps the contract, however the provider behaves within its documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from natterjack.emulators.spoken import check_tones
from natterjack.plugin.contract import VoiceContract
from natterjack.plugin.voice import VoiceStreamRequest
from worker.voices.deepgram_aura import DeepgramAura

from .conftest import KEY, Make

Switch = Callable[[], Awaitable[object]]


class TestContract(VoiceContract):
    switches: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def voice(self, make: Make, emulator: DeepgramSpeakEmulator) -> DeepgramAura:
        await emulator.set(**self.switches)
        return make()

    @pytest.fixture
    def check_speech(self) -> Callable[[str, bytes, VoiceStreamRequest], None]:
        return check_tones

    @pytest.fixture
    def wrong_key(self, make: Make) -> DeepgramAura:
        return make("wrong")

    @pytest.fixture
    def secrets(self) -> list[str]:
        return [KEY]

    @pytest.fixture
    def break_connection(self, emulator: DeepgramSpeakEmulator) -> Switch:
        async def drop() -> None:
            emulator.drop()

        return drop

    @pytest.fixture
    def go_mute(self, emulator: DeepgramSpeakEmulator) -> Switch:
        return lambda: emulator.set(mute_on_flush=True)

    @pytest.fixture
    def send_garbage(self, emulator: DeepgramSpeakEmulator) -> Switch:
        return lambda: emulator.set(garbage=("all",))


class TestAnswersLate(TestContract):
    """Flushes that an interrupt overtook are answered after it, audio that was in flight comes, and
    Close is answered by a summary."""

    switches: ClassVar[dict[str, Any]] = {
        "flushed_after_clear": "after", "stray_seconds": 0.3, "on_close": "summary",
        "sequence_ids": "zero", "metadata": False, "warns": True, "warning_keys": "old",
        "pace": 60,
    }  # fmt: skip


class TestAnswersEarly(TestContract):
    """Flushes that an interrupt overtook are answered before it, and Close drops what is left."""

    switches: ClassVar[dict[str, Any]] = {
        "flushed_after_clear": "before", "stray_seconds": 0.1, "on_close": "drop",
        "odd_frames": False, "latency_seconds": 0.02, "pace": 60,
    }  # fmt: skip
