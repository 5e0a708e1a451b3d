"""The voice keeps the contract, and the embedded recognizer hears what it was told to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import soxr

from natterjack.local.wer import word_error_rate
from natterjack.plugin.contract import VoiceContract
from natterjack.plugin.voice import VoiceStreamRequest
from worker.providers.sherpa import models
from worker.providers.sherpa.engine import Engine as Recognizer
from worker.voices.hibari import HibariVoice
from worker.voices.hibari.settings import HibariSettings

_LONGEST_SECONDS = 20
"""The recognizer is not made for longer audio without a pause."""

Check = Callable[[str, bytes, VoiceStreamRequest], None]


@pytest.fixture(scope="module")
def recognizer(engine: None) -> Iterator[Recognizer]:
    recognizer = Recognizer(models.bundled())
    yield recognizer
    recognizer.close()


class TestHibari(VoiceContract):
    @pytest.fixture
    def voice(self, voice: HibariVoice, request: pytest.FixtureRequest) -> HibariVoice:
        """The shared one, unless the test is going to close it."""
        closed = "voice_closes" in request.node.name
        return HibariVoice(HibariSettings(threads=1)) if closed else voice

    @pytest.fixture
    def check_speech(self, recognizer: Recognizer) -> Check:
        def check(text: str, audio: bytes, request: VoiceStreamRequest) -> None:
            samples = np.frombuffer(audio, "<i2").astype(np.float32) / np.float32(32_768)
            seconds = len(samples) / request.sample_rate
            assert 0.03 < seconds / len(text) < 0.12
            if seconds < _LONGEST_SECONDS:
                heard = recognizer.decoder().decode(
                    soxr.resample(samples, request.sample_rate, 16_000), final=True
                )
                assert word_error_rate(text, heard.text) < 0.2, heard.text

        return check
