"""The provider keeps the contract."""

from __future__ import annotations

import pytest

from natterjack.plugin.contract import Speech
from tests.emulators import tones
from worker.providers.deepgram_flux import DeepgramFluxProvider

from ..emulated import EmulatedContract
from .conftest import LINEAR_16K, SECRET, Make


class TestDeepgramFlux(EmulatedContract):
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
