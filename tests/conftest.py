"""Fixtures that everything shares: a real nats-server process, and connections to it."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings

collect_ignore = ["sample_plugin"]  # a package of its own, which test_plugins.py installs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Collect what a failed test leaves open, so that its warnings do not fail a later test."""
    failed_before = item.session.testsfailed
    result = yield
    if item.session.testsfailed > failed_before:
        for name in ("last_type", "last_value", "last_traceback"):  # keep its frames alive
            vars(sys).pop(name, None)
        hook, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__
        try:
            gc.collect()
        finally:
            sys.unraisablehook = hook
    return result


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A nats-server of this test's own, which it may kill and start again."""
    server = EmbeddedServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker_settings(nats_server: EmbeddedServer) -> BrokerSettings:
    return BrokerSettings(url=nats_server.url)


@pytest.fixture
async def broker(broker_settings: BrokerSettings) -> AsyncIterator[Broker]:
    """A connection, with no streams made yet."""
    async with connected(broker_settings, name="test", once=True) as broker:
        yield broker


@pytest.fixture
async def ready_broker(broker: Broker) -> Broker:
    """A connection to a broker on which the streams are made."""
    await ensure(broker, StreamSettings())
    return broker
