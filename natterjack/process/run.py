"""A program's event loop, its tasks, and how a connection is cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_CANCEL_INTERVAL_S = 1.0


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` like `asyncio.run`, on uvloop if it is installed.

    uvloop halves the CPU time that idle waiting costs.
    """
    try:
        import uvloop
    except ImportError:  # not available for Windows
        return asyncio.run(main)
    result: T = uvloop.run(main)
    return result


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and return when all of them have ended.

    A task is canceled again each second: other projects' code may drop a cancellation.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_INTERVAL_S)


def abort(transport: asyncio.WriteTransport) -> None:
    """Cut a connection at once, whatever is left to be sent. Idempotent.

    Up to Python 3.11.3, asyncio's transport for TLS raises AttributeError if it was closed twice,
    which libraries do when a connection is lost. It is cut then.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()
