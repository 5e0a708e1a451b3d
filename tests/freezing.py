"""Freezing a process: it stays alive and its sockets stay open, but it does nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.waiting import Countdown


def freeze(pid: int) -> None:
    """Send SIGSTOP and wait until every thread stands still; SIGCONT lets the process go on.

    The signal alone is not enough: on a busy machine another thread of the process goes on for a
    moment, and answers what was sent to it after the signal.
    Raises: AssertionError if it does not stop, ProcessLookupError if it has ended.
    """
    os.kill(pid, signal.SIGSTOP)
    countdown = Countdown(10)
    while not stands_still(pid):
        assert not countdown.expired(), f"process {pid} does not stop"
        time.sleep(0.002)  # between two looks


def stands_still(pid: int) -> bool:
    """Where there is no /proc, the signal has to do."""
    threads = Path(f"/proc/{pid}/task")
    if not threads.exists():
        return True
    return all(_state(thread) in "TtZ" for thread in threads.iterdir())


def _state(thread: Path) -> str:
    try:
        stat = (thread / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return "T"
    return stat.rpartition(")")[2].split()[0]
