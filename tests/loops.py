"""The event loop of the tests of the edge, the worker and the gateway: that of the programs."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import pytest
import uvloop


@pytest.hookimpl(optionalhook=True)  # of pytest-asyncio 1.4; before, they run on asyncio's loop
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Run on uvloop, like `natterjack.process.run.run_loop`."""
    return {"uvloop": uvloop.new_event_loop}
