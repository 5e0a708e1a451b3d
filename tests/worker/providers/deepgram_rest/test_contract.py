"""The provider keeps the contract."""

from __future__ import annotations

import pytest

from tests.emulators.deepgram_rest import DeepgramRestEmulator

from ..emulated.contract import BreakOrBlock, EmulatedContract


class TestDeepgramRest(EmulatedContract):
    lead_seconds = 0.0
    """Voice in the first frame: the provider does not post a frame of silence."""

    @pytest.fixture
    def break_connection(self) -> None:
        """Between two recordings there is no connection; see test_stream.py."""

    @pytest.fixture
    def block_reading(self, emulator: DeepgramRestEmulator) -> BreakOrBlock:
        async def block() -> None:
            await emulator.set(never_answers=True)

        return block
