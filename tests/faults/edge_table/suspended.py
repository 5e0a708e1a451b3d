"""The edge program with a clock that jumps, as that of a machine does that was suspended.

The file that SUSPENDED_SECONDS names has the seconds spent in suspension, as a double. The boot
clock and the wall clock are so far ahead; the monotonic clock stands still in suspension.
"""

from __future__ import annotations

import mmap
import os
import runpy
import struct
import time
from pathlib import Path

_AHEAD = (time.CLOCK_BOOTTIME, time.CLOCK_REALTIME)
_SECONDS = struct.Struct("d")


def write(path: Path, seconds: float) -> None:
    """Set the seconds spent in suspension."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(_SECONDS.pack(seconds))


def _install(path: str) -> None:
    with open(path, "r+b") as file:
        shared = mmap.mmap(file.fileno(), _SECONDS.size)

    def away() -> float:
        return float(_SECONDS.unpack(shared[: _SECONDS.size])[0])

    def away_ns() -> int:
        return round(away() * 1e9)

    real, real_ns = time.clock_gettime, time.clock_gettime_ns
    wall, wall_ns = time.time, time.time_ns
    time.clock_gettime = lambda clock: real(clock) + (away() if clock in _AHEAD else 0.0)
    time.clock_gettime_ns = lambda clock: real_ns(clock) + (away_ns() if clock in _AHEAD else 0)
    time.time = lambda: wall() + away()
    time.time_ns = lambda: wall_ns() + away_ns()


if __name__ == "__main__":
    _install(os.environ["SUSPENDED_SECONDS"])
    runpy.run_module("edge_capture", run_name="__main__", alter_sys=True)
