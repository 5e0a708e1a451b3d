"""The plugin against the emulator."""

from __future__ import annotations

import pytest

from ..emulated.fixtures import emulator, make, no_environment, provider
from ..emulated.table import AGENT, Emulated

__all__ = ["case", "emulator", "make", "no_environment", "provider"]


@pytest.fixture
def case() -> Emulated:
    return AGENT
