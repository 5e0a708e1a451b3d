"""Fixtures for a provider and its emulator. A folder's conftest.py imports them and defines `case`,
an entry of the table."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.emulators.server import Emulator

from .table import Emulated


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment."""
    for name in list(os.environ):
        if name.startswith(("DEEPGRAM_", "MANAGED_", "SPEECHMATICS_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def emulator(case: Emulated) -> AsyncIterator[Emulator]:
    async with case.start() as emulator:
        yield emulator


@pytest.fixture
async def make(case: Emulated, emulator: Emulator) -> AsyncIterator[Any]:
    """A function that makes providers from settings. The fixture closes them."""
    made: list[Any] = []

    def make(**settings: Any) -> Any:
        made.append(case.make(emulator, **settings))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(make: Any) -> Any:
    return make()
