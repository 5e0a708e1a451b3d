"""The voice keeps the contract, however the provider behaves within its protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from natterjack.emulators.spoken import check_tones
from natterjack.plugin.contract import VoiceContract
from natterjack.plugin.voice import VoiceStreamRequest
from worker.voices.deepgram_flux_voice import DeepgramFluxVoice

from .conftest import KEY, Make

Switch = Callable[[], Awaitable[object]]


class TestContract(VoiceContract):
    faults: dict[str, Any] = {}  # noqa: RUF012 - each subclass has its own

    @pytest.fixture
    async def voice(self, make: Make, emulator: DeepgramFluxSpeakEmulator) -> DeepgramFluxVoice:
        await emulator.set(**self.faults)
        return make()

    @pytest.fixture
    def check_speech(self) -> Callable[[str, bytes, VoiceStreamRequest], None]:
        return check_tones

    @pytest.fixture
    def wrong_key(self, make: Make) -> DeepgramFluxVoice:
        return make("wrong")

    @pytest.fixture
    def secrets(self) -> list[str]:
        return [KEY]

    @pytest.fixture
    def break_connection(self, emulator: DeepgramFluxSpeakEmulator) -> Switch:
        async def drop() -> None:
            emulator.drop()

        return drop

    @pytest.fixture
    def go_mute(self, emulator: DeepgramFluxSpeakEmulator) -> Switch:
        return lambda: emulator.set(mute_after_seconds=0)

    @pytest.fixture
    def send_garbage(self, emulator: DeepgramFluxSpeakEmulator) -> Switch:
        return lambda: emulator.set(garbage=("all",))


class TestUnlikeTheDocumentation(TestContract):
    """Flushed comes after SpeechMetadata, frames end within samples, and an interrupt takes a while
    in which audio of its turn arrives."""

    faults = {  # noqa: RUF012 - as above
        "flushed": "after", "odd_frames": True, "interrupt_seconds": 0.05,
        "audio_after_interrupt": 10, "rebases": False, "extra_fields": True,
    }  # fmt: skip
