"""The time since this machine was started, which goes on while it is suspended."""

from __future__ import annotations

import sys
import time

# CLOCK_MONOTONIC stands still in a suspension on Linux, but not on macOS.
_CLOCK = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform, "")
_AT_ONCE_S = 0.01


def boot_time() -> float:
    """Return the time since boot in seconds, suspensions included where the system counts them."""
    if hasattr(time, _CLOCK):
        return time.clock_gettime(getattr(time, _CLOCK))
    return time.monotonic()


def boot_time_and_sleep() -> tuple[float, float]:
    """Return the time since boot, and the part of it in which the machine was suspended.

    Only changes of the latter are meaningful.
    """
    while True:
        before = time.monotonic()
        now = boot_time()
        if time.monotonic() - before < _AT_ONCE_S:  # else this thread was interrupted
            return now, now - before
