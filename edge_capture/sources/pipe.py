"""Audio from a named pipe, whose writers may come and go."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from pathlib import Path

from ..errors import SourceError
from ..input.samples import Samples
from ..settings import StdinSettings
from . import Block
from .arrival_clock import ArrivalClock
from .stdin import StdinSource

STANDARD_INPUT = Path("-")
_LINGER_S = 5.0
"""How long a pipe that has ended stays open: longer than it takes to open it for the next writer.
"""


class PipeSource(StdinSource):
    """A named pipe (FIFO), from the first bytes of a writer until all writers have closed it; or
    standard input."""

    def __init__(self, path: Path, settings: StdinSettings, block_ms: int) -> None:
        """Raises: SourceError if it is no pipe."""
        self._own: int | None = None
        self._clock: ArrivalClock | None = None
        if path == STANDARD_INPUT:
            if sys.stdin is None:
                raise SourceError("standard input is closed")
            descriptor = sys.stdin.fileno()
        else:
            descriptor = self._own = _open(path)
            self.name = str(path)
        try:
            super().__init__(descriptor, settings, None, block_ms)
        except BaseException:  # whatever it is, the descriptor is not left open
            self.close()
            raise

    def _block(self, samples: Samples) -> Block:
        block = super()._block(samples)
        if self.can_wait:
            return block
        # The clock of a writer that goes on for weeks differs from that of this machine.
        if self._clock is None:
            self._clock = ArrivalClock(self.format.sample_rate)
        self._clock.skip(block.lost_frames)
        return block._replace(time_ns=self._clock.feed(len(samples), time.time_ns()))

    def close(self) -> None:
        if hasattr(self, "_watching"):
            super().close()
        descriptor, self._own = self._own, None
        if descriptor is None:
            return
        if getattr(self, "_ended", False):
            # Another writer may have come since. While nobody has the pipe open for reading, its
            # next write would fail, and what it has written would be gone.
            asyncio.get_running_loop().call_later(_LINGER_S, os.close, descriptor)
        else:
            os.close(descriptor)


def check_pipe(path: Path) -> None:
    """Check that this is a named pipe, without opening it. Raises: SourceError."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if not stat.S_ISFIFO(mode):
        raise SourceError(f"{path} is not a named pipe (mkfifo); for a recording: kind file")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: this user may not read it")


def _open(path: Path) -> int:
    """Open a pipe without waiting for a writer. Raises: SourceError."""
    check_pipe(path)
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
