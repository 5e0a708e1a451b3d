"""A thread for the disk operations of one directory, which says when the disk does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from natterjack.telemetry.log import fields

log = logging.getLogger(__name__)

HUNG_S = 3.0
"""A disk that takes longer for one operation is said not to answer."""
_WATCH_S = 5.0
"""How often the thread looks whether the event loop waits for the disk."""


class DiskThread:
    """Does what takes long on a disk, in order.

    The thread does not keep the process from ending, because a disk that hangs may never answer.
    It also watches what the event loop does on the disk itself.
    """

    def __init__(self, setting: str, directory: Path) -> None:
        """`setting` names the directory in messages."""
        self.hung = False
        """Whether an operation has not been answered in time. Then no other may be tried."""
        self.on_hung: Callable[[], None] = _nothing
        """Called in the event loop when the disk does not answer an operation of the thread."""
        self._setting, self._directory = setting, directory
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._called: float | None = None
        """Since when the event loop waits for the disk, on the monotonic clock."""
        self._told = False
        """Whether it was said that the event loop waits."""
        self._hangs = asyncio.Event()
        self._began = 0.0
        """When the operation began that is not answered, on the monotonic clock."""

    async def run(self, work: Callable[[], object]) -> None:
        """Do blocking `work`. Raises: OSError, and whatever else it raises.

        If this is cancelled, the work is done nevertheless.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def answer(error: BaseException | None) -> None:
            self._answered()
            if done.cancelled():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def task() -> None:
            error = None
            try:
                work()
            except BaseException as raised:  # noqa: BLE001 - it is raised in the event loop
                error = raised
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(answer, error)

        self._start()
        timer = loop.call_later(HUNG_S, self._late, time.monotonic())
        self._work.put(task)
        try:
            await done
        finally:
            timer.cancel()

    def later(self, work: Callable[[], None]) -> None:
        """Do `work`, which raises nothing, after all that was asked for before."""
        self._start()
        self._work.put(work)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Have the thread say it if the block, in the event loop, waits for the disk."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Say that the event loop begins to use the disk, which is to take no time."""
        self._called = time.monotonic()

    def leave(self) -> None:
        """Say that it has done so."""
        began, self._called = self._called, None
        if self._told and began is not None:
            self._told = False
            self._say_again(began)

    async def or_hung(self, work: asyncio.Task[None]) -> bool:
        """Wait until `work` is done or the disk hangs. Returns whether it is done."""
        hangs = asyncio.ensure_future(self._hangs.wait())
        await asyncio.wait((work, hangs), return_when=asyncio.FIRST_COMPLETED)
        hangs.cancel()
        return work.done()

    def close(self) -> None:
        """End the thread after its work, without waiting if the disk does not answer."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._work.put(None)
            if not self.hung:
                thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._loop, name=self._setting.lower(), daemon=True
            )
            self._thread.start()

    def _loop(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_WATCH_S)
            except queue.Empty:
                self._watch()
                continue
            if work is None:
                return
            work()

    def _watch(self) -> None:
        called = self._called
        if called is not None and not self._told and time.monotonic() - called > HUNG_S:
            self._told = True
            self._say("nothing is captured until it does")

    def _late(self, began: float) -> None:
        if self.hung:
            return
        self.hung, self._began = True, began
        self._hangs.set()
        self._say("audio is kept in memory until it does")
        self.on_hung()

    def _answered(self) -> None:
        if self.hung:
            self.hung = False
            self._hangs.clear()
            self._say_again(self._began)

    def _say(self, effect: str) -> None:
        log.error(
            "%s: the disk does not answer: %s; see whether its mount or its device is well, or "
            "choose another directory",
            self._setting,
            effect,
            extra=fields(directory=str(self._directory)),
        )

    def _say_again(self, began: float) -> None:
        log.warning(
            "%s: the disk answers again after %.1f s",
            self._setting,
            time.monotonic() - began,
            extra=fields(directory=str(self._directory)),
        )


def _nothing() -> None:
    pass
