"""Progress of a command that waits: the seconds so far on a terminal, else one line at the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

from natterjack.process.run import end_tasks
from natterjack.process.terminal import plain, rewritable, size, start

_DRAW_S = 0.2
_CLEAR = "\r\x1b[K"


@contextlib.asynccontextmanager
async def step(
    name: str, doing: Callable[[], str] = lambda: "", *, shown: bool = True
) -> AsyncIterator[None]:
    """Show that `name` is awaited in the block, and how long that took.

    `doing` returns what it does just now, in words, such as the last line of its log.
    """
    begin = time.monotonic()
    live = shown and rewritable(sys.stdout)
    drawing = asyncio.create_task(_draw(name, doing, begin), name="progress") if live else None
    try:
        yield
    finally:
        if drawing is not None:
            await end_tasks({drawing})
            _write(_CLEAR)
    if shown:
        _write(f"{name} is ready after {time.monotonic() - begin:.1f} s\n")


async def _draw(name: str, doing: Callable[[], str], begin: float) -> None:
    while True:
        what = plain(doing())
        text = f"{name}: {what} ... {time.monotonic() - begin:.0f} s" if what else (
            f"{name} ... {time.monotonic() - begin:.0f} s"
        )  # fmt: skip
        _write(f"{_CLEAR}{start(text, size(sys.stdout)[0] - 1)}")
        await asyncio.sleep(_DRAW_S)


def _write(text: str) -> None:
    """Write to standard output, or not if nobody reads it any more."""
    with contextlib.suppress(OSError):
        sys.stdout.write(text)
        sys.stdout.flush()
