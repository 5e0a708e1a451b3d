"""Fixtures shared with the worker's tests, and a broker with users."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ..worker.conftest import emulator, provider_settings, start_worker
from .secured import SecuredServer, make_installation

__all__ = ["emulator", "provider_settings", "start_worker"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installation(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Path:
    """The directory of a server that has users and streams; each test runs a copy."""
    home = tmp_path_factory.mktemp("broker") / "installation"
    await make_installation(home)
    return home


@pytest.fixture
def server(installation: Path, tmp_path: Path) -> Iterator[SecuredServer]:
    """A server with the configuration of deploy/nats, TLS and users of every role."""
    home = tmp_path / "installation"
    shutil.copytree(installation, home)
    server = SecuredServer(home)
    server.start()
    yield server
    server.stop()
