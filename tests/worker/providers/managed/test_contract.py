"""The provider keeps the contract, with a proxy as it is known and with an extended one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.emulators.managed import ManagedEmulator
from worker.providers.managed import ManagedProvider

from ..emulated import EmulatedContract
from .conftest import TOKEN


class TestManaged(EmulatedContract):
    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (TOKEN,)


class TestManagedWithFinalize(TestManaged):
    @pytest.fixture
    async def emulator(self) -> AsyncIterator[ManagedEmulator]:
        async with ManagedEmulator(api_key=TOKEN, extended=True) as emulator:
            yield emulator

    @pytest.fixture
    def provider(self, make: Callable[..., ManagedProvider]) -> ManagedProvider:
        return make(extensions="on")
