"""What both programs begin with."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_CANCEL_AGAIN_S = 1.0


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on uvloop where there is one: it halves what waiting costs."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.run(work)
    result: T = uvloop.run(work)
    return result


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel, and return when all have ended. Once may not be enough: Python's wait_for, in
    nats-py, swallows a cancellation that comes together with an answer."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


@contextlib.contextmanager
def needing_extra(program: str, extra: str) -> Iterator[None]:
    """Ends the process with 2 and a line that names the extra, when what is imported in the block
    needs a module that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "natterjack", "worker", "edge_capture"):
            raise  # not what an extra brings
        print(
            f"{program}: the module {missing} is missing: pip install 'natterjack[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
