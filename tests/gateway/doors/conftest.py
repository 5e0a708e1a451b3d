"""Fixtures of the doors' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer

from .house import House


@pytest.fixture
async def house(
    tmp_path: Path, nats_server: EmbeddedServer, ready_broker: Broker
) -> AsyncIterator[House]:
    """An installation of which the test starts the parts that it needs."""
    house = House(tmp_path, nats_server.url)
    yield house
    await house.close()
