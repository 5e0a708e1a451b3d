"""Fixtures of the gateway's tests: sessions in this process, workers and an emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.metrics import GatewayMetrics
from gateway.session import Sessions
from gateway.settings import GatewaySettings
from natterjack.broker.connection import Broker

from ..loops import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories
from ..worker.conftest import emulator as emulator
from ..worker.conftest import provider_settings as provider_settings
from ..worker.conftest import start_worker as start_worker


@pytest.fixture
def gateway_settings() -> GatewaySettings:
    return GatewaySettings()


@pytest.fixture
async def sessions(
    ready_broker: Broker, gateway_settings: GatewaySettings
) -> AsyncIterator[Sessions]:
    async with Sessions(ready_broker, gateway_settings, GatewayMetrics()).running() as sessions:
        yield sessions
