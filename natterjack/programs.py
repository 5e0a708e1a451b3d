"""What both programs begin with."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on uvloop where there is one: it halves what waiting costs."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.run(work)
    result: T = uvloop.run(work)
    return result


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
