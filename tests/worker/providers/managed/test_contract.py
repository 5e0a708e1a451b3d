"""The provider keeps the contract with `extensions` set to `on`, and can finalize."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worker.providers.managed import ManagedProvider

from ..emulated.contract import EmulatedContract
from ..emulated.table import EXTENDED, Emulated


class TestFinalize(EmulatedContract):
    @pytest.fixture
    def case(self) -> Emulated:
        return EXTENDED

    @pytest.fixture
    def provider(self, make: Callable[..., ManagedProvider]) -> ManagedProvider:
        return make(extensions="on")
