"""Stopping on SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator

from natterjack.process.signals import receiving

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stopped_by_signals(before_abort: Callable[[], None]) -> Iterator[asyncio.Event]:
    """Provide an event that SIGINT and SIGTERM set.

    A second signal calls `before_abort` and ends the process at once, with 130 or 143.
    """
    stop = asyncio.Event()

    def received(number: int) -> None:
        if stop.is_set():
            before_abort()
            os._exit(128 + number)
        log.info("stopping; signal again to abort")
        stop.set()

    with receiving((signal.SIGINT, signal.SIGTERM), received):
        yield stop
