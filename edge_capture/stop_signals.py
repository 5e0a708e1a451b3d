"""Stopping on SIGINT, SIGTERM and SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator

from natterjack.process.signals import receiving, stop_signals

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stopped_by_signals(
    before_abort: Callable[[], None],
    *,
    at_once: bool = False,
    reload: Callable[[], None] | None = None,
) -> Iterator[asyncio.Event]:
    """Provide an event that SIGINT, SIGTERM and SIGHUP set. With `reload`, SIGHUP calls that.

    A second SIGINT or SIGTERM, or the first signal if `at_once`, calls `before_abort` and ends the
    process at once, with 130 or 143.
    """
    stop = asyncio.Event()

    def received(number: int) -> None:
        if reload is not None and number == getattr(signal, "SIGHUP", None):
            reload()
            return
        if at_once:
            before_abort()
            os._exit(128 + number)
        if not stop.is_set():
            log.info("stopping; signal again to abort")
            stop.set()
        elif number in (signal.SIGINT, signal.SIGTERM):  # a closed terminal may send two SIGHUP
            before_abort()
            os._exit(128 + number)

    with receiving(stop_signals(), received):
        yield stop
