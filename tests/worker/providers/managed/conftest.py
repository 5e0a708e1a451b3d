"""The plugin against the emulator: a proxy without extensions, and one with them."""

from __future__ import annotations

import pytest

from ..emulated.fixtures import emulator, make, no_environment, provider
from ..emulated.table import EXTENDED, MANAGED, Emulated

__all__ = ["case", "emulator", "make", "no_environment", "provider"]


@pytest.fixture(params=[MANAGED, EXTENDED], ids=["plain", "extended"])
def case(request: pytest.FixtureRequest) -> Emulated:
    entry: Emulated = request.param
    return entry
