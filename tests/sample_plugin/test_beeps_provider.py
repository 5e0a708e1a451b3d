"""What a plugin's author writes to have it checked: one class."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from beeps_provider import RATE, BeepsProvider, BeepsSettings

from natterjack.audio import AudioFormat
from natterjack.plugin.contract import ProviderContract, Speech


def beeps(count: int) -> Speech:
    time = np.arange(RATE // 4) / RATE
    beep = (8000 * np.sin(2 * np.pi * 440 * time)).astype("<i2").tobytes()
    audio = (bytes(RATE // 2) + beep + bytes(RATE // 2)) * count
    return Speech(audio, AudioFormat("linear16", RATE, 1), words=("beep",) * count)


class TestBeeps(ProviderContract):
    @pytest_asyncio.fixture
    async def provider(self) -> AsyncIterator[BeepsProvider]:
        provider = BeepsProvider(BeepsSettings(api_key="sesame"))
        yield provider
        await provider.close()

    @pytest.fixture
    def speech(self) -> Speech:
        return beeps(5)
