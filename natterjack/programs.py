"""What both programs begin with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
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
