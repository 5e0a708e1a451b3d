"""The edge program with a clock that jumps, as that of a machine does that was suspended.

The file that SUSPENDED_SECONDS names has two doubles. The first is the time spent in suspension:
the boot clock and the wall clock are so far ahead; the monotonic clock stands still in suspension.
The second is the time by which somebody has set the wall clock ahead, or back if negative.

At SIGUSR1 it writes what each of its threads does into a file beside that one.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import runpy
import signal
import struct
import time
from pathlib import Path

_AHEAD = (time.CLOCK_BOOTTIME, time.CLOCK_REALTIME)
_SECONDS = struct.Struct("dd")
SHOW_STACKS = signal.SIGUSR1


def write(path: Path, seconds: float, ahead: float = 0.0) -> None:
    """Set the seconds spent in suspension, and those by which the wall clock was set ahead."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(_SECONDS.pack(seconds, ahead))


def stacks_of(clock: Path, pid: int) -> Path:
    """The file in which a process whose clock is in this file writes its stacks."""
    return clock.with_name(f"stacks-{pid}")


def _install(path: str) -> None:
    with open(path, "r+b") as file:
        shared = mmap.mmap(file.fileno(), _SECONDS.size)

    def away(clock: int) -> float:
        slept, ahead = _SECONDS.unpack(shared[: _SECONDS.size])
        return float(slept + ahead if clock == time.CLOCK_REALTIME else slept)

    def away_ns(clock: int) -> int:
        return round(away(clock) * 1e9)

    real, real_ns = time.clock_gettime, time.clock_gettime_ns
    wall, wall_ns = time.time, time.time_ns
    time.clock_gettime = lambda clock: real(clock) + (away(clock) if clock in _AHEAD else 0.0)
    time.clock_gettime_ns = lambda clock: (
        real_ns(clock) + (away_ns(clock) if clock in _AHEAD else 0)
    )
    time.time = lambda: wall() + away(time.CLOCK_REALTIME)
    time.time_ns = lambda: wall_ns() + away_ns(time.CLOCK_REALTIME)


if __name__ == "__main__":
    _install(os.environ["SUSPENDED_SECONDS"])
    stacks = stacks_of(Path(os.environ["SUSPENDED_SECONDS"]), os.getpid()).open("w")
    faulthandler.register(SHOW_STACKS, stacks)
    runpy.run_module("edge_capture", run_name="__main__", alter_sys=True)
