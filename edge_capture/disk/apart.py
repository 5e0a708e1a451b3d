"""Disk operations that take long and need no order, such as reading a whole directory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def apart(work: Callable[[], T]) -> T:
    """Do blocking `work` in a thread of its own. Raises what it raises.

    The thread does not keep the process from ending, unlike one of `asyncio.to_thread`, because a
    disk that hangs may never answer.

    If this is cancelled, the work goes on.
    """
    task, done = answered(work)
    threading.Thread(target=task, name="disk", daemon=True).start()
    return await done


def answered(work: Callable[[], T]) -> tuple[Callable[[], None], asyncio.Future[T]]:
    """Return a function that does `work` in any thread, and the future of what it returns or
    raises, in the event loop that runs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def answer(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # None is a result of `work`, too

    def task() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - it is raised in the event loop
            error = raised
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(answer, result, error)

    return task, done
