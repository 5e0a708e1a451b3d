"""The provider keeps the contract."""

from __future__ import annotations

import pytest

from natterjack.emulators.deepgram.rest import DeepgramRestEmulator

from ..emulated.contract import BreakOrBlock, EmulatedContract


class TestDeepgramRest(EmulatedContract):
    lead_seconds = 0.0
    """Speech starts in the first frame, since the provider does not post silence."""

    @pytest.fixture
    def break_connection(self) -> None:
        """There is no connection between recordings; test_stream.py drops those with requests."""

    @pytest.fixture
    def block_reading(self, emulator: DeepgramRestEmulator) -> BreakOrBlock:
        async def block() -> None:
            await emulator.set(never_answers=True)

        return block
