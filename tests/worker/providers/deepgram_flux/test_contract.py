"""The provider keeps the contract while it makes parts of turns final as early as possible."""

from __future__ import annotations

import pytest

from natterjack.emulators import tones
from natterjack.plugin.contract import Speech
from worker.providers.deepgram_flux import DeepgramFluxProvider

from ..emulated.contract import EmulatedContract
from ..emulated.streams import LINEAR_16K
from .speech import Make


class TestEarlyFinals(EmulatedContract):
    @pytest.fixture
    def provider(self, make: Make) -> DeepgramFluxProvider:
        return make(commit_updates=2, commit_seconds=0.5, commit_length_seconds=0.2)

    @pytest.fixture
    def speech(self) -> Speech:
        words = tones.sequence(10)
        audio = tones.encode(words, lead_seconds=0.3, tail_seconds=0.5)
        return Speech(audio, LINEAR_16K, words=tuple(words))
