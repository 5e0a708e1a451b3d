"""The provider keeps the contract."""

from __future__ import annotations

import pytest

from ..emulated import EmulatedContract
from .conftest import SECRET


class TestDeepgram(EmulatedContract):
    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)
