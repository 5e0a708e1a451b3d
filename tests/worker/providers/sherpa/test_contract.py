"""The provider keeps the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from natterjack.plugin.contract import ProviderContract, Speech
from worker.providers.sherpa import SherpaProvider
from worker.providers.sherpa.settings import SherpaSettings

from .speech import FORMAT, seconds

pytestmark = pytest.mark.engine


class TestSherpa(ProviderContract):
    @pytest.fixture
    def provider(self, provider: SherpaProvider, request: pytest.FixtureRequest) -> SherpaProvider:
        """The shared one, unless the test is going to close it."""
        closed = "provider_closes" in request.node.name
        return SherpaProvider(SherpaSettings(threads=1)) if closed else provider

    @pytest.fixture
    def speech(self, speech: bytes) -> Speech:
        words = "it was the best of times it was the worst of times"
        return Speech(seconds(0.9, 4.85, speech), FORMAT, words=tuple(words.split()))

    @pytest.fixture
    def other_speech(self, speech: Speech) -> Speech:
        audio = speech.audio[: len(speech.audio) // 2 // 2 * 2]
        return Speech(audio, FORMAT, words=("it", "was", "the", "best", "of", "times"))

    @pytest.fixture
    def block_reading(self) -> Callable[[], Awaitable[object]]:
        async def block() -> None:
            """There is no far side: audio is heard only as events are taken."""

        return block
