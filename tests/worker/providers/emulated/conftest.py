"""Each test runs once per provider that streams, unless it has a list of its own."""

from __future__ import annotations

import pytest

from .fixtures import emulator, make, no_environment, provider
from .table import STREAMING, Emulated

__all__ = ["case", "emulator", "make", "no_environment", "provider"]


@pytest.fixture(params=STREAMING, ids=str)
def case(request: pytest.FixtureRequest) -> Emulated:
    entry: Emulated = request.param
    return entry
